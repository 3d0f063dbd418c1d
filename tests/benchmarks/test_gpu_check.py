"""make gpu-check, less what needs a GPU: its rows, targets, time budget and report."""

import json
import os
import sys
import time
from dataclasses import asdict, replace

import gpu_check
import parity
import pytest
import torch
import train_bench
from emulator import build, install
from harness import gpu, gpu_measure, gpu_rows, report, run, sanitized, shard
from measured import FACTS, ROW, TINY
from paths import ROOT

VIEWS = ("views", "boxes", "crop", "drop", "refine")
STEPS = {"auto", "graph"} if parity.GPU == "cuda" else {"auto"}
EMULATED = parity.GPU == "cpu" and build.missing() is None
CPP = {"cuda"} if EMULATED or parity.GPU == "cuda" else {"cpu"}  # views without any compiler
OURS_OF = {**dict.fromkeys(VIEWS, CPP), "step": STEPS}
needs_no_gpu = pytest.mark.skipif(parity.GPU == "cuda", reason="the machine has a CUDA device")


def rows_of(ours_ms=0.08, **others):
    rows = [replace(ROW, variant=name, median_ms=ms) for name, ms in others.items()]
    return [*rows, replace(ROW, median_ms=ours_ms)]


@pytest.fixture
def tiny(monkeypatch):
    """Small works with Triton's kernels in them, on the GPU or in the interpreter."""
    monkeypatch.setattr(run, "INTERPRETED", True)
    monkeypatch.setattr(gpu_rows, "paper_shape", lambda batch: TINY)
    monkeypatch.setattr(train_bench, "BACKBONE", "tiny")
    if parity.GPU == "cpu":
        monkeypatch.setattr(gpu, "input_sets", lambda size, device: 3)


@pytest.fixture
def emulator():
    """The CUDA kernels of the views, on the CPU."""
    with install.installed():
        yield


@pytest.mark.parametrize("name", gpu_rows.ROWS)
def test_every_group_is_measured_and_ours_is_right(name, tiny, monkeypatch, request):
    if EMULATED and name.split()[0] in VIEWS:
        request.getfixturevalue("emulator")
    monkeypatch.setattr(gpu_measure, "REPEATS", 2)
    entry = gpu_rows.ROWS[name]
    group = f"{name} B {entry.batches[0]}"
    assert group in gpu_rows.groups()
    emitted = []
    gpu_measure.measure_group(group, 1e9, lambda: 0.0, emitted.append, device=parity.GPU)
    assert emitted
    for content in emitted:
        assert json.loads(json.dumps(content)) == content
        rows = [report.Row(**row) for row in content["rows"]]
        names = {row.variant for row in rows}
        assert "published" in names and names & OURS_OF.get(name.split()[0], {"triton"})
        assert all(row.median_ms > 0 and row.share > 0 for row in rows)
        found = {check["code"]: check for check in content["checks"]}
        if name.startswith("step"):
            assert found == {} and {row.unit for row in rows} == {"images/s"}
            continue
        assert "reference" in names and found["bits"]["passed"] is True
        assert ("compiled" in found) == (run.COMPILED in entry.targets(TINY["B"]))
        assert not any(note.startswith("roi_align left out") for note in content["notes"])


def test_a_group_whose_kernel_is_wrong_is_not_timed(tiny, monkeypatch):
    work = run.Work(
        "work", "B 1", {"published": lambda: torch.ones(2), "triton": lambda: torch.zeros(2)},
        tolerance=1e-5, moved=8.0, device=parity.GPU,
    )  # fmt: skip
    entry = gpu_rows.Entry(lambda sizes, device: [replace(work, variants={
        "compiled": torch.ones, **work.variants,
    })])  # fmt: skip
    monkeypatch.setitem(gpu_rows.ROWS, "centers", entry)
    monkeypatch.setattr(run, "machine", lambda device: {"copy_gb_per_s": 1.0})
    emitted = []
    assert gpu_measure.measure(["centers B 12", "sample B 12"], lambda: 9.0, emitted.append) == 1
    assert [list(content) for content in emitted] == [["machine"], ["failed", "error"]]
    assert "triton differs from published" in emitted[1]["error"]


