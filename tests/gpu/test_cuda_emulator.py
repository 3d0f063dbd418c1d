"""The emulator of CUDA: right kernels give right results, and each planted fault is found."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from emulator import build
from emulator.planted import LaunchError, Planted
from parity import values

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(build.missing() is not None, reason=str(build.missing())),
]
HERE = Path(__file__).parent
each_seed = pytest.mark.parametrize("seed", range(4))


@pytest.fixture(scope="module")
def planted():
    return Planted()


def blank(*shape, dtype=torch.float32):
    return torch.full(shape, 77, dtype=dtype)


def found(planted, *call):
    """The text of the error that a launch must give."""
    with pytest.raises(LaunchError) as error:
        planted.run(*call)
    return str(error.value)


@each_seed
def test_barriers_and_shared_memory(planted, seed):
    planted.seed(seed)
    given, result = values((5, 96)), blank(5, 96)
    planted.run("reverse", given, result, 5, 96, 1)
    assert torch.equal(result, given.flip(1))


@each_seed
def test_a_sum_by_shuffles(planted, seed):
    planted.seed(seed)
    given = torch.arange(4 * 256).float().view(4, 256)
    result = blank(4)
    planted.run("sum_blocks", given, result, 4, 256)
    assert torch.equal(result, given.sum(1))


def test_every_thread_of_a_grid_runs_once(planted):
    result = blank(30, 24, dtype=torch.int32)
    planted.run("places", result)
    assert torch.equal(result, torch.arange(30)[:, None] * 10000 + torch.arange(24))


def test_votes_and_shuffles(planted):
    given = values((64,))
    given[32:] = given[32:].abs() + 1
    lanes, shuffled = blank(2, 4, dtype=torch.int32), blank(5, 64)
    planted.run("votes", given, lanes, shuffled, 64)
    positive = (given > 0).view(2, 32)
    bits = (positive.long() << torch.arange(32)).sum(1)
    expected = [bits, positive.any(1), positive.all(1), positive.sum().expand(2)]
    assert torch.equal(lanes.long() & 0xFFFFFFFF, torch.stack([e.long() for e in expected], 1))
    lane = torch.arange(64) % 32
    sources = (
        torch.full((64,), 5),
        torch.where(lane + 3 < 32, lane + 3, lane),
        torch.where(lane % 16 >= 3, lane - 3, lane),
        lane // 8 * 8 + 1,
        torch.where(lane < 12, lane ^ 1, lane),
    )
    rows = given.view(2, 32)
    for values_found, source in zip(shuffled, sources, strict=True):
        assert torch.equal(values_found.view(2, 32), rows.gather(1, source.view(2, 32)))


@each_seed
def test_atomics_of_all_blocks(planted, seed):
    planted.seed(seed)
    given = torch.arange(6 * 32, dtype=torch.int32) % 7
    counts = torch.zeros(7, dtype=torch.int32)
    planted.run("histogram", given, counts, None, 6, 1)
    assert torch.equal(counts.long(), given.long().bincount())
    error = found(planted, "histogram", given, counts, None, 6, 0)
    assert "planted::histogram" in error and "race: it " in error and "planted.cu:" in error
    error = found(planted, "histogram", given, counts, torch.zeros_like(given), 6, 1)
    assert "race: it " in error and " reads " in error and " updates " in error


@each_seed
def test_a_missing_barrier_is_a_race(planted, seed):
    planted.seed(seed)
    error = found(planted, "reverse", values((2, 96)), blank(2, 96), 2, 96, 0)
    assert "planted::reverse, block (" in error and "of the shared memory" in error
    line = source_line("line[blockDim.x - 1 - i]")
    assert f"planted.cu:{line}" in error


def source_line(text):
    """The line of planted.cu that holds this."""
    lines = (HERE / "emulator" / "planted.cu").read_text(encoding="utf-8").splitlines()
    return next(i for i, line in enumerate(lines, 1) if text in line)


def test_each_seed_is_another_order(planted):
    errors = set()
    for seed in range(6):
        planted.seed(seed)
        errors.add(found(planted, "reverse", values((2, 96)), blank(2, 96), 2, 96, 0))
    assert len(errors) > 1


@each_seed
def test_a_race_between_blocks(planted, seed):
    planted.seed(seed)
    given = values((6 * 16,))
    result = blank(6 * 16)
    planted.run("scale", given, result, 6, 0)
    assert torch.equal(result, 2 * given)
    given, result = values((6 * 16 + 1,)), blank(6 * 16 + 1)
    error = found(planted, "scale", given, result, 6, 1)
    assert "race: it writes the byte at 0x" in error and "thread (15, 0, 0)" in error


@each_seed
def test_only_syncwarp_orders_a_warp(planted, seed):
    planted.seed(seed)
    given, result = values((64,)), blank(64)
    planted.run("neighbours", given, result, 1)
    assert torch.equal(result.view(32, 2), given.view(32, 2).flip(1))
    assert "race: " in found(planted, "neighbours", given, result, 0)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (1, "Threads 40 have ended; threads 0-39, 41-63 wait in __syncthreads at "),
        (2, "a barrier for some threads is another for others. "),
    ],
)
def test_a_barrier_that_not_all_threads_reach(planted, fault, message):
    result = blank(64)
    assert message in found(planted, "barriers", result, fault)
    planted.run("barriers", result, 0)
    assert torch.equal(result, torch.ones(64))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (1, "Threads 31 have ended; threads 0-30 wait in __shfl_xor_sync at "),
        (2, "its own lane 31 is not in the mask"),
        (3, "reads lane 20, which is not in the mask"),
    ],
)
def test_a_shuffle_with_missing_lanes(planted, fault, message):
    result = blank(32)
    assert message in found(planted, "lanes", result, fault)
    planted.run("lanes", result, 0)
    assert torch.equal(result, torch.arange(32).float().view(16, 2).flip(1).flatten())


def test_the_local_memory_of_another_thread(planted):
    result = blank(32)
    planted.run("locals", result, 1)
    assert torch.equal(result, torch.arange(32).float())
    assert "touches another thread's local memory" in found(planted, "locals", result, 0)


def test_a_chunk_that_is_not_aligned(planted):
    given, result = torch.arange(8.0), blank(4)
    assert given.data_ptr() % 16 == 0
    planted.run("copy_chunk", given, result, 4)
    assert torch.equal(result, given[4:])
    error = found(planted, "copy_chunk", given, result, 3)
    assert "touches 16 bytes at the byte at 0x" in error and "not a multiple" in error


def test_shared_memory_out_of_bounds(planted):
    result = blank(32)
    planted.run("fill_shared", result, 100, 400, 0)
    assert torch.equal(result, torch.arange(32).float())
    error = found(planted, "fill_shared", result, 101, 400, 0)
    assert "touches 4 bytes at byte 400 of the shared memory, but it has 400" in error


def test_shared_memory_beyond_48_kb_must_be_asked_for(planted):
    result, size = blank(32), 60 * 1024
    assert "but the kernel's limit is 49152" in found(
        planted, "fill_shared", result, size // 4, size, 0
    )
    planted.run("fill_shared", result, size // 4, size, size)
    most = 232448
    error = found(planted, "fill_shared", result, most // 4 + 1, most + 4, most + 4)
    assert f"{most + 4} bytes of shared memory" in error
    planted.run("fill_shared", result, most // 4, most, most)


def test_shared_memory_is_nan_before_it_is_written(planted):
    result = blank(32)
    planted.run("fill_shared", blank(32), 32, 128, 0)
    planted.run("read_shared", result)
    assert result.isnan().all()


def test_a_launch_that_no_gpu_takes(planted):
    result = blank(1024)
    assert "grid is too large" in found(planted, "shape", result, 65536, 32)
    assert "1 to 1024 threads" in found(planted, "shape", result, 1, 1025)
    assert "1 to 1024 threads" in found(planted, "shape", result, 1, 0)
    assert "grid is empty" in found(planted, "shape", result, 0, 32)


def test_a_static_shared_array_does_not_compile(tmp_path):
    """Each thread would have its own."""
    for qualifier, compiles in (("__shared__", False), ("", True)):
        source = tmp_path / "static.cu"
        source.write_text(f"__global__ void f() {{ {qualifier} float x[1]; x[0] = 0; }}")
        include = ("-I", HERE / "emulator" / "include", "-include", "cuda_runtime.h")
        command = [build.COMPILER, "-std=c++20", "-fsyntax-only", *include, "-x", "c++", source]
        result = subprocess.run(command, capture_output=True, text=True)
        assert (result.returncode == 0) == compiles, result.stderr


def under_address_sanitizer(code):
    """Runs in a process of its own, which has the sanitizers' libraries loaded first."""
    libraries = [
        subprocess.run(
            [build.COMPILER, f"-print-file-name={name}"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]  # fmt: skip
    if not all(Path(path).is_absolute() for path in libraries):
        pytest.skip(f"{build.COMPILER} has no libasan and libubsan")
    return subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "LD_PRELOAD": " ".join(libraries),
            "ASAN_OPTIONS": "detect_leaks=0",
            "WSDAN_EMULATOR": "address",
        },
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=300,
    )


ADDRESSES = """
import torch
from emulator.planted import Planted
planted = Planted()
given, result, line = torch.ones(97), torch.zeros({size}), torch.zeros(32)
planted.run("scale", given, result, 6, {reach})
assert result[:96].eq(2).all()
planted.run("reverse", given, result, 3, 32, 1)
planted.run("fill_shared", line, {count}, 400, 0)
print("survived")
"""


@pytest.mark.slow
def test_address_sanitizer_runs_the_kernels():
    result = under_address_sanitizer(ADDRESSES.format(size=96, reach=0, count=100))
    assert result.returncode == 0 and "survived" in result.stdout, result.stderr


@pytest.mark.parametrize(
    ("fault", "finding"),
    [({"size": 96, "reach": 1, "count": 100}, "heap-buffer-overflow"),
     ({"size": 96, "reach": 0, "count": 101}, "use-after-poison")],
)  # fmt: skip
@pytest.mark.slow
def test_address_sanitizer_finds_what_is_out_of_bounds(fault, finding):
    result = under_address_sanitizer(ADDRESSES.format(**fault))
    assert result.returncode != 0 and "survived" not in result.stdout
    assert finding in result.stderr and "planted.cu" in result.stderr
