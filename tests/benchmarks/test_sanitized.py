"""What compute-sanitizer is given to watch, and how its log is read, without a GPU."""

import contextlib

import pytest
import torch
from emulator import build, install
from harness import sanitized
from parity import DEVICE, EMULATED

from wsdan_kernels.ops import KERNELS
from wsdan_kernels.testing import CASES

RAN = sanitized.DONE + "40 calls of triton, 30 of cuda\n"
RACES = "========= RACECHECK SUMMARY: {} hazards displayed ({} errors, {} warnings)\n"


@pytest.mark.parametrize(
    ("status", "text", "clean", "found"),
    [
        (0, RAN + "========= ERROR SUMMARY: 0 errors\n", True, "0 errors, 0 warnings in 40 calls"),
        (9, RAN + "========= ERROR SUMMARY: 3 errors\n", False, "3 errors, 0 warnings"),
        (9, RAN + "========= ERROR SUMMARY: 1 error\n", False, "1 errors, 0 warnings"),
        (0, RAN + RACES.format(0, 0, 0), True, "0 errors, 0 warnings"),
        (9, RAN + RACES.format(5, 0, 5), True, "0 errors, 5 warnings"),
        (9, RAN + RACES.format(5, 2, 3), False, "2 errors, 3 warnings"),
        (9, RAN + "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)\n", False,
         "1 errors, 0 warnings"),
        (0, "========= ERROR SUMMARY: 0 errors\n", False, "kernels not run"),
        (0, RAN, False, "before a summary"),
        (1, RAN + "========= ERROR SUMMARY: 0 errors\n", False, "ended with status 1"),
        (9, RAN + "========= ERROR SUMMARY: 0 errors\n", False, "does not tell"),
        (None, "", False, "not ended in its time"),
    ],
)  # fmt: skip
def test_what_a_log_says(status, text, clean, found):
    verdict = sanitized.verdict(status, text)
    assert verdict[0] is clean and found in verdict[1]


@pytest.mark.parametrize(
    ("status", "text", "reason"),
    [
        (0, f"{sanitized.PROBED}\n========= ERROR SUMMARY: 0 errors\n", None),
        (0, f"{sanitized.PROBED}\n{RACES.format(0, 0, 0)}", None),
        (
            0,
            "========= Device not supported\n========= No attachable process",
            "Device not supported",
        ),
        (1, "hello\n========= Error: failed to initialize\n", "Error: failed to initialize"),
        (0, f"{sanitized.PROBED}\n", "status 0 and no summary over a single addition"),
        (None, "", "it has not ended over a single addition"),
    ],
)
def test_why_nothing_can_be_watched(status, text, reason):
    assert sanitized.refused(status, text) == reason


def test_where_the_program_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    elsewhere = sanitized.program()  # of /usr/local/cuda, or none
    for folder in ("path", "home/bin"):
        program = tmp_path / folder / "compute-sanitizer"
        program.parent.mkdir(parents=True)
        program.write_text("")
        assert sanitized.program() == elsewhere  # no program yet
        program.chmod(0o755)
        if folder == "home/bin":
            monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
        elsewhere = sanitized.program()
        assert elsewhere == str(program)


OF_BYTES = [case for case in CASES if case.op in sanitized.OF_BYTES]


def test_every_case_runs_forward_and_backward():
    calls = sanitized.run_all("cpu", ("reference",))
    assert calls == {"reference": 2 * len(CASES) + len(OF_BYTES)} and len(OF_BYTES) >= 5
    case = next(case for case in CASES if case.op == "attention_crop_drop")
    results = sanitized.run_case(case, "reference", "cpu", torch.bfloat16, (2, 4, 4, 9, 11))
    assert [result.shape for result in results] == [(2, 3, 9, 11)] * 3  # crops, drops, gradient
    assert results[0].is_contiguous(memory_format=torch.channels_last)
    results = sanitized.run_case(case, "reference", "cpu", torch.uint8, (2, 4, 4, 9, 11))
    assert [result.dtype for result in results] == [torch.uint8] * 2 and bool(results[0].any())


@pytest.mark.slow
def test_the_gpus_kernels_run():
    calls = sanitized.run_all(DEVICE["triton"], ("triton",))
    assert calls["triton"] == 2 * sum("triton" in KERNELS[case.op] for case in CASES)


@pytest.mark.skipif(EMULATED and build.missing() is not None, reason="no C++ compiler")
def test_the_cuda_kernels_run():
    with install.installed() if EMULATED else contextlib.nullcontext():
        calls = sanitized.run_all(DEVICE["cuda"], ("cuda",))
    cases = sum("cuda" in KERNELS[case.op] for case in CASES)
    assert calls["cuda"] == 2 * cases + len(OF_BYTES) and cases >= 9
