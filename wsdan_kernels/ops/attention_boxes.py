"""attention_boxes: schema, kernels and fake kernel."""

import torch

from wsdan_kernels import _checks, _native
from wsdan_kernels.ops._declare import Kernel, declare
from wsdan_kernels.reference import attention_boxes as reference

_FORWARD = (
    "attention_boxes(Tensor maps, Tensor thresholds, SymInt height, SymInt width, float padding, "
    "str rule, bool align_corners)"
)


def _fake(maps, thresholds, *options):
    return maps.new_empty((*thresholds.shape, 4), dtype=torch.int32)


def _check(maps, thresholds, height, width, padding, rule, *options):
    op = "attention_boxes"
    check_maps(op, maps, rule)
    _checks.tensor(op, "thresholds", thresholds, "B T")
    _checks.same_batch(op, ("maps", maps), ("thresholds", thresholds))
    _checks.same_device(op, ("maps", maps), ("thresholds", thresholds))
    _checks.image_size(op, "image size", (height, width))
    _checks.number(op, "padding", padding, 0.0, 1.0)


def check_maps(op, maps, rule, name="maps"):
    """What every operator that resizes maps relies on."""
    _checks.tensor(op, name, maps, "B h w")
    _checks.not_empty(op, name, maps, (1, 2))
    _checks.choice(op, "rule", rule, ("paper", "guyuc"))


_native_run = _native.kernel(_FORWARD, 1, _fake)
KERNELS = {
    "reference": Kernel(reference.forward),
    "cpu": Kernel(_native_run, devices=("cpu",)),
    "cuda": Kernel(_native_run, devices=("cuda",)),
}
forward = declare(f"{_FORWARD} -> Tensor", KERNELS, _fake, check=_check, backward=None)


def first_unreached(maps, thresholds, *options) -> int | None:
    """The first sample that gives no box of its own, for validate=True: one host synchronisation.

    maps (B,h,w), thresholds (B,T), options height, width, rule, align_corners.
    """
    hit = reference.reached(maps, thresholds, *options).any(3).any(2).all(1)
    return None if bool(hit.all()) else int((~hit).nonzero()[0])
