"""The rows of gpu_check: every operator with a kernel for the GPU, and the GPU budget's targets.

A further operator adds its works to ROWS, and nothing else.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import bap_bench
import report
import run
import torch
from run import Work

from wsdan_kernels.testing import paper_shape

SHARE = 0.75  # of the copy's bandwidth, at LARGE
LAUNCHES = 3  # for each operator and direction, at SMALL
OVER_COMPILED, OVER_EAGER = 1.5, 4.0
SMALL, LARGE = 12, 128  # pictures
BF16, FLOAT = torch.bfloat16, torch.float32
LAST, FIRST = torch.channels_last, torch.contiguous_format


@dataclass(frozen=True)
class Entry:
    """Works of one shape.

    make: called with the sizes (as of paper_shape) and the device. batches: one group of rows each.
    budget: whether share and speed are targets, and torch.compile is worth its time.
    """

    make: Callable[[dict[str, int], str], Iterable[Work]]
    budget: bool = False
    batches: tuple[int, ...] = (SMALL, LARGE)


def _pool(reduce: str, dtype: torch.dtype, layout: torch.memory_format) -> Callable:
    return lambda sizes, device: bap_bench.pool_works(_shape(sizes), reduce, device, dtype, layout)


def _attend(dtype: torch.dtype, layout: torch.memory_format) -> Callable:
    return lambda sizes, device: [bap_bench.attend_work(_shape(sizes), device, dtype, layout)]


def _centers(sizes: dict[str, int], device: str) -> list[Work]:
    return [bap_bench.center_work(sizes["B"], sizes["M"] * sizes["C"], device)]


def _sample(sizes: dict[str, int], device: str) -> list[Work]:
    return [bap_bench.sample_work(_shape(sizes), device, BF16)]


def _shape(sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(sizes[key] for key in "BMChw")


ROWS: dict[str, Entry] = {
    "mean bf16": Entry(_pool("mean", BF16, LAST), budget=True),
    "mean fp32": Entry(_pool("mean", FLOAT, FIRST), budget=True),
    "centers": Entry(_centers),
    "sample": Entry(_sample),
    "attend bf16": Entry(_attend(BF16, LAST)),
    "attend fp32": Entry(_attend(FLOAT, FIRST)),
    "max bf16": Entry(_pool("max", BF16, LAST), batches=(SMALL,)),
    "max fp32": Entry(_pool("max", FLOAT, FIRST), batches=(SMALL,)),
}


def groups() -> list[str]:
    """The names of the groups of rows, in the order in which they are measured: "<entry> B <n>"."""
    return [f"{name} B {batch}" for name, entry in ROWS.items() for batch in entry.batches]


def entry_of(group: str) -> tuple[Entry, dict[str, int]]:
    """The entry of a group, and its sizes."""
    name, batch = group.rsplit(" B ", 1)
    return ROWS[name], paper_shape(int(batch))


@dataclass
class Check:
    """One target for one work: passed is None where it was not measured."""

    title: str
    code: str  # in the table
    target: str
    found: str
    passed: bool | None


def checks(
    rows: list[report.Row], batch: int, directions: int, budget: bool, same_bits: bool | None
) -> list[Check]:
    """The targets for the rows of one work; same_bits: of two runs, None where not compared."""
    title = f"{rows[0].work}, {rows[0].shape}"
    ours = fastest(rows)
    if ours is None:
        return [Check(title, "ours", "a kernel of ours", "none", False)]
    found = [Check(title, "bits", "the same bits twice", str(same_bits), same_bits)]
    if batch == SMALL:
        most = LAUNCHES * directions
        few = None if ours.launches is None else ours.launches <= most
        found.append(Check(title, "launches", f"launches <= {most}", str(ours.launches), few))
    if not budget:
        return found
    if batch == LARGE:
        share = f"{ours.share:.0%}"
        found.append(
            Check(title, "copy", f"of the copy >= {SHARE:.0%}", share, ours.share >= SHARE)
        )
    for name, least in (("compiled", OVER_COMPILED), ("published", OVER_EAGER)):
        other = next((row for row in rows if row.variant == name), None)
        speed = None if other is None else other.median_ms / ours.median_ms
        text = "not measured" if speed is None else f"{speed:.2f}x"
        passed = None if speed is None else speed >= least
        found.append(Check(title, name, f"over {name} >= {least}x", text, passed))
    return found


def fastest(rows: list[report.Row]) -> report.Row | None:
    """The fastest of our backends."""
    mine = [row for row in rows if row.variant in report.OURS]
    return min(mine, key=lambda row: row.median_ms, default=None)


def same_bits(work: Work) -> bool | None:
    """Whether two calls of ours on two sets of the same inputs give the same bits.

    None where no kernel is ours. Before any other call: some works change their inputs.
    """
    mine = next((call for name, call in work.variants.items() if name in report.OURS), None)
    if mine is None:
        return None
    first, second = ([value.clone() for value in run.tensors(call())] for call in (mine, mine))
    return all(map(torch.equal, first, second))


def line(rows: list[report.Row], found: list[Check]) -> str:
    """One work in one line: ours, how many times longer the others take, then the targets."""
    ours = fastest(rows)
    if ours is None:
        return f"{_short(rows[0]):<42} no kernel of ours"
    others = {row.variant: row.median_ms / ours.median_ms for row in rows}
    cells = "".join(
        f" {others[name]:>8.2f}x" if name in others else f" {'-':>9}"
        for name in ("published", "reference", "compiled")
    )
    launches = "-" if ours.launches is None else ours.launches
    return (
        f"{_short(ours):<42} {report.time_text(ours.median_ms)} {ours.share:>6.0%} {launches:>5}"
        f" {ours.extra_mb:>8.1f}{cells}  {marks(found)}"
    )


HEADER = (
    f"{'work':<42} {'ours':>10} {'copy':>6} {'laun.':>5} {'peak MB':>8}"
    f" {'published':>9} {'reference':>9} {'compiled':>9}  targets"
)


def marks(found: list[Check]) -> str:
    """The targets in short: + met, - missed, ? not measured."""
    signs = {True: "+", False: "-", None: "?"}
    return " ".join(check.code + signs[check.passed] for check in found)


def _short(row: report.Row) -> str:
    """The work with what tells the rows apart."""
    text = row.work.replace("forward+backward", "fwd+bwd").replace("forward", "fwd")
    words = row.shape.replace("float32", "fp32").replace("bfloat16", "bf16").split()
    kept = [word for word in words if word in ("fp32", "bf16", "channels_last")]
    return f"{text}, B {words[1]} {' '.join(kept)}"
