"""The parser of the commands, and the options that are settings.

Imports nothing that is slow: see wsdan/cli.py.
"""

import argparse
import dataclasses
import difflib
import importlib.metadata
from collections.abc import Iterable
from types import ModuleType

from wsdan.config import GROUPS, TEXTS, Config, value_type
from wsdan.errors import UserError
from wsdan.recipes import RECIPES
from wsdan.validation import option_name

METAVARS = {int: "N", float: "X", str: "NAME"}


class _Parser(argparse.ArgumentParser):
    """Raises UserError, a message of one line, instead of printing the usage.

    Options are not abbreviated: a new one would change the meaning of an old command.
    """

    def __init__(self, **options):
        super().__init__(**options, allow_abbrev=False)

    def print_help(self, file=None) -> None:
        """Print the help; argparse would pass over what cannot be written."""
        print(self.format_help(), end="", file=file)

    def error(self, message: str):
        raise UserError(f"{message} (see `{self.prog} --help`)")


class _Command(_Parser):
    """The parser of one command, which names the closest of its options to an unknown one."""

    def parse_known_args(self, args=None, namespace=None):
        known = self._option_string_actions
        for argument in args:
            option, _, value = argument.partition("=")
            if argument == "--":
                break
            if value == "--":  # argparse makes an empty list of it
                self.error(f"argument {option}: expected a value, got '--'")
            if option.startswith("--") and " " not in option and option not in known:
                self.error(f"there is no option {option}{_nearest(option, known)}")
        namespace, others = super().parse_known_args(args, namespace)
        if others:
            hint = _nearest("-" + others[0], known) if others[0].startswith("-") else ""
            self.error(f"unrecognized arguments: {' '.join(others)}{hint}")
        return namespace, others


def _nearest(option: str, known: Iterable[str]) -> str:
    """The end of a message on an unknown option: those that begin so, or else the most similar."""
    near = [name for name in known if name.startswith(option)]
    near = near or difflib.get_close_matches(option, known, n=1)
    return f"; did you mean {' or '.join(near[:3])}?" if near else ""


class _Version(argparse.Action):
    """Prints the installed version; argparse's own action wants it before it is asked for."""

    def __init__(self, option_strings: list[str], dest: str, help: str):
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        try:
            version = importlib.metadata.version("wsdan")
        except importlib.metadata.PackageNotFoundError:
            version = "(not installed)"
        print(f"{parser.prog} {version}")
        parser.exit()


def build_parser(commands: dict[str, ModuleType]) -> argparse.ArgumentParser:
    """The parser of all commands, whose name it gives as `command`; see wsdan/commands.

    Its `parse_args` raises UserError for a mistake.
    """
    parser = _Parser(prog="wsdan", description="Train and run WS-DAN fine-grained classifiers.")
    parser.add_argument("--version", action=_Version, help="print the version and end")
    parsers = parser.add_subparsers(
        title="commands",
        metavar="COMMAND",
        dest="command",
        required=True,
        parser_class=_Command,
    )
    for name, command in commands.items():
        command.add_options(parsers.add_parser(name, help=command.HELP))
    return parser


def add_settings(parser: argparse.ArgumentParser) -> None:
    """One option for each field of Config; what is not given stays out of the namespace."""
    group = parser
    for item in dataclasses.fields(Config):
        if item.name in GROUPS:
            group = parser.add_argument_group(GROUPS[item.name])
        _add_option(group, item, argparse.SUPPRESS, _help(item))


def add_setting_options(parser: argparse.ArgumentParser, *names: str) -> None:
    """Settings that replace those of a checkpoint; None where they are not given."""
    fields = {item.name: item for item in dataclasses.fields(Config)}
    for name in names:
        _add_option(parser, fields[name], None, fields[name].metadata["help"])


def _add_option(parser, item: dataclasses.Field, default: str | None, text: str) -> None:
    """The option of a setting."""
    kind, choices = value_type(item), item.metadata["choices"]
    how = {"action": argparse.BooleanOptionalAction}
    if kind is not bool:
        metavar = None if choices else item.metadata["metavar"] or METAVARS[kind]
        read, _ = TEXTS.get(item.name, (kind, ""))
        how = {"type": read, "choices": choices, "metavar": metavar}
    parser.add_argument(option_name(item.name), default=default, help=text, **how)


def _help(item: dataclasses.Field) -> str:
    """What a setting is, and its default: those of the recipes where it has several."""
    text = item.metadata["help"]
    if item.name in RECIPES["paper"]:
        values = {name: recipe[item.name] for name, recipe in RECIPES.items()}
        ours = values.pop("paper")
        others = [f"{name}: {value}" for name, value in values.items() if value != ours]
        return f"{text} (default: {'; '.join([str(ours), *others])})"
    if item.default is None or value_type(item) is bool:
        return text
    return f"{text} (default: {item.default})"