def test_the_same_bits():
    state = torch.zeros(3)
    work = run.Work("work", "B 1", {"triton": lambda: (state.add_(1),)}, 0.0, 1.0)
    assert gpu_rows.same_bits(work) is False
    work = replace(work, variants={"cuda": lambda: state + 1})
    assert gpu_rows.same_bits(work) is True
    assert gpu_rows.same_bits(replace(work, variants={"published": list})) is None
    assert gpu_rows.same_bits(replace(work, images=2)) is None


def found_of(rows, batch=gpu_rows.LARGE, budget=gpu_rows.POOLING, bits=True, **of_work):
    work = run.Work("mean forward", "B 128", {}, 0.0, 1.0, **of_work)
    return gpu_rows.checks(work, rows, batch, budget, bits)


def passed(*arguments, **options):
    return {check.code: check.passed for check in found_of(*arguments, **options)}


def test_targets():
    good = rows_of(published=0.32, compiled=0.12)
    assert passed(good) == {"bits": True, "copy": True, "compiled": True, "published": True}
    slow = [replace(row, share=0.74) for row in rows_of(published=0.31, compiled=0.11)]
    assert passed(slow) == {"bits": True, "copy": False, "compiled": False, "published": False}
    assert passed(rows_of(published=0.32))["compiled"] is None
    assert passed(good, budget={}, bits=None) == {"bits": None}
    assert passed(good, images=12) == {}
    for count, directions, met in ((3, 1, True), (4, 1, False), (6, 2, True), (None, 1, None)):
        rows = [replace(row, launches=count) for row in good]
        assert passed(rows, gpu_rows.SMALL, {}, directions=directions)["launches"] is met
    assert passed(good[:1]) == {"ours": False}


def test_targets_of_the_views():
    rows = rows_of(published=4.0, reference=0.32, compiled=0.12)
    met = {"bits": True, "copy": True, "compiled": True, "published": True, "reference": True}
    assert passed(rows, budget=gpu_rows.VIEWS) == met
    slow = rows_of(published=3.99, reference=0.319, compiled=0.119)
    met |= {"compiled": False, "published": False, "reference": False}
    assert passed(slow, budget=gpu_rows.VIEWS) == met
    pair = gpu_rows.ROWS["views fp32"]
    assert pair.targets(gpu_rows.LARGE) == gpu_rows.VIEWS and pair.targets(gpu_rows.SMALL) == {}


def test_a_work_in_one_line():
    rows = rows_of(published=0.32, compiled=0.12)
    found = found_of(rows)
    line = gpu_rows.line(rows, found)
    assert line.startswith("mean fwd, B 128 fp32 channels_last")
    for text in (" 80.00 us", " 80%", " 12.5", "4.00x", "1.50x", "bits+ copy+ compiled+"):
        assert text in line
    assert len(line) <= 140 and "no kernel of ours" in gpu_rows.line(rows[:1], [])
    step = [replace(row, rate=131.4, unit="images/s") for row in rows]
    assert gpu_rows.line(step, []).endswith("  131 images/s")


def worst_outcome():
    """As much to report as there can be."""
    outcome = gpu_check.Outcome(machine=FACTS)
    outcome.tests.update(passed=800, failed=40)
    outcome.test_problems = [f"FAILED tests/test_{i}.py - {'why ' * 99}" for i in range(40)]
    outcome.skipped = [f"SKIPPED [1] tests/gpu/test_cuda.py:{i}: why" for i in range(40)]
    outcome.sanitized = ["compute-sanitizer memcheck: 9 errors"] * 2
    rows = [replace(row, share=0.1) for row in rows_of(0.1, published=0.1, compiled=0.1)]
    for group in gpu_rows.groups():
        found = found_of(rows, bits=False)
        content = {"group": group, "rows": [asdict(row) for row in rows], "notes": ["note"] * 5}
        outcome.works += [{**content, "checks": [asdict(check) for check in found]}] * 2
        outcome.failed[group] = "error " * 99
        outcome.left_out.append(group)
    return outcome


