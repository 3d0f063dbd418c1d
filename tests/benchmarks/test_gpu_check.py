"""make gpu-check, less what needs a GPU: its parts, its processes and its time."""

import json
import os
import re
import signal
import sys
import time
from types import SimpleNamespace

import gpu_check
import pytest
import runs
import torch
from checking import build, figures, jobs, parts
from checking.jobs import Clock, Job
from harness import gpu_measure, gpu_rows, report, run, sanitized, shard
from measured import FACTS, rows_of
from paths import ROOT, SUPPORT

STANDIN = str(SUPPORT / "scripts" / "gpu_standin.py")
GROUPS = ["mean bf16 B 12", "views bf16 B 12", "step bf16 B 12"]


def job(name, code):
    return Job(name, [sys.executable, "-S", "-c", code])


def check_in(folder, seconds=200.0):
    return parts.Check(folder, Clock(seconds), SimpleNamespace(rows="", kernel="", only=[]))


@pytest.fixture
def standin(monkeypatch):
    """No GPU is asked for, and a stand-in takes the place of each process; sets what it does."""
    monkeypatch.setattr(run, "use", lambda device: None)
    monkeypatch.setattr(report, "machine", lambda device: FACTS)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (10, 3))
    monkeypatch.setattr(gpu_rows, "groups", lambda: GROUPS)
    monkeypatch.setattr(sanitized, "operators", lambda: ["crop_resize"])
    monkeypatch.setattr(sanitized, "program", lambda: None)
    monkeypatch.setattr(parts, "ON_GPU", ("tests/kernels/test_golden.py",))
    monkeypatch.setattr(
        parts, "module", lambda *arguments: [sys.executable, "-S", STANDIN, *arguments]
    )
    rows = [vars(row) for row in rows_of()]
    rows[0] = {**rows[0], "shape": "B 128 GROUP"}
    work = {"group": "GROUP", "rows": rows, "checks": [], "notes": []}
    lines = "\n".join(map(json.dumps, ({"machine": FACTS}, work, {"done": "GROUP"})))

    def set_up(**fate):
        given = {"lines": lines, "done": sanitized.DONE, **fate}
        monkeypatch.setenv("GPU_STANDIN", json.dumps(given))

    set_up()
    handler = signal.getsignal(signal.SIGTERM)
    yield set_up
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def time_ends(monkeypatch):
    """Sets when all time is over: as soon as the path exists."""
    paths, sleep = [], time.sleep

    def monotonic():
        return 1e9 if paths and all(path.exists() for path in paths) else 0.0

    monkeypatch.setattr(jobs, "time", SimpleNamespace(monotonic=monotonic, sleep=sleep))
    return paths.append


