"""The options of the commands. Imports nothing that is slow: see wsdan/cli.py."""

import argparse
import dataclasses
import difflib
import importlib.metadata
from collections.abc import Callable, Iterable

from wsdan.config import DEVICES, GROUPS, ORIGINS, RECIPES, Config, value_type
from wsdan.errors import UserError
from wsdan.validation import image_size, option_name

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


def build_parser(run: dict[str, Callable[[dict], None]]) -> argparse.ArgumentParser:
    """The parser of all commands; `run` is what each of them does with its options, by name.

    Its `parse_args` raises UserError for a mistake.
    """
    parser = _Parser(prog="wsdan", description="Train and run WS-DAN fine-grained classifiers.")
    parser.add_argument("--version", action=_Version, help="print the version and end")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=_Command
    )
    train = commands.add_parser(
        "train", help="train and evaluate; without options on the embedded dataset, in minutes"
    )
    train.add_argument(
        "folder", nargs="?", metavar="DIR", help="the dataset's folder, as --root; see --data"
    )
    _add_settings(train)
    train.add_argument("--config", metavar="FILE", help="YAML of settings; options override it")
    train.set_defaults(run=run["train"])

    evaluate = commands.add_parser("eval", help="accuracy of a checkpoint")
    _add_checkpoint(evaluate)
    _add_evaluation(evaluate)
    evaluate.set_defaults(run=run["eval"])

    predict = commands.add_parser(
        "predict", help="classify images: the top 5 classes and the object's box"
    )
    _add_checkpoint(predict)
    _add_options(predict, "refine_threshold", "refine_padding")
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    predict.add_argument("--json", action="store_true", help="print one JSON object per line")
    predict.add_argument(
        "--figure", metavar="DIR", help="save a figure of each image's views there, as NAME.png"
    )
    predict.set_defaults(run=run["predict"])

    conversion = commands.add_parser(
        "convert", help="convert a checkpoint of WS-DAN.PyTorch, CAL or WS_DAN_PyTorch"
    )
    _add_conversion(conversion)
    conversion.set_defaults(run=run["convert"])

    info = commands.add_parser("info", help="versions, devices, and which backends can run")
    info.set_defaults(run=run["info"])
    return parser


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="last.pt or best.pt")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="device to run on")
    parser.add_argument(
        "--raw-weights",
        action="store_true",
        help="use the trained weights instead of their moving average (--ema)",
    )
    parser.add_argument(
        "--max-pixels", type=int, metavar="N", help="pixels of the largest image that is decoded"
    )


def _add_evaluation(parser: argparse.ArgumentParser) -> None:
    """Options of `wsdan eval`; settings not given are those of the checkpoint."""
    names = ("data", "root", "image_size", "batch_size", "workers", "precision", "final", "tta")
    _add_options(parser, *names, "refine_threshold", "refine_padding")
    parser.add_argument(
        "--skip-bad-images", action="store_true", help="skip unreadable images and count them"
    )
    parser.add_argument(
        "--per-class", action="store_true", help="print the accuracy of each class, worst first"
    )
    parser.add_argument("--confusion", metavar="FILE", help="write the confusion matrix as csv")
    parser.add_argument(
        "--errors",
        metavar="FILE",
        help="write each wrong image as csv: path, truth, prediction, probabilities",
    )
    parser.add_argument("--json", action="store_true", help="all numbers as one JSON object")


def _add_conversion(parser: argparse.ArgumentParser) -> None:
    """Options of `wsdan convert`."""
    parser.add_argument("source", metavar="SOURCE", help="their checkpoint")
    parser.add_argument("--out", required=True, metavar="FILE", help="the file to write")
    parser.add_argument(
        "--classes", metavar="FILE", help="class names, one per line, or CUB's classes.txt"
    )
    parser.add_argument(
        "--image-size",
        type=image_size,
        metavar="N",
        help="side or HEIGHTxWIDTH of its training images, which SOURCE does not tell "
        "(default: 448)",
    )
    parser.add_argument(
        "--origin", choices=ORIGINS, help="the code that wrote SOURCE, where the file does not tell"
    )


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """One option for each field of Config; what is not given stays out of the namespace."""
    group = parser
    for item in dataclasses.fields(Config):
        if item.name in GROUPS:
            group = parser.add_argument_group(GROUPS[item.name])
        _add_option(group, item, argparse.SUPPRESS, _help(item))


def _add_options(parser: argparse.ArgumentParser, *names: str) -> None:
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
        read = image_size if item.name == "image_size" else kind
        how = {"type": read, "choices": choices, "metavar": metavar}
    parser.add_argument(option_name(item.name), default=default, help=text, **how)


def _help(item: dataclasses.Field) -> str:
    """What a setting is, and its default: that of the data's recipe where it has one."""
    text = item.metadata["help"]
    if item.name in RECIPES["paper"]:
        ours, embedded = RECIPES["paper"][item.name], RECIPES["synthetic"][item.name]
        return f"{text} (default: {ours}; embedded dataset: {embedded})"
    if item.default is None or value_type(item) is bool:
        return text
    return f"{text} (default: {item.default})"
