"""make gpu-check, less what needs a GPU: its jobs, time budget and report."""

import json
import os
import sys
import time
from dataclasses import asdict, replace
from types import SimpleNamespace

import gpu_check
import pytest
import torch
from harness import gpu_rows, report, run, sanitized, shard
from measured import FACTS, found_of, rows_of
from paths import ROOT


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
    assert "A GPU 80GB" in lines[0] and "tests: 40 failed, 800 passed" in lines
    assert lines[-1].startswith("FAILED") and lines[-2] == "figures: a file"
    assert any(line.startswith("... and ") and line.endswith("more works") for line in lines)
    assert sum(line.startswith("  missed: ") for line in lines) == 11
    path = gpu_check.write(outcome, tmp_path / "results")
    assert path.endswith("a-gpu-80gb-2026-01-02.json")
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


@pytest.mark.slow
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
    gpu_check.run_jobs(jobs, 2, 3.0)
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


@pytest.mark.slow
def test_slices_are_the_whole(tmp_path):
    """One as gpu_check calls pytest, then all of the plugin alone."""
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.parametrize('i', range(5))\ndef test(i):\n    assert i\n"
    )
    pytest_ = gpu_check.test_jobs(tmp_path)[0].command[:-3]
    command = [*pytest_, "--shard", "0/2", "-c", os.devnull, "-q", str(tmp_path / "test_it.py")]
    one = gpu_check.Job("it", command, tmp_path / "it.log")
    gpu_check.run_jobs([one], 1, 60.0)
    assert dict(gpu_check.read_test_log(one)[0]) == {"failed": 1, "passed": 2}
    slices = [sliced(f"{i}/3", range(5)) for i in range(3)]
    assert slices == [([0, 3], [1, 2, 4]), ([1, 4], [0, 2, 3]), ([2], [0, 1, 3, 4])]


def sliced(part, collected):
    """What the plugin keeps of these items, and what it tells pytest that it left out."""
    items, left_out = list(collected), []
    hook = SimpleNamespace(pytest_deselected=lambda items: left_out.extend(items))
    config = SimpleNamespace(getoption={"--shard": part}.get, hook=hook)
    shard.pytest_collection_modifyitems(config, items)
    return items, left_out


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