def test_the_report_has_at_most_sixty_lines(tmp_path):
    outcome = worst_outcome()
    lines = gpu_check.summary(outcome, "a file")
    assert len(lines) <= gpu_check.MOST_LINES
    assert "A Card 80GB" in lines[0] and "tests: 40 failed, 800 passed" in lines
    assert lines[-1].startswith("FAILED") and lines[-2] == "figures: a file"
    assert any(line.startswith("... and ") and line.endswith("more works") for line in lines)
    assert sum(line.startswith("  missed: ") for line in lines) == 11
    path = gpu_check.write(outcome, tmp_path / "results")
    assert path.endswith("a-card-80gb-2026-01-02.json")
    base = report.read_json(path)
    assert len(base["rows"]) == 3 * len(outcome.works) and base["targets"]


def test_only_tests_and_operators_decide():
    outcome = gpu_check.Outcome(machine=FACTS)
    assert not outcome.passed  # no test ran
    outcome.tests.update(passed=3)
    missed = worst_outcome().works
    outcome.works = missed
    assert outcome.passed and gpu_check.summary(outcome, "")[-1] == "passed"
    assert any(line.startswith("  missed: mean") for line in gpu_check.summary(outcome, ""))
    for change in (
        {"build_ok": False},
        {"test_problems": ["FAILED"]},
        {"failed": {"centers B 12": "why"}},
        {"left_out": ["centers B 12"]},
    ):
        assert not replace(outcome, **change).passed


def job(name, code, folder):
    return gpu_check.Job(name, [sys.executable, "-c", code], folder / f"{name}.log")