def running(process):
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def assert_ends(*processes):
    end = time.monotonic() + 10
    while any(map(running, processes)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(map(running, processes))


LEAVES_A_CHILD = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(99)"])
print(child.pid, flush=True)
"""


def test_jobs_end_in_their_time_with_all_they_started(tmp_path, monkeypatch, time_ends):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    last = tmp_path / "last"
    time_ends(last)
    given = [
        job("fails", "raise SystemExit(3)"),
        job("hangs", LEAVES_A_CHILD + "time.sleep(99)"),
        job("leaves", LEAVES_A_CHILD),
        job("prints", "import os; print(os.environ.get('TRITON_INTERPRET'), os.environ['A'])"),
        job("waits", f"import time; open({str(last)!r}, 'w'); time.sleep(99)"),
        job("late", "print('late')"),
    ]
    given[3].environment["A"] = "b"
    ended, log = [], tmp_path / "it.log"
    jobs.run_jobs(given, log, 2, 1.0, ended.append)
    assert [job.status for job in given] == [3, None, 0, 0, None, None]
    assert given[3].text == "None b\n" and given[5].ended == "not begun, no time"
    assert {job.name for job in ended} == {"fails", "hangs", "leaves", "prints", "waits"}
    assert "== hangs: not ended in its time\n" in log.read_text()
    assert_ends(int(given[1].text), int(given[2].text))


def test_the_time_is_kept_for_what_follows():
    clock = Clock(100.0)
    assert 99 < clock.left() <= 100 and 29 < clock.left(70) <= 30
    assert clock.left(200) == 0
    assert Clock(0).left() == 0


def test_parts_leave_time_to_those_that_follow(tmp_path):
    """A test that hangs does not take the sanitizers' time; alone, a part has all."""
    check = check_in(tmp_path, 500.0)
    assert 494 < check.left("measure") <= 495
    check.options.only = ["tests", "sanitize", "measure"]
    left = [check.left(part) for part in ("build", "measure", "tests", "sanitize")]
    assert left == pytest.approx([245, 245, 395, 495], abs=1)


def test_two_calls_are_one_check(standin, tmp_path, capsys):
    """From end to end, with short stand-ins."""
    folder = tmp_path / "found"
    first, second = (
        ["--results", str(folder), "--only", *names]
        for names in (["measure", "smoke", "build"], ["tests", "sanitize"])
    )
    assert gpu_check.main(first) == 0
    lines = capsys.readouterr().out.splitlines()
    order = [line.split(",")[0] for line in lines if line.endswith("s left")]
    assert order == ["build", "smoke", "measure"]
    assert sum(line.startswith("mean fwd, B 128") for line in lines) == 6  # at once, and at the end
    assert gpu_check.main(second) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[-1] == "passed" and "mean fwd" in text and "tests: 3 passed" in text
    assert "could not run: none in CUDA_HOME" in text and "build: 1 of 1 right" in text
    assert len(list(folder.iterdir())) <= 8
    result = json.loads(next(folder.glob("a-gpu-*.json")).read_text())
    assert [line["name"] for line in result["parts"]["smoke"]] == ["crop_resize"]
    assert gpu_check.main(["--table", "--results", str(folder)]) == 0
    assert capsys.readouterr().out == text[text.index("torch 2.11") :]
    assert gpu_check.main(["--table", "--results", str(folder), str(tmp_path / "none")]) == 2
    with pytest.raises(SystemExit):
        gpu_check.main(["--results", str(folder), str(folder)])


def test_a_process_that_dies_costs_one_group(standin, tmp_path):
    standin(die=GROUPS[1])
    check = check_in(tmp_path)
    parts.measure(check)
    found = check.found()
    assert found.done == {GROUPS[0], GROUPS[2]} and not found.passed
    assert found.failed == {GROUPS[1]: f"ended with status -6: measuring {GROUPS[1]}"}


def test_what_was_not_reached_is_named(standin, tmp_path, time_ends):
    standin(hang=GROUPS[1])
    time_ends(tmp_path / "pids")
    check = check_in(tmp_path)
    parts.measure(check)
    found = check.found()
    assert found.left_out == GROUPS[1:] and found.failed == {} and not found.passed
    assert_ends(*map(int, (tmp_path / "pids").read_text().split()))


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL])
def test_a_kill_loses_nothing(kill, standin, tmp_path, capsys):
    standin(hang=GROUPS[1])
    folder, pids = tmp_path / "found", tmp_path / "found" / "pids"
    output = tmp_path / "printed"
    output.touch()
    check = os.fork()
    if check == 0:
        try:
            os.dup2(os.open(output, os.O_WRONLY), 1)
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115, of this process
            gpu_check.main(["--only", "measure", "--results", str(folder)])
        except SystemExit as end:
            os._exit(end.code)
        finally:
            os._exit(1)
    end = time.monotonic() + 60
    while not (pids.exists() and "mean fwd" in output.read_text()) and time.monotonic() < end:
        time.sleep(0.02)
    measuring, child = map(int, pids.read_text().split())
    os.kill(check, kill)
    code = os.waitstatus_to_exitcode(os.waitpid(check, 0)[1])
    assert code == (128 + kill if kill == signal.SIGTERM else -kill)
    assert_ends(measuring)  # after SIGKILL of what has a parent
    if kill == signal.SIGTERM:
        assert_ends(child)
    else:
        os.kill(child, signal.SIGKILL)
    printed = output.read_text()
    assert "mean fwd" in printed  # as soon as it was measured
    assert ("left out, no time" in printed) == (kill == signal.SIGTERM)
    assert gpu_check.main(["--table", "--results", str(folder)]) == 1
    text = capsys.readouterr().out
    assert "mean fwd" in text and f"left out, no time: {GROUPS[1]}" in text


