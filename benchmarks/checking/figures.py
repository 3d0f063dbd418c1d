"""What gpu_check found, as lines of JSON that are written as soon as each is known.

DIR/figures.jsonl is all there is to know of a check: the table is made from it at any moment, after
a kill too. Its lines, each an object:

{"begun": part, "wanted": [names]}        a part begins: what it found in an earlier call is void
{"part": part, "name": name, "ok": bool, "found": text, ...}   one of `wanted` has ended
{"machine": facts}, {"group", "rows", "checks", "notes"}, {"done": group}, {"failed", "error"}
                                          of gpu_measure; a later line of a work replaces it, a
                                          machine with another device all works

ok is None where a thing could not be tried, which decides nothing.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from harness.gpu_rows import AGAIN

PARTS = ("build", "smoke", "measure", "tests", "sanitize", "tune")


@dataclass
class Figures:
    """The lines of one or more files, put together."""

    machine: dict = field(default_factory=dict)
    wanted: dict[str, list[str]] = field(default_factory=dict)  # of each part that has begun
    ended: dict[str, dict[str, dict]] = field(default_factory=dict)  # part, name -> its line
    works: dict[tuple[str, ...], dict] = field(default_factory=dict)  # as gpu_measure emits them
    done: set[str] = field(default_factory=set)  # groups of rows
    failed: dict[str, str] = field(default_factory=dict)  # group -> why

    def add(self, line: dict) -> None:
        if "begun" in line:
            self._begin(line["begun"], line["wanted"])
        elif "part" in line:
            self.ended[line["part"]][line["name"]] = line
        elif "machine" in line:
            if self.machine.get("device") not in (None, line["machine"]["device"]):
                self.machine, self.works, self.done, self.failed = {}, {}, set(), {}
            self.machine = {**self.machine, **line["machine"]}
        elif "rows" in line:
            row = line["rows"][0]
            self.works[line["group"].removesuffix(AGAIN), row["work"], row["shape"]] = line
        elif "failed" in line:
            self.failed[line["failed"]] = line["error"]
        else:
            self.done.add(line["done"])

    def _begin(self, part: str, wanted: list[str]) -> None:
        self.ended[part] = {}
        if part == "measure":  # maybe of some groups only: rows that are measured again replace
            self.done.difference_update(wanted)
            self.failed = {group: why for group, why in self.failed.items() if group not in wanted}
            earlier = self.wanted.get(part, [])
            wanted = [*earlier, *(group for group in wanted if group not in earlier)]
        self.wanted[part] = wanted

    @property
    def left_out(self) -> list[str]:
        """Groups that were wanted and not reached."""
        through = self.done | self.failed.keys()
        return [group for group in self.wanted.get("measure", []) if group not in through]

    def unfinished(self, part: str) -> list[str]:
        """What the part wanted and has not ended."""
        return [name for name in self.wanted.get(part, []) if name not in self.ended[part]]

    def problems(self, part: str) -> list[str]:
        """A line for each thing of this part that is not as it must be."""
        lines = []
        for name, line in self.ended.get(part, {}).items():
            if line["ok"] is False:
                lines += line.get("problems") or [f"{name}: {line['found']}"]
        return [*lines, *(f"{name}: no time" for name in self.unfinished(part))]

    @property
    def tests(self) -> Counter:
        """What pytest counted."""
        counts = Counter()
        for line in self.ended.get("tests", {}).values():
            counts.update(line["counts"])
        return counts

    @property
    def passed(self) -> bool:
        """Whether all that was begun is as it must be. torch.compile and tune decide nothing."""
        of_parts = [line for part in PARTS[:5] if part != "measure" for line in self.problems(part)]
        groups = [*self.left_out, *self.failed]
        tested = "tests" not in self.wanted or self.tests["passed"] > 0
        return (
            bool(self.wanted) and tested and not of_parts and all(g.endswith(AGAIN) for g in groups)
        )


class Writer:
    """Appends lines to DIR/figures.jsonl."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = path_in(folder)

    def begin(self, part: str, wanted: list[str]) -> None:
        self.write({"begun": part, "wanted": wanted})

    def end(self, part: str, name: str, ok: bool | None, found: str, **more: object) -> None:
        self.write({"part": part, "name": name, "ok": ok, "found": found, **more})

    def write(self, line: dict) -> None:
        """The line may follow one that a kill has cut short: it begins anew."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"\n{json.dumps(line)}\n")


def path_in(folder: Path) -> Path:
    return folder / "figures.jsonl"


def read(*folders: Path) -> Figures:
    """The figures of these folders, later ones last; a line cut short by a kill is left out."""
    figures = Figures()
    for folder in folders:
        for line in path_in(folder).read_text(encoding="utf-8").splitlines():
            try:
                content = json.loads(line) if line else None
            except json.JSONDecodeError:
                content = None
            if content is not None:
                figures.add(content)
    return figures
