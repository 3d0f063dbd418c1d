"""Settings from YAML: lines `name: value` only, read from the parser's events."""

import os
from pathlib import Path

import yaml

from wsdan.errors import UserError, one_line, shown
from wsdan.validation import check_file

YAML_LIMIT = 10**6  # bytes of a configuration file


def load_yaml(path: str | Path, option: str = "--config") -> dict:
    """The name: value pairs of a configuration file, which `option` names; `from_dict` checks them.

    Raises UserError for a file that cannot be read, or holds more than lines `name: value`.
    """
    check_file(option, path)
    try:
        if os.path.getsize(path) > YAML_LIMIT:
            raise UserError(f"{option}: {path} has more than {YAML_LIMIT} bytes")
        return _pairs(Path(path).read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise UserError(f"{option}: cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{option}: {path} is not YAML: {one_line(error)}") from None


def _pairs(text: str, path: str) -> dict:
    """The pairs of a document, from its events: so nothing is nested, aliased or tagged."""
    loader = yaml.SafeLoader(text)
    values: dict = {}
    while not loader.check_event(yaml.MappingStartEvent):
        event = loader.get_event()
        if isinstance(event, yaml.StreamEndEvent):
            return values
        if isinstance(event, (yaml.SequenceStartEvent, yaml.ScalarEvent, yaml.AliasEvent)):
            if isinstance(event, yaml.ScalarEvent) and event.value == "":
                continue  # a file of comments only
            raise UserError(f"{path}: expected `name: value` lines, got other YAML")
    loader.get_event()
    while not loader.check_event(yaml.MappingEndEvent):
        key, event = loader.get_event(), loader.get_event()
        for part in (key, event):
            if not isinstance(part, yaml.ScalarEvent) or part.tag or part.anchor:
                where = f"{path}, line {part.start_mark.line + 1}"
                raise UserError(f"{where}: expected `name: value`, a number, a word or text")
        where = f"{path}, line {key.start_mark.line + 1}"
        if key.value in values:
            raise UserError(f"{where}: {shown(key.value)} is set twice")
        values[key.value] = _scalar(loader, event, where)
    loader.get_event()
    if not loader.check_event(yaml.DocumentEndEvent):
        raise UserError(f"{path}: expected `name: value` lines, got other YAML")
    loader.get_event()
    if not loader.check_event(yaml.StreamEndEvent):
        raise UserError(f"{path}: holds several documents; expected one")
    return values


def _scalar(loader: yaml.SafeLoader, event: yaml.ScalarEvent, where: str) -> object:
    """The value of a scalar, as YAML reads it."""
    tag = loader.resolve(yaml.ScalarNode, event.value, event.implicit)
    try:
        return loader.construct_object(yaml.ScalarNode(tag, event.value))
    except ValueError:  # a date such as 2020-13-45, or a number of over 4300 digits
        raise UserError(f"{where}: cannot take {shown(event.value)}") from None
