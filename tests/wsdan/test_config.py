"""Settings from the command line and from YAML: what no value, name or file may be."""

import dataclasses
import os

import pytest
from runs import refused

from wsdan.cli import main
from wsdan.config import Config, value_type
from wsdan.errors import LONGEST_VALUE, UserError, one_line
from wsdan.validation import option_name
from wsdan.yaml_files import load_yaml

FLOATS = [item.name for item in dataclasses.fields(Config) if value_type(item) is float]
INTS = [item.name for item in dataclasses.fields(Config) if value_type(item) is int]
TEXTS = ["root", "weights", "out", "backbone"]


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e39", "1e999"])
@pytest.mark.parametrize("name", FLOATS)
def test_a_float_is_a_finite_number(name, value, tmp_path, capsys):
    error = refused(capsys, "train", f"{option_name(name)}={value}")
    assert f"{option_name(name)} must be a finite number, at most 3.4e+38; got " in error
    path = tmp_path / "a.yaml"
    path.write_text(f"{name}: {value.replace('inf', '.inf').replace('nan', '.nan')}\n")
    assert "must be a finite number" in refused(capsys, "train", "--config", path)


@pytest.mark.parametrize("value", [2**63, 10**20, 10**24, 10**4000, 16**5000], ids="abcde")
@pytest.mark.parametrize("name", INTS)
def test_an_int_has_a_limit(name, value, tmp_path, capsys):
    path = tmp_path / "a.yaml"
    path.write_text(f"{name}: {value:#x}\n")
    error = refused(capsys, "train", "--config", path)
    assert f"{option_name(name)} must be " in error
    assert len(error) < 2 * LONGEST_VALUE + 100
    if value < 10**4000:
        assert "must be " in refused(capsys, "train", option_name(name), value)


@pytest.mark.parametrize("name", TEXTS)
def test_text_is_a_possible_name(name, tmp_path, capsys):
    path = tmp_path / "a.yaml"
    for text in (r"a\0b", r"\ud800", r"a\udc7fb"):
        path.write_text(f'{name}: "{text}"\n')
        error = refused(capsys, "train", "--config", path)
        assert "holds a character that no file's name can hold" in error


YAML = {
    "a date that is none": ("epochs: 2020-13-45", "cannot take '2020-13-45'"),
    "a date": ("epochs: 2020-12-24", "epochs must be of type int, got a date"),
    "a time": ("root: 2020-12-24 99:99:99", "cannot take"),
    "a tag": ("lr: !!python/object/apply:os.system ['echo harm']", "line 1: expected"),
    "a tag of a scalar": ("seed: !!int x", "line 1: expected"),
    "bytes": ("root: !!binary AA==", "line 1: expected"),
    "digits": (f"epochs: {'9' * 5000}", "cannot take '999"),
    "levels": ("epochs: " + "[" * 5000, "line 1: expected"),
    "levels of mappings": ("epochs: " + "{a: " * 5000, "line 1: expected"),
    "levels of lines": ("\n".join(" " * i + "a:" for i in range(900)), "line 2: expected"),
    "an alias": ("lr: &a 1\nbeta: *a", "line 1: expected"),
    "a merge": ("<<: 1\n", "unknown setting '<<'"),
    "an alias bomb": (
        "a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [*a, *a, *a]\n" for i in range(20)),
        "line 1: expected",
    ),
    "a list": ("- 1", "expected `name: value` lines"),
    "a word": ("word", "expected `name: value` lines"),
    "two documents": ("lr: 1\n---\nlr: 2", "holds several documents"),
    "a setting twice": ("lr: 1\nlr: 2", "line 2: 'lr' is set twice"),
    "a list as a name": ("? [a]\n: 1", "line 1: expected"),
    "NUL": ("root: a\0b", "is not YAML"),
    "not UTF-8": (b"root: \xff\xfe", "is not YAML"),
    "a long name": ("x" * 900 + ": 1", "unknown setting 'xxx"),
    "long text": (f"epochs: {'x ' * 900}", "must be of type int, got 'x x"),
    "a typo": ("batchsize: 3", "unknown setting 'batchsize'; the nearest is batch_size"),
    "open": ("a: [", "line 1: expected"),
    "a control character": ("root: a\x1b[0m", "is not YAML"),
    "a tab": ("\tlr: 1", "is not YAML"),
    "endless": ("#" * 1_000_001, "has more than 1000000 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", YAML)
def test_yaml_that_is_no_settings(case, tmp_path, capsys):
    text, expected = YAML[case]
    path = tmp_path / "a.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    error = refused(capsys, "train", "--config", path)
    assert expected in error
    assert len(error) < LONGEST_VALUE + 300


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "--- {}\n", "{}"])
def test_yaml_without_settings(text, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    assert load_yaml(tmp_path / "a.yaml") == {}


def test_yaml_keeps_its_types(tmp_path):
    (tmp_path / "a.yaml").write_text("a: 1\nb: 1.5\nc: true\nd: null\ne: 1e-3\n'f': \"\\xE9\"\n")
    values = {"a": 1, "b": 1.5, "c": True, "d": None, "e": "1e-3", "f": "\xe9"}
    assert load_yaml(tmp_path / "a.yaml") == values


def test_a_pipe_is_no_configuration(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    error = refused(capsys, "train", "--config", tmp_path / "pipe")
    assert "is no regular file" in error
    assert "is no regular file" in refused(capsys, "train", "--config", "/dev/zero")
    assert "is no regular file" in refused(capsys, "eval", "--checkpoint", tmp_path / "pipe")


@pytest.mark.parametrize("command", ["train", "eval", "predict", "convert"])
def test_no_option_is_abbreviated(command, capsys):
    """Each option less its last character is refused, with the whole of it."""
    assert main([command, "--help"]) == 0
    options = {word.strip(",[]") for word in capsys.readouterr().out.split() if word[:2] == "--"}
    short = {option[:-1] for option in options} - options
    assert len(short) > 2
    for option in short:
        error = refused(capsys, command, option, "1")
        assert f"there is no option {option}; did you mean {option}" in error
        assert f"(see `wsdan {command} --help`)" in error


def test_a_message_is_one_short_line():
    assert one_line("a\nb\x1b\udcff") == r"a\nb\x1b\udcff"
    assert one_line("a " + "x" * 5000 + " b").count("x") < LONGEST_VALUE
    assert len(one_line("a " * 5000)) < 2100
    with pytest.raises(UserError, match="--seed must be at most"):
        Config(seed=2**64).resolved()
