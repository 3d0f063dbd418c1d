"""The code blocks of README.md, CONTRIBUTING.md and docs/, and how they are run.

A Python or shell block is run unless the line before it says otherwise:

    <!--not-run: REASON-->
    <!--run-by: tests/...py-->   another test runs it

A page's blocks run in order, in one folder and one namespace. Commands of `wsdan` run in this
process, with a small network and few small images in place of what the page names.
"""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from paths import ROOT

from wsdan.cli import main

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"python", "sh", "json", ""}
PROGRAMS = {"curl", "git", "make", "pip", "pytest", "python", "torchrun", "wsdan"}
STANDS_FOR = {"N": "3", "S": "1", "X": "0.5", "Y": "0.1", "SOURCE...": "photos"}
SMALL = {
    "backbone": "tiny", "image-size": "32", "num-attentions": "4", "batch-size": "2",
    "epochs": "1", "device": "cpu", "workers": "0", "log-images": "0",
}  # fmt: skip
_BLOCK = re.compile(
    r"(?:^<!--(not-run|run-by): ?([^\n]*?)-->\n)?^```([^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE
)


class Block(NamedTuple):
    mark: str  # "not-run", "run-by" or ""
    reason: str
    language: str
    content: str


def blocks_of(text: str) -> list[Block]:
    return [Block(*(part or "" for part in found)) for found in _BLOCK.findall(text)]


def to_run(page: Path, language: str) -> list[str]:
    """The contents of the blocks of a page that this module runs."""
    found = blocks_of(page.read_text(encoding="utf-8"))
    return [block.content for block in found if block.language == language and not block.mark]


def commands_of(block: str) -> list[list[str]]:
    """The words of each command of a shell block."""
    lines = block.replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in line.split(" && ")]
    return [words for part in parts if (words := shlex.split(part, comments=True))]


def run_shell(block: str) -> None:
    """Run the commands of `wsdan` in a block, in the present folder; others are mistakes."""
    for words in commands_of(block):
        assert words[0] == "wsdan", f"{words[0]} is not run here; mark the block"
        words = [STANDS_FOR.get(word, word) for word in words[1:]]
        assert main(small(words)) == 0, words


def small(words: list[str]) -> list[str]:
    """The words of a command, of training with small settings in place of its own."""
    if words[0] != "train" or "--resume" in words:
        return words
    kept = list(words)
    for name in SMALL:
        if f"--{name}" in kept:
            place = kept.index(f"--{name}")
            del kept[place : place + 2]
    return [*kept, "--no-pretrained", "--no-plots", *(f"--{n}={v}" for n, v in SMALL.items())]
