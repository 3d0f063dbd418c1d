"""Times other tiles for the Triton kernels on this GPU: python -m benchmarks.harness.tune.

For each entry of wsdan_kernels/_triton/_tuning.TILES: a handful of tiles around the shipped one, at
the paper's shape, and the line to paste where another is faster. Nothing calls this by itself.
"""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from statistics import median

import bap_bench
import torch
from harness import gpu, run

from wsdan_kernels._triton import _tuning as tuning
from wsdan_kernels._triton._tuning import Tile
from wsdan_kernels.testing import TOLERANCES, relative_error

SAMPLES = 15
DTYPES = {2: torch.bfloat16, 4: torch.float32}
MAPS = (32, 128)  # at most FEW_MAPS, and more
GAIN = 1.03  # less is noise


def candidates(own: Tile) -> list[Tile]:
    """The shipped tile, then its neighbours: half and twice each of its figures."""
    tiles = [own]
    for name, least, most in (("channels", 16, 256), ("positions", 16, 128), ("warps", 2, 8)):
        value = getattr(own, name)
        tiles += [
            own._replace(**{name: other})
            for other in (value // 2, value * 2)
            if least <= other <= most
        ]
    tiles += [own._replace(stages=own.stages + step) for step in (-1, 1) if own.stages + step > 0]
    return tiles


@contextlib.contextmanager
def tried(kernel: str, size: int, place: int, tile: Tile) -> Iterator[None]:
    """In the body every GPU takes this tile for at most FEW_MAPS maps (place 0), or more (1)."""
    before = tuning.TILES[kernel, size]
    tuning.TILES[kernel, size] = {
        capability: tuple(tile if i == place else other for i, other in enumerate(tiles))
        for capability, tiles in before.items()
    }
    try:
        yield
    finally:
        tuning.TILES[kernel, size] = before


def call_of(kernel: str, size: int, maps: int, batch: int) -> Callable[[], object]:
    """Ours at the paper's shape: the forward for "pool", with the backward for "gradients"."""
    shape = (batch, maps, *bap_bench.paper_pool(batch)[2:])
    layout = torch.channels_last if size == 2 else torch.contiguous_format
    arguments = (gpu.NAME, DTYPES[size], layout)
    if kernel == "attend":
        work = bap_bench.attend_work(shape, *arguments)
    else:
        forward, both = bap_bench.pool_works(shape, "mean", *arguments)
        work = forward if kernel == "pool" else both
    return work.variants["triton"]


def seconds(call: Callable[[], run.Result], truth: run.Result, size: int) -> float | None:
    """Of one call, or None where the GPU does not take the tile. truth: the shipped tile's result.

    AssertionError where the tile changes the result by more than the dtype's tolerance.
    """
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import OutOfResources

    try:
        values = run.tensors(call())
    except (CompilationError, OutOfResources):
        return None
    for value, right in zip(values, run.tensors(truth), strict=True):
        error = relative_error(value, right)
        assert error <= TOLERANCES[DTYPES[size]], f"the tile changes the result by {error:.1e}"
    watch = gpu.Stopwatch(call)
    return median(watch() for _ in range(SAMPLES))


def entry_text(kernel: str, size: int, capability: int, tiles: tuple[Tile, ...]) -> str:
    """A line of the table."""
    listed = ", ".join(f"Tile{tuple(tile)}" for tile in tiles)
    return f'("{kernel}", {size}): {{{capability}: ({listed},)}},'


def entries() -> list[str]:
    """The entries of the table, "<kernel> <bytes of an element>"."""
    return [f"{kernel} {size}" for kernel, size in tuning.TILES]


def tune(kernel: str, size: int, batch: int) -> str:
    """The line to paste for this entry; prints what each tile takes."""
    major, minor = torch.cuda.get_device_capability()
    capability = 10 * major + minor
    newest = max(known for known in tuning.TILES[kernel, size] if known <= capability)
    best = list(tuning.TILES[kernel, size][newest])
    for place, own in enumerate(best):
        call = call_of(kernel, size, MAPS[place], batch)
        truth, times = call(), {}
        for tile in candidates(own):
            with tried(kernel, size, place, tile):
                times[tile] = seconds(call, truth, size)
            text = "does not fit" if times[tile] is None else f"{1e6 * times[tile]:.2f} us"
            print(f"{kernel} {size} bytes, {MAPS[place]} maps: {tile}: {text}", flush=True)
        fits = {tile: time for tile, time in times.items() if time is not None}
        fastest = min(fits, key=fits.get)
        if fits[own] > GAIN * fits[fastest]:
            best[place] = fastest
    return entry_text(kernel, size, capability, tuple(best))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128, help="images (default: 128)")
    parser.add_argument("--entry", choices=entries(), help="this one only (default: all)")
    options = parser.parse_args()
    if reason := run.use(gpu.NAME):
        print(f"tune: {reason}")
        return 2
    wanted = [options.entry] if options.entry else entries()
    lines = []
    for kernel, size in (entry.split() for entry in wanted):
        lines.append(tune(kernel, int(size), options.batch))
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
