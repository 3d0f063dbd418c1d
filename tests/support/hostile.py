"""Every option of every command and every key of YAML, with values that no user means.

    python tests/support/hostile.py [--every N] [--first N]

Runs the cases in this process, training but for its epochs, and prints those that do not end as
they should within ten seconds: with status 0, with status 2 and one short line on stderr, or with
status 1 and short lines on images that cannot be read.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from PIL import Image

from wsdan.checkpoint import save_checkpoint
from wsdan.cli import COMMANDS, main
from wsdan.config import Config
from wsdan.data import loaders
from wsdan.data.synthetic import CLASSES
from wsdan.networks.model import build_model
from wsdan.parser import build_parser

LIMIT = 10  # seconds
NUMBERS = [
    "-1", "0", "1", "2", "-0", "1_0", "1e3", "1.5", "0x10", "0b11", "0o17", "017", "1:30:00",
    "2147483647", "2147483648", str(2**63), str(2**64), "-" + str(2**64), str(10**20),
    str(10**24), "9" * 400, "9" * 5000, "-" + "9" * 5000, hex(16**5000), "\u0663", "\u00b2",
    "nan", "NaN", "-nan", ".nan", "inf", "-inf", ".inf", "Infinity", "1e999", "-1e999", "1e39",
    "3.4e38", "5e-324", "1e-400", "1e99999999999", "1+1j", "1/3", "1,5", "10%",
]  # fmt: skip
TEXTS = [
    "", " ", "x", "true", "no", "null", "None", "~", "[]", "{}", "[1, 2]", "{a: 1}", "'", '"', ":",
    "::", "#", "@", "`", "!", "*a", "&a 1", "!!int x", "!!binary x", "!!python/none", "<<", "=",
    "|", ">", "- 1", "? x", "2020-12-24", "2020-13-45", "2020-12-24 99:99:99", "%s", "{0}",
    "$(x)", "a\nb", "a\tb", "a\rb", "\x1b[31mred", "\x7f", "\u2028", "\ufeff", "a\0b", "\ud800",
    "\udcff", "\udce9.csv", "\u00e9", "\u65e5\u672c", "\U0001f98b", "x" * 201, "x" * 300,
    "x" * 70_000, "x " * 5000, "[" * 5000, "{a: " * 5000, "'" * 5001, "-", "--", "---", "-x", "--x",
]  # fmt: skip
PATHS = [
    "memory://", "memory://none", "file:///proc/none", "x://y", "://", "s3:/b",
    ".", "d", "f.txt", "a.pt", "a.png", "pipe", "loop", "gone/x", "f.txt/x", "d/new", "../" * 2000,
    "/dev/null", "/dev/zero", "/dev/full", "/dev/null/x", "/proc/self/mem", "/proc/x", "a.pt:x",
    "timm/x", "timm/", "tiny:x", "resnet18:x", "resnet18:layer4:15", ":", "448x224", "0x0", "x448",
    "448x", "32x32x32", "1e2x32", "32X64",
]  # fmt: skip
VALUES = [*NUMBERS, *TEXTS, *PATHS]
BASE = {  # a run that opens at once
    "image_size": 32, "num_attentions": 4, "batch_size": 2, "epochs": 1, "device": "cpu",
    "log_images": 1,
}  # fmt: skip
METRICS = {"raw": 0.0, "raw_top5": 0.0, "images": 1, "bad": 0}


class Case(NamedTuple):
    """Arguments of the program, and the text of a.yaml or None."""

    arguments: list[str]
    yaml: str | None = None


def cases() -> Iterator[Case]:
    """All cases; the options are those that the parser has."""
    base = {
        "train": ["--" + name.replace("_", "-") + f"={value}" for name, value in BASE.items()],
        "eval": ["--checkpoint=a.pt"],
        "report": ["--checkpoint=a.pt", "--out=report.html", "--overwrite"],
        "predict": ["--checkpoint=a.pt", "a.png"],
        "serve": ["--checkpoint=a.pt", "--port=0"],
        "explain": ["--checkpoint=a.pt", "--out=e", "--overwrite", "a.png"],
        "export": [
            "--checkpoint=a.pt",
            "--format=safetensors",
            "--out=new.safetensors",
            "--overwrite",
        ],
        "convert": ["f.txt", "--out=new.pt"],
        "reproduce": ["cub", "--root=d", "--image-size=32", "--backbone=tiny", "--no-pretrained"],
    }
    for command, parser in _commands().items():
        arguments = base.get(command, [])
        for value in VALUES:
            yield Case([command, *arguments, value])
        for action in parser._actions:
            for option in action.option_strings:
                yield Case([command, *arguments, option])
                if action.nargs != 0:
                    yield from (Case([command, *arguments, f"{option}={x}"]) for x in VALUES)
    for value in VALUES:
        yield Case([value])
    for item in fields(Config):
        others = {name: value for name, value in BASE.items() if name != item.name}
        text = "".join(f"{name}: {value}\n" for name, value in others.items())
        for value in VALUES:
            for written in dict.fromkeys((value, json.dumps(value))):
                yield Case(["train", "--config=a.yaml"], f"{text}{item.name}: {written}\n")


def _commands() -> dict[str, argparse.ArgumentParser]:
    parser = build_parser(COMMANDS)
    (action,) = (x for x in parser._actions if isinstance(x, argparse._SubParsersAction))
    return action.choices


@contextlib.contextmanager
def playground() -> Iterator[None]:
    """A folder of few files as the present one, training without its epochs, no server."""
    before = Path.cwd()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(mock.patch.object(loaders, "SYNTHETIC_TRAIN", 2))
        stack.enter_context(mock.patch.object(loaders, "SYNTHETIC_VAL", 2))
        stack.enter_context(mock.patch("wsdan.training.loop.train_epochs", return_value=METRICS))
        stack.enter_context(mock.patch("wsdan.inference.plots.folder.write_plots"))  # slow
        if importlib.util.find_spec("uvicorn") is not None:  # else `wsdan serve` asks for it
            stack.enter_context(mock.patch("wsdan.serving.server.serve", return_value=0))
        (folder / "d").mkdir()
        (folder / "f.txt").write_text("text\n")
        os.mkfifo(folder / "pipe")
        (folder / "loop").symlink_to(folder / "loop")
        Image.new("RGB", (40, 30)).save(folder / "a.png")
        stack.enter_context(mock.patch("sys.stdin", io.TextIOWrapper(io.BytesIO())))
        config = Config(**BASE).resolved()
        state = {"model": build_model(config, len(CLASSES)).state_dict()}
        save_checkpoint(folder / "a.pt", config, list(CLASSES), state)
        os.chdir(folder)
        stack.callback(os.chdir, before)
        yield


class TooLong(BaseException):
    """A case ran for LIMIT seconds. No Exception: the program must not catch it."""


def finding(case: Case) -> str | None:
    """What is wrong with the end of a case, run in the `playground`; None if nothing is."""
    if case.yaml is not None:
        Path("a.yaml").write_bytes(case.yaml.encode("utf-8", "surrogatepass"))
    out, errors = io.StringIO(), io.StringIO()
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LIMIT)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            status = main(case.arguments)
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    except TooLong:
        return f"longer than {LIMIT} s"
    finally:
        signal.alarm(0)
    text = errors.getvalue()
    told = all(line.startswith("wsdan: ") and len(line) < 2100 for line in text.splitlines())
    if status == 1 and text.startswith("wsdan: error: ") and told:
        return None  # an image that cannot be read
    if status == 0:
        return f"status 0, stderr {text[:300]!r}" if "Traceback" in text else None
    long = re.search(r"\S{211,}", text)  # a value of 200 with quotes and the like
    one_line = text.startswith("wsdan: error: ") and text.count("\n") == 1 and text.endswith("\n")
    if status == 2 and one_line and text[:-1].isprintable() and not long and len(text) < 2100:
        return None
    return f"status {status}, stderr {text[:300]!r}, {len(text)} characters"


def _too_long(*_: object) -> None:
    raise TooLong


def run(every: int = 1, first: int = 0) -> tuple[int, list[str]]:
    """Run each `every`-th case from `first` on. Returns their number and the findings."""
    chosen, found = list(cases())[first::every], []
    with playground():
        torch.set_num_threads(1)
        for case in chosen:
            start = time.monotonic()
            wrong = finding(case)
            if wrong is not None:
                shown = [x[:60] for x in case.arguments]
                text = None if case.yaml is None else case.yaml.splitlines()[-1][:60]
                seconds = time.monotonic() - start
                found.append(f"{shown} {text!r}: {wrong} ({seconds:.1f} s)")
    return len(chosen), found


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--every", type=int, default=1)
    options.add_argument("--first", type=int, default=0)
    given = options.parse_args()
    count, findings = run(given.every, given.first)
    print(*findings, f"{count} cases, {len(findings)} findings", sep="\n")
    sys.exit(bool(findings))
