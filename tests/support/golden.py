"""The recorded outputs of the published implementations, and how results are compared with them.

They are in tests/golden. The full set of cases is larger than a repository should hold; where it is
at hand, in WSDAN_GOLDEN or in ../shared/golden, it is used too.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from parity import DEVICE
from paths import ROOT

import wsdan_kernels as wk
from wsdan_kernels import backends
from wsdan_kernels.testing import relative_error

FOLDERS = (
    ROOT / "tests" / "golden",
    Path(os.environ.get("WSDAN_GOLDEN", ROOT.parent / "shared" / "golden")),
)
FILES = {path.stem: path for folder in FOLDERS for path in sorted(folder.glob("*.npz"))}
TOLERANCE = 1e-5


def names(prefix: str) -> list[str]:
    found = sorted(name for name in FILES if name.startswith(prefix))
    assert found, f"no golden case {prefix}*"
    return found


def named(prefix: str):
    """A test's parameter: the names of cases, slow for those that the repository does not hold."""
    slow = pytest.mark.slow
    return pytest.mark.parametrize(
        "name",
        [
            pytest.param(name, marks=() if (FOLDERS[0] / f"{name}.npz").exists() else [slow])
            for name in names(prefix)
        ],
    )


def load(name: str) -> dict:
    with np.load(FILES[name]) as arrays:
        return {
            key: torch.from_numpy(arrays[key]) if arrays[key].ndim else arrays[key].item()
            for key in arrays
        }


def assert_parity(value, truth):
    assert relative_error(value, truth) <= TOLERANCE


def assert_gradient_parity(value, truth, exact):
    """Equal to the published gradient, or, by another order of sums, as near to the exact one.

    Through the root, a gradient grows without bound where P nears 0: there the published float32
    result itself is farther from the gradient in float64 than TOLERANCE. torch's own product sums
    in another order on every kind of CPU, so this holds for the reference as well.
    """
    rounding = TOLERANCE + 2 * relative_error(truth, exact)
    assert relative_error(value, truth) <= rounding
    assert relative_error(value, exact) <= rounding


def runnable(op: str) -> list[tuple[str, str]]:
    """The backends that run here, each with the device it runs on (the reference: the CPU)."""
    places = [(name, DEVICE.get(name, "cpu")) for name in backends.NAMES]
    return [
        (name, device)
        for name, device in places
        if backends.why_not(op, name, device, torch.float32) is None
    ]


def pooled_with_gradients(case, reduce, backend, dtype=torch.float32, device="cpu"):
    """On the device; the results are on the CPU."""
    features = case["features"].to(device, dtype, copy=True).requires_grad_()
    attentions = case["attentions"].to(device, dtype, copy=True).requires_grad_()
    output = wk.bilinear_attention_pool(features, attentions, reduce=reduce, backend=backend)
    output.flatten(1).backward(case["grad_output"].to(device, dtype))
    return output.flatten(1).cpu(), features.grad.cpu(), attentions.grad.cpu()


def options(name: str) -> dict:
    if "guyuc" in name:
        return {"rule": "guyuc"}
    return {"align_corners": "wvinzh" not in name}


def check_views(name, backend, device):
    """Boxes, crops and drops of a case by one backend."""
    case = load(name)
    images, thetas = case["images"].to(device), case["thetas"].to(device)
    rows = torch.arange(images.shape[0])
    crop_maps, drop_maps = (
        case["attentions"][rows, case["picks"][:, i]].to(device) for i in (0, 1)
    )
    size, kwargs = tuple(images.shape[2:]), {**options(name), "backend": backend}
    boxes = wk.attention_boxes(crop_maps, size, threshold=thetas[:, 0], padding=0.1, **kwargs)
    assert_parity(wk.crop_resize(images, boxes, backend=backend).cpu(), case["crop"])
    if "boxes" in case:
        assert torch.equal(boxes.cpu()[:, [1, 0, 3, 2]], case["boxes"])
    crops, drops = wk.attention_crop_drop(
        images,
        crop_maps,
        drop_maps,
        crop_threshold=thetas[:, 0],
        drop_threshold=thetas[:, 1],
        **kwargs,
    )
    assert_parity(crops.cpu(), case["crop"])
    assert torch.equal(drops.cpu(), case["drop"])
    if "drop_mask" in case:
        ones = torch.ones_like(images[:, :1])
        kept = wk.attention_drop(ones, drop_maps, threshold=thetas[:, 1], **kwargs)
        assert torch.equal(kept.cpu(), case["drop_mask"])
    if "refined" in case:
        views, _ = wk.attention_refine(images, case["attentions"].to(device), **kwargs)
        assert_parity(views.cpu(), case["refined"])


def check_refined_boxes(case, backend, device):
    maps, size = case["attentions"].to(device).mean(1), tuple(case["images"].shape[2:])
    boxes = wk.attention_boxes(maps, size, threshold=0.1, padding=0.05, backend=backend).cpu()
    assert torch.equal(boxes[:, [1, 0, 3, 2]], case["boxes"])
