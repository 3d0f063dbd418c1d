"""gpu_check's report: a short table on the terminal, and a result like those of --json."""

import json
import re
from pathlib import Path

from checking.figures import Figures
from checking.parts import work_line
from harness import gpu_rows, report
from harness.gpu_rows import AGAIN

MOST_LINES = 60  # of the report


def summary(figures: Figures, written: str) -> list[str]:
    """The report; what does not fit is cut from the table."""
    facts = figures.machine
    named = f"torch {facts['torch']}, {facts['device']}"
    head = [report.machine_text(facts) if "copy_gb_per_s" in facts else named]
    for part in [part for part in ("build", "smoke", "sanitize", "tune") if part in figures.wanted]:
        head += _part(figures, part)
    if "tests" in figures.wanted:
        counts = ", ".join(f"{number} {kind}" for kind, number in sorted(figures.tests.items()))
        head.append(f"tests: {counts or 'none ran'}")
        head += _some(sorted(set(figures.problems("tests"))), 6)
        skipped = [text for line in figures.ended["tests"].values() for text in line["skipped"]]
        head += [f"skipped, which need the GPU: {len(skipped) or 'nothing'}", *_some(skipped, 3)]
    table, tail = [], []
    if "measure" in figures.wanted:
        head.append(gpu_rows.HEADER)
        table, tail = [work_line(work) for work in figures.works.values()], _targets(figures)
    tail.append(f"figures: {written}")
    tail.append("passed" if figures.passed else "FAILED: see above")
    room = MOST_LINES - len(head) - len(tail)
    if len(table) > room:
        table = [*table[: room - 1], f"... and {len(table) - room + 1} more works"]
    return [*head, *table, *tail]


def _part(figures: Figures, part: str) -> list[str]:
    lines, wanted = figures.ended[part], figures.wanted[part]
    right = sum(line["ok"] is True for line in lines.values())
    untried = sorted({line["found"] for line in lines.values() if line["ok"] is None})
    return [
        f"{part}: {right} of {len(wanted)} right",
        *_some([*figures.problems(part), *untried], 3),
    ]


def _targets(figures: Figures) -> list[str]:
    works = figures.works.values()
    found = [gpu_rows.Check(**check) for work in works for check in work["checks"]]
    met = sum(check.passed is True for check in found)
    lines = [f"targets: {met} of {len(found)} met (+ met, - missed, ? not measured)"]
    missed = [check for check in found if check.passed is False]
    lines += _some([f"missed: {c.title}: {c.target}: {c.found}" for c in missed], 10)
    lines += _some([f"failed: {group}: {why}" for group, why in figures.failed.items()], 5)
    again = [group for group in figures.left_out if group.endswith(AGAIN)]
    left_out = [group for group in figures.left_out if group not in again]
    if again:
        left_out.insert(0, f"torch.compile of {len(again)} groups")
    lines += _some([f"left out, no time: {text}" for text in left_out], 4)
    return lines + _some([f"{w['group']}: {note}" for w in works for note in w["notes"]], 3)


def write(figures: Figures, folder: Path) -> str:
    """The figures as bap_bench's --json has them, with tests and targets beside them."""
    facts = figures.machine
    name = re.sub(r"[^a-z0-9]+", "-", str(facts["device"]).lower()).strip("-")
    path = folder / f"{name}-{facts['date'][:10]}.json"
    works = figures.works.values()
    content = {
        **facts, "parts": {part: list(lines.values()) for part, lines in figures.ended.items()},
        "failed": figures.failed, "left_out": figures.left_out,
        "rows": [row for work in works for row in work["rows"]],
        "targets": [check for work in works for check in work["checks"]],
        "notes": [note for work in works for note in work["notes"]],
    }  # fmt: skip
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return str(path)


def _some(lines: list[str], most: int) -> list[str]:
    """The first of them, each cut to a terminal's width."""
    more = [] if len(lines) <= most else [f"  ... and {len(lines) - most + 1} more"]
    kept = lines if not more else lines[: most - 1]
    return [f"  {line[:140]}" for line in kept] + more