def test_jobs_end_in_their_time(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    sleeper = "import subprocess, sys; subprocess.run([sys.executable, '-c', '{}'])".format(
        "import os, time; print(os.getpid(), flush=True); time.sleep(99)"
    )
    jobs = [
        job("fails", "raise SystemExit(3)", tmp_path),
        job("sleeps", sleeper, tmp_path),
        job(
            "prints",
            "import os; print(os.environ.get('TRITON_INTERPRET'), os.environ['A'])",
            tmp_path,
        ),
        job("waits", "import time; time.sleep(99)", tmp_path),
        job("late", "print('late')", tmp_path),
    ]
    jobs[2].environment["A"] = "b"
    started = time.monotonic()
    gpu_check.run_jobs(jobs, 2, 6.0)
    assert time.monotonic() - started < 60
    assert [job.status for job in jobs] == [3, None, 0, None, None]
    assert jobs[2].log.read_text() == "None b\n"
    assert not jobs[4].log.exists()
    child = int(jobs[1].log.read_text())
    for _ in range(100):
        if not running(child):
            break
        time.sleep(0.05)
    assert not running(child)


def running(process):
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_time_is_kept_for_what_follows():
    clock = gpu_check.Clock(100.0)
    assert 99 < clock.left() <= 100 and 29 < clock.left(70) <= 30
    assert clock.left(200) == 0
    assert gpu_check.Clock(0).left() == 0


def test_what_a_test_log_says(tmp_path):
    one = gpu_check.Job("tests/test_a.py", [], tmp_path / "a.log", status=1)
    assert gpu_check.read_test_log(one)[1] == ["tests/test_a.py: not begun, no time"]
    one.log.write_text(
        "..F\nFAILED tests/test_a.py::test_b - assert 1 == 2\nERROR tests/test_a.py::test_c\n"
        "1 failed, 12 passed, 2 skipped, 3 warnings, 1 error in 3.21s\n"
    )
    counts, problems = gpu_check.read_test_log(one)
    assert counts == {"failed": 1, "passed": 12, "skipped": 2, "error": 1}
    assert [problem.split()[0] for problem in problems] == ["FAILED", "ERROR"]
    one.log.write_text("Fatal Python error: Segmentation fault\n")
    one.status = -11
    assert "ended with status -11" in gpu_check.read_test_log(one)[1][0]
    one.log.write_text("5 passed in 1.00s\n")
    one.status = 0
    assert gpu_check.read_test_log(one) == ({"passed": 5}, [])


def test_what_was_skipped_of_the_gpus_tests(tmp_path):
    text = "..s\nSKIPPED [2] tests/gpu/test_cuda.py:12: no GPU\n12 passed, 2 skipped in 3.21s\n"
    for name, lines in (
        ("tests/gpu/test_cuda.py", text.splitlines()[1:2]),
        ("tests/test_cli.py", []),
    ):
        one = gpu_check.Job(name, ["pytest", name], tmp_path / "a.log", status=0)
        one.log.write_text(text)
        assert gpu_check.skipped_on_gpu(one) == lines
        one.log.unlink()
        assert gpu_check.skipped_on_gpu(one) == []


def check_of(tmp_path, sanitizers):
    outcome = gpu_check.Outcome()
    jobs = [job("tests", "print('3 passed in 0.1s')", tmp_path)]
    gpu_check.test(jobs, sanitizers, job("report", "", tmp_path), 60.0, outcome)
    return outcome


@pytest.mark.parametrize(("errors", "status"), [(0, 0), (2, 9)])
def test_the_sanitizers_decide(errors, status, tmp_path, monkeypatch):
    """A program in compute-sanitizer's place, which tells what that would."""
    program = tmp_path / "bin" / "compute-sanitizer"
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/sh\necho '{sanitized.DONE}9 calls of cuda'\n"
        f"echo '========= ERROR SUMMARY: {errors} errors' $2\nexit {status}\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    sanitizers = gpu_check.sanitizer_jobs(tmp_path)
    assert [one.name for one in sanitizers] == ["memcheck", "racecheck"]
    outcome = check_of(tmp_path, sanitizers)
    assert outcome.passed is (errors == 0)
    assert len(outcome.test_problems) == (2 if errors else 0)
    found = f"{errors} errors, 0 warnings in 9 calls of cuda"
    assert outcome.sanitized[1] == f"compute-sanitizer racecheck: {found}"
    assert sanitizers[0].log.read_text().splitlines()[1].endswith("memcheck")


def test_without_a_sanitizer_a_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(sanitized, "program", lambda: None)
    assert gpu_check.sanitizer_jobs(tmp_path) == []
    outcome = check_of(tmp_path, [])
    assert outcome.passed
    assert any("compute-sanitizer: none in" in line for line in gpu_check.summary(outcome, ""))


def test_every_test_file_has_a_job(tmp_path):
    jobs = gpu_check.test_jobs(tmp_path)
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")}
    assert {job.command[-1] for job in jobs} == files
    slices = [job for job in jobs if job.command[-1] == gpu_check.SPLIT]
    assert len(slices) == gpu_check.SLICES
    assert len({job.log for job in jobs}) == len({job.name for job in jobs}) == len(jobs)


def test_the_build_and_the_report_are_for_this_card(tmp_path, monkeypatch):
    monkeypatch.delenv("WSDAN_CUDA_ARCHS", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (10, 3))
    report = gpu_check.report_job(tmp_path)
    assert report.command[-1] == "100" and (ROOT / report.command[1]).exists()

    def run_jobs(jobs, at_once, seconds):
        assert jobs[0].environment == {"WSDAN_CUDA_ARCHS": "100"}
        jobs[0].status = 0

    monkeypatch.setattr(gpu_check, "run_jobs", run_jobs)
    outcome = gpu_check.Outcome()
    gpu_check.build(tmp_path, 9.0, outcome)
    assert outcome.built == "ok"


def test_slices_are_the_whole(tmp_path):
    """As gpu_check calls pytest."""
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.parametrize('i', range(5))\ndef test(i):\n    assert i\n"
    )
    counts = []
    for part in ("0/2", "1/2"):
        pytest_ = gpu_check.test_jobs(tmp_path)[0].command[:-3]
        command = [*pytest_, "--shard", part, "-c", os.devnull, "-q", str(tmp_path / "test_it.py")]
        one = gpu_check.Job("it", command, tmp_path / f"{part[0]}.log")
        gpu_check.run_jobs([one], 1, 60.0)
        counts.append(dict(gpu_check.read_test_log(one)[0]))
    assert counts == [{"failed": 1, "passed": 2}, {"passed": 2}]
    assert shard.__doc__


