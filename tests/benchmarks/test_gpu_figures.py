"""What gpu_check keeps of what it found, and the table it makes of it."""

import json
from dataclasses import asdict, replace

import pytest
from checking import figures, table
from harness import gpu_rows, report
from measured import FACTS, found_of, rows_of

GROUPS = ["mean bf16 B 12", "boxes B 12", "mean bf16 B 12, compiled"]


def work_of(group, rows=None, **options):
    rows = rows or rows_of()
    checks = [asdict(check) for check in found_of(rows, **options)]
    return {"group": group, "rows": [asdict(row) for row in rows], "checks": checks, "notes": []}


@pytest.fixture
def writer(tmp_path):
    """Of a check that has measured the first group."""
    writer = figures.Writer(tmp_path / "found")
    writer.begin("measure", GROUPS)
    writer.write({"machine": FACTS})
    writer.write(work_of(GROUPS[0]))
    writer.write({"done": GROUPS[0]})
    return writer


def read(writer):
    return figures.read(writer.path.parent)


def test_a_line_cut_short_costs_only_itself(writer):
    with writer.path.open("a") as file:
        file.write('{"group": "boxes B 12", "rows": [{"wor')
    writer.write({"failed": GROUPS[1], "error": "why"})
    found = read(writer)
    assert found.done == {GROUPS[0]} and found.failed == {GROUPS[1]: "why"}
    assert found.left_out == [GROUPS[2]] and len(found.works) == 1


def test_what_is_measured_again_replaces(writer):
    again = work_of(GROUPS[2], rows_of(0.5))
    writer.write(again)
    assert list(read(writer).works.values()) == [again]
    writer.write({"failed": GROUPS[1], "error": "why"})
    writer.begin("measure", ["boxes B 12"])
    found = read(writer)
    assert found.failed == {} and found.done == {GROUPS[0]}
    assert found.left_out == GROUPS[1:]
    writer.write({"machine": {**FACTS, "device": "another"}})
    found = read(writer)
    assert found.works == {} and found.done == set() and found.machine["device"] == "another"


def test_a_part_that_begins_again_forgets(writer):
    writer.begin("smoke", ["a", "b"])
    writer.end("smoke", "a", False, "wrong")
    assert read(writer).problems("smoke") == ["a: wrong", "b: no time"]
    writer.begin("smoke", ["a"])
    writer.end("smoke", "a", True, "9 calls")
    found = read(writer)
    assert found.problems("smoke") == [] and len(found.works) == 1


def test_the_figures_of_two_folders_are_one_check(writer, tmp_path):
    other = figures.Writer(tmp_path / "other")
    other.write({"machine": {"device": FACTS["device"], "torch": "2.11"}})
    other.begin("tests", ["tests/a.py"])
    other.end("tests", "tests/a.py", True, "3 passed", counts={"passed": 3}, skipped=[])
    found = figures.read(writer.path.parent, other.path.parent)
    assert found.tests == {"passed": 3} and len(found.works) == 1
    assert found.machine == FACTS | {"torch": "2.11"}


def test_what_decides(writer):
    assert not figures.Figures().passed
    assert not read(writer).passed  # a group is left out
    writer.write({"done": GROUPS[1]})
    assert read(writer).passed  # torch.compile decides nothing, nor do missed targets
    writer.write(work_of(GROUPS[0], rows_of(9.0, published=0.1)))
    writer.write({"failed": GROUPS[2], "error": "why"})
    assert read(writer).passed
    for part, ok, right in (
        ("build", False, False), ("smoke", False, False), ("sanitize", False, False),
        ("sanitize", None, True), ("tune", False, True),
    ):  # fmt: skip
        writer.begin(part, ["it"])
        assert read(writer).passed is (part == "tune")  # not ended
        writer.end(part, "it", ok, "text")
        assert read(writer).passed is right
        writer.end(part, "it", True, "text")
    for counts, problems, right in (({}, [], False), ({"passed": 1}, ["FAILED a"], False),
                                    ({"passed": 1}, [], True)):  # fmt: skip
        writer.begin("tests", ["a"])
        writer.end("tests", "a", not problems, "", counts=counts, problems=problems, skipped=[])
        assert read(writer).passed is right


def worst():
    """As much to report as there can be."""
    found = figures.Figures(machine=FACTS)
    for part in figures.PARTS:
        names = [f"tests/{part}_{i}.py" for i in range(40)]
        found.add({"begun": part, "wanted": gpu_rows.groups() if part == "measure" else names})
        for name in names[:30] if part != "measure" else []:
            found.add({
                "part": part, "name": name, "ok": None if name.endswith("9.py") else False,
                "found": "what " * 99, "counts": {"passed": 800, "failed": 40},
                "problems": [f"FAILED {name}{i} - {'why ' * 99}" for i in range(40)],
                "skipped": [f"SKIPPED [1] {name}:{i}: why" for i in range(40)],
            })  # fmt: skip
    rows = [replace(row, share=0.1) for row in rows_of(0.1, published=0.1, compiled=0.1)]
    for i, group in enumerate(gpu_rows.groups()):
        for name in ("forward", "backward"):
            line = work_of(group, [replace(row, work=name) for row in rows], bits=False)
            found.add({**line, "notes": ["note"] * 5})
        if i % 2:
            found.failed[group] = "error " * 99
    return found


def test_the_report_has_at_most_sixty_lines(tmp_path):
    found = worst()
    lines = table.summary(found, "a file")
    assert len(lines) <= table.MOST_LINES and max(map(len, lines)) < 160
    assert "A GPU 80GB" in lines[0] and "tests: 1200 failed, 24000 passed" in lines
    assert lines[-1].startswith("FAILED") and lines[-2] == "figures: a file"
    assert any(line.startswith("... and ") and line.endswith("more works") for line in lines)
    assert sum(line.startswith("  missed: ") for line in lines) == 9
    assert any("torch.compile of" in line for line in lines)
    path = table.write(found, tmp_path)
    assert path.endswith("a-gpu-80gb-2026-01-02.json")
    base = report.read_json(path)
    assert len(base["rows"]) == 3 * len(found.works) and base["targets"]
    assert json.loads(json.dumps(base["parts"]["tests"])) == base["parts"]["tests"]


def test_a_check_that_measured_nothing_has_a_report(tmp_path):
    found = figures.Figures()
    found.add({"machine": {"device": "A GPU", "torch": "2.11", "date": FACTS["date"]}})
    found.add({"begun": "sanitize", "wanted": ["memcheck a", "memcheck b"]})
    for name in ("memcheck a", "memcheck b"):
        text = "could not run: Device not supported"
        found.add({"part": "sanitize", "name": name, "ok": None, "found": text})
    lines = table.summary(found, table.write(found, tmp_path))
    assert lines[:3] == ["torch 2.11, A GPU", "sanitize: 0 of 2 right",
                         "  could not run: Device not supported"]  # fmt: skip
    assert lines[-1] == "passed"
