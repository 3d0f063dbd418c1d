"""Every kernel for the GPU at small odd shapes, for NVIDIA's compute-sanitizer to watch.

compute-sanitizer --tool memcheck|racecheck python -m benchmarks.harness.sanitized: forward and
backward of the cases of testing.py, with every tensor in memory of its own, so that no neighbour
hides an access out of bounds. gpu_check calls it and reads its log by what stands here.
"""

import itertools
import os
import re
import shutil
import sys
from collections import Counter

import torch
from harness import run
from torch import Tensor

from wsdan_kernels import backends
from wsdan_kernels.testing import CASES, OpCase

TOOLS = ("memcheck", "racecheck")
BACKENDS = ("triton", "cuda")
OF_BYTES = ("crop_resize", "attention_drop", "attention_crop_drop")  # these take uint8 images too
FOUND = 9  # the exit status where the tool found something
SUMMARY = re.compile(
    r"(?:ERROR|RACECHECK) SUMMARY: (\d+)[^(\n]*(?:\((\d+) errors?, (\d+) warnings?\))?"
)
DONE = "ran every kernel: "


def program() -> str | None:
    """compute-sanitizer, where this machine has it."""
    folders = [os.environ["PATH"], "/usr/local/cuda/bin"]
    if home := os.environ.get("CUDA_HOME"):
        folders.insert(0, os.path.join(home, "bin"))
    return shutil.which("compute-sanitizer", path=os.pathsep.join(folders))


def command(sanitizer: str, tool: str) -> list[str]:
    """torch asks the driver for things it may lack, so failing calls of the API are no findings."""
    options = ["--report-api-errors", "no", "--target-processes", "application-only"]
    watched = [sys.executable, "-m", "benchmarks.harness.sanitized"]
    return [sanitizer, "--tool", tool, "--error-exitcode", str(FOUND), *options, *watched]


def verdict(status: int | None, text: str) -> tuple[bool, str]:
    """Whether all kernels ran and no error was found, and what was, from status and log.

    racecheck warns of accesses that may well be ordered by what it does not see; they are told, and
    decide nothing.
    """
    found = SUMMARY.search(text)
    if found is None or DONE not in text or status not in (0, FOUND):
        ended = "not ended in its time" if status is None else f"ended with status {status}"
        return False, f"{ended}, before a summary or with kernels not run"
    errors, warnings = int(found[2] or found[1]), int(found[3] or 0)
    if status == FOUND and not errors + warnings:
        return False, "ended as if it had found something, which it does not tell"
    kernels = next(line for line in text.splitlines() if DONE in line).partition(DONE)[2]
    return errors == 0, f"{errors} errors, {warnings} warnings in {kernels}"


def run_all(device: str, names: tuple[str, ...] = BACKENDS) -> Counter:
    """Run all that these backends have for the device; how many calls each made."""
    calls = Counter()
    for case in CASES:
        shapes = {torch.float32: case.shapes[0], torch.bfloat16: case.shapes[-1]}
        if case.op in OF_BYTES:
            shapes[torch.uint8] = case.shapes[0]
        for name, (dtype, shape) in itertools.product(names, shapes.items()):
            if backends.why_not(case.op, name, device, dtype) is None:
                run_case(case, name, device, dtype, shape)
                calls[name] += 1
    return calls


def run_case(
    case: OpCase, backend: str, device: str, dtype: torch.dtype, shape: tuple[int, ...]
) -> list[Tensor]:
    """The outputs, and the gradients of what has one; bfloat16 as channels_last.

    dtype: of all inputs; torch.uint8 of the images only, which then have no gradient.
    """
    inputs, of_bytes = {}, dtype == torch.uint8
    for name, value in case.inputs(shape, torch.float32 if of_bytes else dtype).items():
        value = value.detach().to(device)
        if of_bytes and name == "images":
            value = (64 * value).clamp(0, 255).to(dtype)
        if value.dim() == 4 and dtype == torch.bfloat16:
            value = value.contiguous(memory_format=torch.channels_last)
        inputs[name] = value.requires_grad_(name in case.differentiable and not of_bytes)
    outputs = run.tensors(case.run(inputs, backend))
    smooth = [output for output in outputs if output.requires_grad]
    leaves = [inputs[name] for name in case.differentiable]
    upstreams = [torch.ones_like(output) for output in smooth]
    gradients = torch.autograd.grad(smooth, leaves, upstreams) if smooth else ()
    return [*outputs, *gradients]


def main() -> int:
    os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"  # torch reads it as it first allocates
    if reason := run.use("cuda"):
        print(reason)
        return 2
    calls = run_all("cuda")
    torch.cuda.synchronize()
    print(DONE + ", ".join(f"{count} calls of {name}" for name, count in calls.items()))
    return 0 if calls.keys() == set(BACKENDS) else 1


if __name__ == "__main__":
    raise SystemExit(main())
