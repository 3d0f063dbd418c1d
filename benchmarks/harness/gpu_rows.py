"""The rows of gpu_check: every operator with a kernel for the GPU, and the GPU budget's targets.

A further operator adds its works to ROWS, and nothing else. They are measured in this order: first
all without torch.compile, then again with it where it is among the targets.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import augment_bench
import bap_bench
import inference_bench
import torch
import train_bench
from harness import report, run
from harness.run import Work

from wsdan_kernels.testing import paper_shape

SHARE, SHARE_FLOAT = 0.75, 0.60  # of the copy's bandwidth, at LARGE; of float32 pooling
LAUNCHES = 3  # for each operator and direction, at SMALL
SMALL, LARGE = 12, 128  # images
BF16, FLOAT = torch.bfloat16, torch.float32
LAST, FIRST = torch.channels_last, torch.contiguous_format
# How many times as long as ours these variants must take. What is published is eager code for
# pooling, one product and pointwise work; for the views a loop over the images that waits for the
# GPU in each.
POOLING = {"compiled": 1.5, "published": 2.0}
POOLING_LARGE = {"compiled": 1.1, "published": 1.4}  # the product is nearly all of it there
VIEWS = {"compiled": 1.5, "published": 50.0, "reference": 4.0}
STEP = {"published": 4.0}
INFERENCE = {"published": 4.0}
TWO_VIEWS = 0.47  # of the images/s of one view; two passes can have 0.5
BUDGET = ("mean", "views", "step", "inference")  # whose rows come first
AGAIN = ", compiled"  # of a group that is measured once more


@dataclass(frozen=True)
class Entry:
    """Works of one shape.

    make: called with the sizes (as of paper_shape) and the device. batches: one group of rows each.
    budget: how many times as long as ours these variants must take, at the batches of `held_at`,
    where the share of the copy is a target too (not of works of images: steps and inference).
    torch.compile is worth its time where it is among them. at_large: the budget at LARGE, where it
    is another. share: the target of the copy's bandwidth. seconds: at most, for one group.
    """

    make: Callable[[dict[str, int], str], Iterable[Work]]
    budget: dict[str, float] = field(default_factory=dict)
    batches: tuple[int, ...] = (SMALL, LARGE)
    held_at: tuple[int, ...] = (SMALL, LARGE)
    seconds: float = 45.0
    share: float = SHARE
    at_large: dict[str, float] = field(default_factory=dict)

    def targets(self, batch: int) -> dict[str, float]:
        """The budget at this batch: none where it does not hold."""
        if batch == LARGE and self.at_large:
            return self.at_large
        return self.budget if batch in self.held_at else {}


def _pool(reduce: str, dtype: torch.dtype, layout: torch.memory_format) -> Callable:
    return lambda sizes, device: bap_bench.pool_works(_shape(sizes), reduce, device, dtype, layout)


def _attend(dtype: torch.dtype, layout: torch.memory_format) -> Callable:
    return lambda sizes, device: [bap_bench.attend_work(_shape(sizes), device, dtype, layout)]


def _centers(sizes: dict[str, int], device: str) -> list[Work]:
    return [bap_bench.center_work(sizes["B"], sizes["M"] * sizes["C"], device)]


def _sample(sizes: dict[str, int], device: str) -> list[Work]:
    return [bap_bench.sample_work(_shape(sizes), device, BF16)]


def _views(work: Callable, dtype: torch.dtype, layout: torch.memory_format) -> Callable:
    """work: of augment_bench, one of its inputs' works or several."""

    def make(sizes: dict[str, int], device: str) -> Iterable[Work]:
        made = work(augment_bench.make_inputs(sizes, device, dtype, layout))
        return [made] if isinstance(made, Work) else made

    return make


def _train(dtype: torch.dtype) -> Callable:
    return lambda sizes, device: [train_bench.step_work(sizes, device, dtype)]


def _infer(dtype: torch.dtype) -> Callable:
    modes = (inference_bench.EAGER, inference_bench.GRAPH)
    return lambda sizes, device: (
        inference_bench.views_work(sizes, device, dtype, mode) for mode in modes
    )