def measured_by(script, tmp_path, monkeypatch):
    """An outcome of measuring where each process does what the script says of it."""
    groups = gpu_rows.groups()[:3]
    monkeypatch.setattr(gpu_rows, "groups", lambda: groups)
    asked = []

    def run_jobs(jobs, at_once, seconds):
        command = jobs[0].command
        pending = command[command.index("--seconds") + 2 :]
        asked.append(pending)
        lines, jobs[0].status = script(pending)
        with open(command[command.index("--out") + 1], "a", encoding="utf-8") as file:
            file.write(lines)

    monkeypatch.setattr(gpu_check, "run_jobs", run_jobs)
    outcome = gpu_check.Outcome()
    gpu_check.measure(tmp_path, gpu_check.Clock(100.0), outcome)
    return outcome, groups, asked


def test_a_process_that_dies_costs_one_group(tmp_path, monkeypatch):
    def script(pending):
        if len(pending) == 3:
            done = json.dumps({"machine": FACTS}) + "\n" + json.dumps({"done": pending[0]}) + "\n"
            return done + '{"group": "half a li', -6
        return json.dumps({"failed": pending[0], "error": "why"}) + "\n", 1

    outcome, groups, asked = measured_by(script, tmp_path, monkeypatch)
    assert asked == [groups, groups[2:]]
    assert "ended with status -6" in outcome.failed[groups[1]]
    assert outcome.failed[groups[2]] == "why" and outcome.left_out == []
    assert outcome.machine == FACTS


def test_what_was_not_reached_is_named(tmp_path, monkeypatch):
    def script(pending):
        return json.dumps({"done": pending[0]}) + "\n", None

    outcome, groups, asked = measured_by(script, tmp_path, monkeypatch)
    assert len(asked) == 1 and outcome.failed == {}
    assert outcome.left_out == [f"{group}: no time" for group in groups[1:]]


@needs_no_gpu
@pytest.mark.parametrize(
    "command",
    [
        ["-m", "benchmarks.gpu_check"],
        [
            "-m",
            "benchmarks.harness.gpu_measure",
            "--out",
            os.devnull,
            "--seconds",
            "1",
            "centers B 12",
        ],
        ["-m", "benchmarks.harness.tune"],
        ["-m", "benchmarks.bap_bench", "--device", "cuda"],
        ["benchmarks/bap_bench.py", "--device", "cuda"],
        ["-m", "benchmarks.augment_bench", "--device", "cuda"],
        ["benchmarks/train_bench.py", "--device", "cuda"],
        ["-m", "benchmarks.harness.sanitized"],
    ],
    ids=" ".join,
)
def test_without_a_gpu_there_is_one_line(command, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    one = gpu_check.Job("it", [sys.executable, *command], tmp_path / "it.log")
    gpu_check.run_jobs([one], 1, 120.0)
    lines = one.log.read_text().splitlines()
    assert one.status == 2
    assert len(lines) == 1 and "sees no CUDA device" in lines[0]


def test_the_whole_check(tmp_path, monkeypatch, capsys):
    """From end to end, with short stand-ins for the tests and the measurements."""

    def measure(logs, clock, outcome):
        outcome.machine, outcome.works = FACTS, worst_outcome().works
        assert clock.left() < gpu_check.SECONDS

    jobs = [job("tests", "print('3 passed in 0.1s')", tmp_path)]
    monkeypatch.setattr(run, "use", lambda device: None)
    monkeypatch.setattr(gpu_check, "test_jobs", lambda logs: jobs)
    extra = job("report", "raise SystemExit(1)", tmp_path)
    monkeypatch.setattr(gpu_check, "report_job", lambda logs: extra)
    monkeypatch.setattr(gpu_check, "sanitizer_jobs", lambda logs: [])
    monkeypatch.setattr(gpu_check, "measure", measure)
    folders = ["--logs", str(tmp_path / "logs"), "--results", str(tmp_path / "results")]
    assert gpu_check.main(["--no-build", *folders]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= gpu_check.MOST_LINES and lines[-1] == "passed"
    assert any(line.startswith("report: ended with status 1") for line in lines)
    (result,) = (tmp_path / "results").iterdir()
    assert json.loads(result.read_text())["tests"] == {"passed": 3}
    jobs[0].command[-1] = "raise SystemExit(1)"
    assert gpu_check.main(["--no-build", *folders]) == 1
