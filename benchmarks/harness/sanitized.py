"""Every kernel for the GPU at small odd shapes: alone, and for compute-sanitizer to watch.

compute-sanitizer --tool memcheck|racecheck python -m benchmarks.harness.sanitized [OPERATOR ...]:
forward and backward of the cases of testing.py, with every tensor in memory of its own, so that no
neighbour hides an access out of bounds. With --probe a single addition of torch instead: what
compute-sanitizer cannot watch that under, it cannot watch at all. gpu_check calls it and reads its
log by what stands here.
"""

import argparse
import itertools
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Collection

import torch
from harness import run
from torch import Tensor

from wsdan_kernels import backends
from wsdan_kernels.ops import KERNELS
from wsdan_kernels.testing import CASES, OpCase

TOOLS = ("memcheck", "racecheck")
BACKENDS = ("triton", "cuda")
# These take uint8 images too.
OF_BYTES = ("crop_resize", "attention_swap", "attention_drop", "attention_crop_drop")
FOUND = 9  # the exit status where the tool found something
SUMMARY = re.compile(
    r"(?:ERROR|RACECHECK) SUMMARY: (\d+)[^(\n]*(?:\((\d+) errors?, (\d+) warnings?\))?"
)
DONE = "ran every kernel: "
PROBED = "ran the probe"


def program() -> str | None:
    """compute-sanitizer, where this machine has it."""
    folders = [os.environ["PATH"], "/usr/local/cuda/bin"]
    if home := os.environ.get("CUDA_HOME"):
        folders.insert(0, os.path.join(home, "bin"))
    return shutil.which("compute-sanitizer", path=os.pathsep.join(folders))


def command(sanitizer: str, tool: str, *arguments: str) -> list[str]:
    """torch asks the driver for things it may lack, so failing calls of the API are no findings."""
    options = ["--report-api-errors", "no", "--target-processes", "application-only"]
    watched = [sys.executable, "-m", "benchmarks.harness.sanitized", *arguments]
    return [sanitizer, "--tool", tool, "--error-exitcode", str(FOUND), *options, *watched]


def operators() -> list[str]:
    """Those with a kernel for the GPU."""
    return sorted(op for op, kernels in KERNELS.items() if kernels.keys() & set(BACKENDS))


def refused(status: int | None, text: str) -> str | None:
    """Why compute-sanitizer can watch nothing here, from what became of the probe; or None."""
    if status == 0 and PROBED in text and SUMMARY.search(text):
        return None
    if status is None:
        return "it has not ended over a single addition"
    lines = [line.strip("= ") for line in text.splitlines()]
    telling = [line for line in lines if re.search(r"error|not supported|fail|denied", line, re.I)]
    return (telling or [f"status {status} and no summary over a single addition"])[0]


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


def run_all(
    device: str, names: tuple[str, ...] = BACKENDS, ops: Collection[str] = tuple(KERNELS)
) -> Counter:
    """Run all that these backends have for the device and the operators; how many calls each made.

    Prints each call before it is made: the last one is that which a fault ended.
    """
    calls = Counter()
    for case in [case for case in CASES if case.op in ops]:
        shapes = {torch.float32: case.shapes[0], torch.bfloat16: case.shapes[-1]}
        if case.op in OF_BYTES:
            shapes[torch.uint8] = case.shapes[0]
        for name, (dtype, shape) in itertools.product(names, shapes.items()):
            if backends.why_not(case.op, name, device, dtype) is None:
                print(f"{case} of {name}, {str(dtype).removeprefix('torch.')} {shape}", flush=True)
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ops", nargs="*", metavar="OPERATOR", help="these only (default: all)")
    parser.add_argument("--probe", action="store_true", help="a single addition of torch")
    options = parser.parse_args()
    os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"  # torch reads it as it first allocates
    if reason := run.use("cuda"):
        print(reason)
        return 2
    if options.probe:
        torch.ones(1000, device="cuda").add_(1).sum().item()
        print(PROBED)
        return 0
    ops = options.ops or operators()
    calls = run_all("cuda", ops=ops)
    torch.cuda.synchronize()
    print(DONE + ", ".join(f"{count} calls of {name}" for name, count in calls.items()))
    wanted = {name for op in ops for name in BACKENDS if name in KERNELS[op]}
    return 0 if calls.keys() == wanted else 1


if __name__ == "__main__":
    raise SystemExit(main())