def _shape(sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(sizes[key] for key in "BMChw")


ROWS: dict[str, Entry] = {
    "mean bf16": Entry(_pool("mean", BF16, LAST), POOLING, at_large=POOLING_LARGE),
    "mean fp32": Entry(
        _pool("mean", FLOAT, FIRST), POOLING, at_large=POOLING_LARGE, share=SHARE_FLOAT
    ),
    "views bf16": Entry(_views(augment_bench.chosen_work, BF16, LAST), VIEWS, held_at=(LARGE,)),
    "views fp32": Entry(_views(augment_bench.chosen_work, FLOAT, FIRST), VIEWS, held_at=(LARGE,)),
    "step bf16": Entry(_train(BF16), STEP, batches=(SMALL,), seconds=90.0),
    "step fp32": Entry(_train(FLOAT), STEP, batches=(SMALL,), held_at=(), seconds=90.0),
    "inference bf16": Entry(
        _infer(BF16), INFERENCE, batches=inference_bench.BATCHES, held_at=(LARGE,), seconds=90.0
    ),
    "inference fp32": Entry(_infer(FLOAT), INFERENCE, batches=(LARGE,), seconds=90.0),
    "boxes": Entry(_views(augment_bench.boxes_work, FLOAT, FIRST)),
    "crop fp32": Entry(_views(augment_bench.crop_works, FLOAT, FIRST), batches=(SMALL,)),
    "crop bf16": Entry(_views(augment_bench.crop_works, BF16, LAST), batches=(LARGE,)),
    "drop bf16": Entry(_views(augment_bench.drop_work, BF16, LAST), batches=(LARGE,)),
    "swap bf16": Entry(_views(augment_bench.swap_work, BF16, LAST), batches=(LARGE,)),
    "refine bf16": Entry(_views(augment_bench.refine_work, BF16, LAST), batches=(SMALL,)),
    "centers": Entry(_centers),
    "sample": Entry(_sample),
    "attend bf16": Entry(_attend(BF16, LAST)),
    "attend fp32": Entry(_attend(FLOAT, FIRST)),
    "max bf16": Entry(_pool("max", BF16, LAST), batches=(SMALL,)),
    "max fp32": Entry(_pool("max", FLOAT, FIRST), batches=(SMALL,)),
}


def groups() -> list[str]:
    """The names of the groups of rows, in the order in which they are measured: "<entry> B <n>".

    Those of torch.compile come last, as "<entry> B <n>, compiled".
    """
    plain = [f"{name} B {batch}" for name, entry in ROWS.items() for batch in entry.batches]
    compiled = [
        f"{name} B {batch}{AGAIN}"
        for name, entry in ROWS.items()
        for batch in entry.batches
        if run.COMPILED in entry.targets(batch)
    ]
    return [*plain, *compiled]


def entry_of(group: str) -> tuple[Entry, dict[str, int]]:
    """The entry of a group, and its sizes."""
    name, batch = group.removesuffix(AGAIN).rsplit(" B ", 1)
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
    work: Work, rows: list[report.Row], batch: int, entry: Entry, bits: bool | None
) -> list[Check]:
    """The targets for the rows of one work; bits: of two runs the same, None where not compared.

    A work of images has the budget's speeds and the share of one view only: a step cannot be run
    twice on the same state.
    """
    ours = fastest(rows)
    if ours is None:
        return [Check(work.title, "ours", "a kernel of ours", "none", False)]
    budget = entry.targets(batch)
    found = []
    if not work.images:
        share = entry.share if budget and batch == LARGE else None
        found += _checks_of_kernels(work, ours, batch, share, bits)
    if ours.limit == run.RAW:
        text, met = f"of one view >= {TWO_VIEWS:.0%}", ours.share >= TWO_VIEWS
        found.append(Check(work.title, run.RAW, text, f"{ours.share:.1%}", met))
    for name, least in budget.items():
        other = next((row for row in rows if row.variant == name), None)
        speed = None if other is None else other.median_ms / ours.median_ms
        text = "not measured" if speed is None else f"{speed:.2f}x"
        passed = None if speed is None else speed >= least
        found.append(Check(work.title, name, f"over {name} >= {least:g}x", text, passed))
    return found


def _checks_of_kernels(
    work: Work, ours: report.Row, batch: int, share: float | None, bits: bool | None
) -> list[Check]:
    """The same bits, the number of launches, the share of the copy's bandwidth."""
    found = [Check(work.title, "bits", "the same bits twice", str(bits), bits)]
    if batch == SMALL:
        most = LAUNCHES * work.directions
        few = None if ours.launches is None else ours.launches <= most
        found.append(Check(work.title, "launches", f"launches <= {most}", str(ours.launches), few))
    if share is not None:
        text = f"of the copy >= {share:.0%}"
        found.append(Check(work.title, "copy", text, f"{ours.share:.0%}", ours.share >= share))
    return found


def fastest(rows: list[report.Row]) -> report.Row | None:
    """The fastest of our backends."""
    mine = [row for row in rows if row.variant in report.OURS]
    return min(mine, key=lambda row: row.median_ms, default=None)


def same_bits(work: Work) -> bool | None:
    """Whether two calls of ours on two sets of the same inputs give the same bits.

    None where no kernel is ours, and for a training step. Before any other call: some works change
    their inputs.
    """
    if work.images:
        return None
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
    after = marks(found)
    if ours.unit == "images/s":
        after = f"{ours.rate:.0f} {ours.unit} {after}".rstrip()
    return (
        f"{_short(ours):<42} {report.time_text(ours.median_ms)} {ours.share:>6.0%} {launches:>5}"
        f" {ours.extra_mb:>8.1f}{cells}  {after}"
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
    told = ("fp32", "bf16", "channels_last", inference_bench.EAGER, inference_bench.GRAPH)
    kept = [word for word in words if word in told]
    return f"{text}, B {words[1]} {' '.join(kept)}"