def test_a_group_that_hangs_ends_the_process(monkeypatch, tmp_path):
    """By SIGALRM, in its own time or in what is left of all; with too little left none begins."""
    monkeypatch.setattr(run, "machine", lambda device: FACTS)
    monkeypatch.setattr(gpu_measure, "LEAST_SECONDS", 0.05)
    monkeypatch.setattr(gpu_measure, "measure_group", lambda *arguments: time.sleep(30))
    group = "mean bf16 B 12"

    def measure(left):
        writer = figures.Writer(tmp_path)
        return runs.in_fork(lambda: gpu_measure.measure([group], lambda: left, writer.write))

    assert measure(0.2) == -signal.SIGALRM
    assert measure(0.01) == 0 and figures.read(tmp_path).done == set()
    entry = gpu_rows.Entry(lambda sizes, device: [], seconds=0.2)
    monkeypatch.setitem(gpu_rows.ROWS, "mean bf16", entry)
    assert measure(60.0) == -signal.SIGALRM


def test_the_budgets_rows_come_first_and_torch_compile_last():
    groups = gpu_rows.groups()
    budget = [group.split()[0] in gpu_rows.BUDGET for group in groups]
    compiled = [group.endswith(gpu_rows.AGAIN) for group in groups]
    first = compiled.index(True)
    assert compiled == [False] * first + [True] * (len(groups) - first)
    assert budget[:first] == sorted(budget[:first], reverse=True)
    assert {group.split()[0] for group in groups[:10]} >= {"mean", "views", "step"}
    seconds = sum(gpu_rows.entry_of(group)[0].seconds for group in groups if "step" in group)
    assert seconds <= 240  # of the 300 that the first call measures for


def test_the_build_is_for_this_gpu(standin, tmp_path, monkeypatch):
    monkeypatch.delenv("WSDAN_CUDA_ARCHS", raising=False)

    def run_jobs(jobs, *arguments):
        assert jobs[0].environment == {"WSDAN_CUDA_ARCHS": "100", "WSDAN_CUDA": "1"}
        jobs[0].status = 0

    monkeypatch.setattr(parts, "run_jobs", run_jobs)
    check = check_in(tmp_path)
    parts.build(check)
    assert check.found().problems("build") == []


def test_the_build_needs_neither_pip_nor_the_metadata(monkeypatch):
    """A setuptools before 77 refuses the project's license, which stands in the metadata."""

    def parse_config_files(*arguments, **options):
        raise AssertionError("the metadata was read")

    built = []
    monkeypatch.setattr(build.Distribution, "parse_config_files", parse_config_files)
    for library in (build.setup.cpu, build.setup.cuda):
        monkeypatch.setattr(library, "build", lambda path: built.append(path))
    assert build.main() == 0
    assert [os.path.abspath(path) for path in built] == [
        str(ROOT / "wsdan_kernels" / f"{name}.abi3.so") for name in ("_cpu", "_cuda")
    ]


def test_the_files_whose_tests_run_on_a_gpu_are_run():
    """Those that place tensors on it, or are skipped without it; all others hide it."""
    places = re.compile(r"parity\.GPU|import .*\bGPU\b|\bDEVICE\[|runnable\(|needs .* NVIDIA GPU")
    without = {"test_gpu_check.py"}
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if path.name not in without]
    found = {path for path in files if places.search(path.read_text(encoding="utf-8"))}
    assert {str(path.relative_to(ROOT)) for path in found} == set(parts.ON_GPU)
    names = [job.name for job in parts.test_jobs()]
    assert len(set(names)) == len(names) == len(parts.ON_GPU) - 1 + parts.SLICES


