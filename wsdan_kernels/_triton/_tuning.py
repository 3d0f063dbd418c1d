"""Launch configurations of the Triton kernels by kernel, dtype, maps and compute capability.

The figures follow from the bytes that must be in flight and from the compiler's report for each
GPU (docs/development/kernels.md); tests/gpu/triton_report.py compiles every one of them. A first
call compiles one configuration; nothing is searched at run time. `python -m
benchmarks.harness.tune` measures others.
"""

from typing import NamedTuple

OLDEST = 80  # compute capability 8.0, times ten


class Tile(NamedTuple):
    """Channels and positions of a program's tile, warps of a program, stages of its pipeline."""

    channels: int
    positions: int
    warps: int
    stages: int


# By (kernel, bytes of an element): the tile from the given capability on. The first for at most
# FEW_MAPS maps a program, the second for more. Those of 80 fit the 99 KiB of sm_86 and sm_89.
TILES: dict[tuple[str, int], dict[int, tuple[Tile, ...]]] = {
    ("pool", 2): {
        80: (Tile(128, 32, 8, 4), Tile(64, 64, 8, 3)),
        90: (Tile(128, 32, 8, 4), Tile(128, 64, 8, 3)),
    },
    ("pool", 4): {
        80: (Tile(128, 16, 4, 3), Tile(64, 32, 8, 3)),
        90: (Tile(128, 16, 4, 4), Tile(64, 32, 8, 3)),
        100: (Tile(128, 32, 8, 3), Tile(64, 32, 8, 3)),
    },
    ("gradients", 2): {80: (Tile(64, 32, 4, 3),), 90: (Tile(64, 64, 4, 3),)},
    ("gradients", 4): {
        80: (Tile(32, 32, 4, 2),),
        90: (Tile(32, 64, 4, 3),),
        100: (Tile(32, 64, 8, 2),),
    },
    ("attend", 2): {80: (Tile(128, 32, 8, 2),), 90: (Tile(128, 32, 8, 3),)},
}
FEW_MAPS = 64
MOST_MAPS, MOST_MAPS_BACKWARD = 128, FEW_MAPS  # of a program; more maps take several
MAX_TILE = Tile(64, 0, 4, 1)  # max pooling: MAX_MAPS maps x 64 channels in registers
MAX_MAPS = 16
MAX_GRADIENT_TILE = Tile(32, 64, 4, 1)
ROW = 1024  # channels at a time where a program has one row (image, map)
SPAN = 256  # sums at a time of what one norm spans
ATTEND_SUMS = 24 << 10  # sums (maps x channels) that a program of the attend kernel holds
FILL = 2  # programs of the pool kernel for each multiprocessor, with fewer the positions are split


def tile(kernel: str, element_bytes: int, maps: int, capability: int) -> Tile:
    """The tile for a GPU: that of the newest capability not newer than its own.

    maps: of a program's tile.
    """
    by_capability = TILES[kernel, element_bytes]
    tiles = by_capability[max(known for known in by_capability if known <= max(capability, OLDEST))]
    return tiles[0] if maps <= FEW_MAPS else tiles[1]


def splits(programs: int, steps: int, enough: int) -> int:
    """How many programs share the positions of a block: a power of two, 1 from `enough` on.

    programs: without splitting; steps: tiles of positions, of which a split keeps two at least.
    """
    count = 1
    while programs * count < enough and count * 4 <= steps:
        count *= 2
    return count


def attend_enough(multiprocessors: int) -> int:
    """Programs of the attend kernel that are not split: with twice as many, some would wait.

    A multiprocessor holds one of them.
    """
    return multiprocessors // 2 + 1


CENTER_WIDTH = 1024  # columns of a center in a program
CENTER_PARTS = 256  # sums at a time
CENTER_LABELS = 256  # labels at a time
SAMPLE_ELEMENTS = 4096  # of the maps at a time
