"""What needs a GPU says in one line that there is none."""

import json
import sys

import pytest
from checking.jobs import Job, run_jobs
from paths import ROOT

pytestmark = pytest.mark.slow
SCRIPT = ["benchmarks/bap_bench.py", "--device", "cuda"]
# Run one after the other in one process, which imports torch once.
COMMANDS = [
    ["-m", "benchmarks.gpu_check"],
    ["-m", "benchmarks.harness.gpu_measure", "--out", "build", "--seconds", "1", "centers B 12"],
    ["-m", "benchmarks.harness.tune"],
    ["-m", "benchmarks.bap_bench", "--device", "cuda"],
    ["-m", "benchmarks.augment_bench", "--device", "cuda"],
    ["-m", "benchmarks.harness.sanitized"],
    ["benchmarks/train_bench.py", "--device", "cuda"],
    ["benchmarks/inference_bench.py", "--device", "cuda"],
]
# As python runs a module or a script, each without what the others have imported from here.
RUN = f"""
import contextlib, io, json, os, runpy, sys
path = list(sys.path)
for command in json.loads(sys.argv[1]):
    text, status = io.StringIO(), None
    script = command[0] != "-m"
    sys.path[:] = [os.path.dirname(command[0]), *path[1:]] if script else path
    sys.argv = command if script else command[1:]
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith({str(ROOT / "benchmarks")!r}):
            del sys.modules[name]
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            if script:
                runpy.run_path(command[0], run_name="__main__")
            else:
                runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        except SystemExit as end:
            status = end.code
    print(json.dumps([status, text.getvalue()]), flush=True)
"""


def ran(folder, *command):
    one = Job("it", [sys.executable, *command], {"CUDA_VISIBLE_DEVICES": ""})
    run_jobs([one], folder / "it.log", 1, 120.0)
    return one.status, one.text


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Status and text of each of COMMANDS."""
    status, text = ran(tmp_path_factory.mktemp("ran"), "-c", RUN, json.dumps(COMMANDS))
    assert status == 0, text
    return dict(zip(map(str, COMMANDS), map(json.loads, text.splitlines()), strict=True))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_without_a_gpu_there_is_one_line(command, outcomes):
    assert_one_line(*outcomes[str(command)])


def test_without_a_gpu_a_script_ends_with_one_line(tmp_path):
    assert_one_line(*ran(tmp_path, *SCRIPT))


def assert_one_line(status, text):
    lines = text.splitlines()
    assert status == 2
    assert len(lines) == 1 and "sees no CUDA device" in lines[0]