@pytest.mark.slow
def test_slices_are_the_whole(tmp_path):
    """One as gpu_check calls pytest, then all of the plugin alone."""
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.parametrize('i', range(5))\ndef test(i):\n    assert i\n"
    )
    one = parts.test_jobs()[0]
    one.command[-3:] = ["--shard", "0/2"]
    one.command += ["-c", os.devnull, str(tmp_path / "test_it.py")]
    jobs.run_jobs([one], tmp_path / "it.log", 1, 60.0)
    assert dict(parts.counted(one)[0]) == {"failed": 1, "passed": 2}
    one.text, one.status = one.text[: one.text.index("= FAILURES =")], None
    counts, problems = parts.counted(one)
    assert counts == {"failed": 1, "passed": 2} and len(problems) == 2
    slices = [sliced(f"{i}/3", range(5)) for i in range(3)]
    assert slices == [([0, 3], [1, 2, 4]), ([1, 4], [0, 2, 3]), ([2], [0, 1, 3, 4])]


def sliced(part, collected):
    """What the plugin keeps of these items, and what it tells pytest that it left out."""
    items, left_out = list(collected), []
    hook = SimpleNamespace(pytest_deselected=lambda items: left_out.extend(items))
    config = SimpleNamespace(getoption={"--shard": part}.get, hook=hook)
    shard.pytest_collection_modifyitems(config, items)
    return items, left_out


def test_what_pytest_said():
    one = Job("tests/test_a.py", [])
    assert parts.counted(one)[1] == ["tests/test_a.py: not begun, no time: no output"]
    one.text = (
        "..F\nFAILED tests/test_a.py::test_b - assert 1 == 2\nERROR tests/test_a.py::test_c\n"
        "1 failed, 12 passed, 2 skipped, 3 warnings, 1 error in 3.21s\n"
    )
    one.status = 1
    counts, problems = parts.counted(one)
    assert counts == {"failed": 1, "passed": 12, "skipped": 2, "error": 1}
    assert [problem.split()[0] for problem in problems] == ["FAILED", "ERROR"]
    one.text, one.status = "tests/test_a.py::test_b PASSED [ 5%]\ntests/test_a.py::test_c ", None
    one.begun = True
    counts, problems = parts.counted(one)
    assert counts == {"passed": 1}
    assert problems == ["tests/test_a.py: not ended in its time: tests/test_a.py::test_c"]
    one.text, one.status = "5 passed in 1.00s\n", 0
    assert parts.counted(one) == ({"passed": 5}, [])


SUMMARY = "========= ERROR SUMMARY: {} errors"
WATCHED = f"{sanitized.PROBED}\n{SUMMARY.format(0)}"


@pytest.mark.parametrize(
    ("probe", "kernels", "status", "right", "found"),
    [
        (WATCHED, 0, 0, True, "0 errors, 0 warnings in 9 calls"),
        (WATCHED, 2, 9, False, "2 errors, 0 warnings in 9 calls"),
        ("========= Device not supported", 0, 0, None, "could not run: Device not supported"),
        (f"{sanitized.PROBED}\n", 0, 0, None, "could not run: status 0 and no summary"),
    ],
)  # fmt: skip
def test_the_sanitizers_decide_where_they_can_watch(
    probe, kernels, status, right, found, standin, tmp_path, monkeypatch
):
    """A program in compute-sanitizer's place, which tells what that would."""
    program = tmp_path / "compute-sanitizer"
    text = f"{sanitized.DONE}9 calls of cuda\n{SUMMARY.format(kernels)}"
    program.write_text(
        f"#!/bin/sh\nfor last; do :; done\n"
        f"if [ $last = --probe ]; then echo '{probe}'; exit 0; fi\n"
        f"echo '{text}'; exit {status}\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(sanitized, "program", lambda: str(program))
    check = check_in(tmp_path / "found")
    parts.sanitize(check)
    lines = check.found().ended["sanitize"]
    assert sorted(lines) == ["memcheck crop_resize", "racecheck crop_resize"]
    assert [line["ok"] for line in lines.values()] == [right] * 2
    assert all(found in line["found"] for line in lines.values())
