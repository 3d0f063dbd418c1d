"""`torch.ops.wsdan.*` called directly: wrong arguments are refused before any kernel reads them."""

import itertools
import random
import warnings

import pytest
import torch
from parity import Recorder, results

import wsdan_kernels as wk
from wsdan_kernels import _native, backends
from wsdan_kernels.testing import CASES

OPS = torch.ops.wsdan
NAMES = sorted({case.op for case in CASES})
UNAVAILABLE = backends.available()["cpu"]
POOL = ("mean", True, "all", 1, 1e-12, 1.0)
ATTEND = (1e-5, "mean", True, "all", 1e-12, 1.0)


def ones(*shape, dtype=torch.float32):
    return torch.ones(shape, dtype=dtype)


def integers(*shape, dtype=torch.int64):
    return torch.zeros(shape, dtype=dtype)


F, A, M, X = ones(2, 3, 4, 4), ones(2, 6, 4, 4), ones(2, 4, 4), ones(2, 3, 8, 8)
P, T, BOXES, NORM = ones(2, 6, 3), ones(2), integers(2, 4), ones(6)
RIGHT = {
    "bilinear_attention_pool": (F, A, *POOL),
    "bilinear_attention_pool_backward": (P, F, A, P, integers(0, dtype=torch.uint8), *POOL),
    "attend_and_pool": (F, ones(6, 3), NORM, NORM, NORM, NORM, *ATTEND),
    "sample_attention": (A, ones(2, 2), "uniform"),
    "attention_boxes": (M, ones(2, 1), 8, 8, 0.1, "paper", True),
    "crop_resize": (X, BOXES, 8, 8, True),
    "crop_resize_backward": (X, BOXES, 8, 8, True),
    "attention_swap": (X, BOXES, integers(2)),
    "attention_swap_backward": (X, BOXES, integers(2)),
    "attention_drop": (X, M, T, "paper", True),
    "attention_crop_drop": (X, M, M, T, T, 0.1, "paper", True),
    "center_loss": (ones(2, 6), ones(3, 6), integers(2)),
    "update_centers_": (ones(3, 6), ones(2, 6), integers(2), 0.05, "mean"),
}
# Operator, which argument, what it is instead, the error and what it says.
MISTAKES = [
    ("bilinear_attention_pool", 2, "zzz", ValueError, "reduce must be one of 'mean', 'sum'.*'zzz'"),
    ("bilinear_attention_pool", 4, "zzz", ValueError, "normalize must be one of 'all', 'part'"),
    ("bilinear_attention_pool", 5, 0, ValueError, "groups must be a divisor of M.*got 0 for M = 6"),
    ("bilinear_attention_pool", 5, 4, ValueError, "groups must be a divisor of M.*got 4 for M = 6"),
    ("bilinear_attention_pool", 0, F[:1], ValueError, "attentions must be of the batch size"),
    ("bilinear_attention_pool", 0, F[:, :0], ValueError, "features must be non-empty along axis 1"),
    ("bilinear_attention_pool", 0, F.double(), TypeError, "attentions must be of the dtype"),
    ("bilinear_attention_pool", 0, F.byte(), TypeError, "features must be of dtype float32"),
    ("bilinear_attention_pool", 1, A.to("meta"), ValueError, "attentions must be on the device"),
    ("bilinear_attention_pool_backward", 0, P[:1], ValueError, r"grad_output must be of shape \(2"),
    ("bilinear_attention_pool_backward", 0, P.half(), TypeError, "grad_output must be of dtype"),
    ("bilinear_attention_pool_backward", 3, P[:, :1], ValueError, "pooled must be of shape"),
    ("bilinear_attention_pool_backward", 5, "max", ValueError, r"index must be of shape \(2, 6, 3"),
    ("bilinear_attention_pool_backward", 3, P.to_sparse(), TypeError, "pooled must be a dense"),
    ("attend_and_pool", 1, ones(6, 2), ValueError, "weight must be of 3 columns"),
    ("attend_and_pool", 4, ones(5), ValueError, "mean must be of the batch size of weight"),
    ("attend_and_pool", 7, "max", ValueError, "reduce must be one of 'mean', 'sum'"),
    ("sample_attention", 1, ones(1, 2), ValueError, "uniforms must be of the batch size"),
    ("sample_attention", 2, "zzz", ValueError, "weighting must be one of"),
    ("attention_boxes", 1, ones(2), ValueError, r"thresholds must be of shape \(B, T\)"),
    ("attention_boxes", 2, -1, ValueError, "image size must be a pair of positive integers"),
    ("attention_boxes", 3, 2**40, ValueError, "image size must be a pair of integers up to"),
    ("attention_boxes", 4, float("nan"), ValueError, r"padding must be in \[0, 1\]"),
    ("attention_boxes", 5, "zzz", ValueError, "rule must be one of 'paper', 'guyuc'"),
    ("crop_resize", 1, BOXES[:1], ValueError, "boxes must be of the batch size of images"),
    ("crop_resize", 1, BOXES.float(), TypeError, "boxes must be of dtype int64 or int32"),
    ("crop_resize", 2, 0, ValueError, "size must be a pair of positive integers"),
    ("crop_resize_backward", 0, X[0], ValueError, "images must be of shape"),
    ("attention_swap", 1, BOXES[:1], ValueError, "boxes must be of the batch size of images"),
    ("attention_swap", 2, integers(2).int(), TypeError, "partners must be of dtype int64, but got"),
    ("attention_swap", 2, integers(2) + 2, ValueError, r"partners must be in \[0, 2\), but got 2"),
    ("attention_swap_backward", 2, integers(2) - 1, ValueError, r"partners must be in \[0, 2\)"),
    ("attention_swap_backward", 0, X[0], ValueError, "images must be of shape"),
    ("attention_drop", 2, T[:1], ValueError, "thresholds must be of the batch size of images"),
    ("attention_drop", 0, X.long(), TypeError, "images must be of dtype"),
    ("attention_crop_drop", 1, M[:1], ValueError, "crop_maps must be of the batch size of images"),
    ("attention_crop_drop", 2, M[0], ValueError, r"drop_maps must be of shape \(B, h, w\)"),
    ("attention_crop_drop", 3, T[:1], ValueError, "crop_thresholds must be of the batch size"),
    ("attention_crop_drop", 4, T[:, None], ValueError, r"drop_thresholds must be of shape \(B\)"),
    ("attention_crop_drop", 5, -0.1, ValueError, r"padding must be in \[0, 1\], but got -0.1"),
    ("center_loss", 2, integers(2, dtype=torch.int32), TypeError, "labels must be of dtype int64"),
    ("center_loss", 1, ones(3, 5), ValueError, "features must be of the width of centers"),
    ("center_loss", 0, ones(2, 6).half(), TypeError, "centers must be of the dtype of features"),
    ("update_centers_", 4, "zzz", ValueError, "duplicates must be one of"),
    ("update_centers_", 0, ones(3, 0), ValueError, "centers must be non-empty along axis 1"),
    ("update_centers_", 0, ones(3, 1).expand(3, 6), ValueError, "centers must be without elements"),
]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(
    ("name", "at", "value", "kind", "text"),
    MISTAKES,
    ids=[f"{mistake[0]}-{i}" for i, mistake in enumerate(MISTAKES)],
)
def test_mistake(name, at, value, kind, text, backend):
    arguments = list(RIGHT[name])
    arguments[at] = value
    with pytest.raises(kind, match=text) as caught:
        getattr(OPS, name)(*arguments, backend)
    assert str(caught.value).startswith(name.removesuffix("_backward") + ": ")


@pytest.mark.parametrize("name", list(RIGHT))
def test_the_arguments_are_right_without_the_mistake(name):
    getattr(OPS, name)(*RIGHT[name], "reference")


@pytest.mark.parametrize("name", list(RIGHT))
def test_an_unknown_backend_is_named(name):
    with pytest.raises(ValueError, match=rf"{name}: backend must be one of '.*got 'zzz'"):
        getattr(OPS, name)(*RIGHT[name], "zzz")


def test_a_label_out_of_range_is_refused():
    for name, backend in itertools.product(("center_loss", "update_centers_"), ("reference",)):
        centers, features = ones(3, 6), ones(2, 6)
        first = (features, centers) if name == "center_loss" else (centers, features)
        rest = () if name == "center_loss" else (0.05, "mean")
        for labels in (integers(2) - 1, integers(2) + 3):
            with pytest.raises(ValueError, match=rf"{name}: labels must be in \[0, 3\)"):
                getattr(OPS, name)(*first, labels, *rest, backend)


@pytest.mark.skipif(UNAVAILABLE is not None, reason=str(UNAVAILABLE))
def test_positions_of_maxima_out_of_range_are_refused():
    """The gradient is written where they say."""
    options = ("max", *POOL[1:], "cpu")
    for found in (16, 255):
        index = torch.full((2, 6, 3), found, dtype=torch.uint8)
        with pytest.raises(RuntimeError, match=r"index must be in \[0, 16\)"):
            OPS.bilinear_attention_pool_backward(P, F, A, P, index, *options)
    strided = torch.arange(36, dtype=torch.uint8).view(3, 6, 2).permute(2, 1, 0) % 16
    found = OPS.bilinear_attention_pool_backward(P, F, A, P.mT.contiguous().mT, strided, *options)
    dense = OPS.bilinear_attention_pool_backward(P, F, A, P, strided.contiguous(), *options)
    assert all(map(torch.equal, found, dense))


def test_centers_that_share_memory_with_what_is_read_are_refused():
    centers = torch.rand(3, 6)
    before = centers.clone()
    labels = torch.tensor([1, 2])
    for backend in ("auto", "reference"):
        with pytest.raises(ValueError, match="update_centers_: features must be in memory of its"):
            wk.update_centers_(centers, centers[:2], labels, backend=backend)
        bits = torch.zeros(3, 6, dtype=torch.float64)
        with pytest.raises(ValueError, match="update_centers_: labels must be in memory of its"):
            wk.update_centers_(
                bits, torch.rand(6, 6).double(), bits.view(torch.int64)[0], backend=backend
            )
    assert torch.equal(centers, before)


SPOILT_TENSORS = (
    lambda x: x.flatten()[:1].sum(),
    lambda x: x.flatten(),
    lambda x: x[None],
    lambda x: x[:1],
    lambda x: x[:0],
    lambda x: torch.cat((x, x)),
    lambda x: x[..., :0],
    lambda x: x[..., :1],
    lambda x: torch.cat((x, x), dim=-1),
    lambda x: x.mT.contiguous().mT if x.dim() > 1 else x,
    lambda x: x.expand(2, *x.shape)[0],
    lambda x: x.to("meta"),
    lambda x: x.to_sparse() if x.numel() else x,
    lambda x: x * -(2**40) if x.is_floating_point() else x - 2**20,
    lambda x: x + float("nan") if x.is_floating_point() else x + 2**20,
    *(lambda x, t=t: x.to(t) for t in (torch.bool, torch.uint8, torch.int16, torch.int32)),
    *(lambda x, t=t: x.to(t) for t in (torch.int64, torch.float16, torch.float64, torch.complex64)),
)
SPOILT = {
    str: ("zzz", "", "mean", "max", "part", "none", "guyuc", "reference", "\0"),
    bool: (True, False),
    int: (0, -1, 3, 2**31, 2**62, -(2**63)),
    float: (float("nan"), float("inf"), -1.0, 1e308),
}


def spoilt(value, rng):
    if isinstance(value, torch.Tensor):
        return rng.choice(SPOILT_TENSORS)(value.detach())
    return rng.choice(SPOILT[type(value)])


def attempt(func, arguments, rng, mistakes):
    """1 where a call with some arguments spoilt is refused, 0 where it gives results."""
    arguments = list(arguments)
    for at in rng.sample(range(len(arguments)), min(mistakes, len(arguments))):
        arguments[at] = spoilt(arguments[at], rng)
    try:
        func(*arguments)
    except (TypeError, ValueError, RuntimeError):  # the last of torch: no such kernel or number
        return 1
    return 0


@pytest.mark.skipif(UNAVAILABLE is not None, reason=str(UNAVAILABLE))
@pytest.mark.parametrize("name", NAMES)
def test_spoilt_arguments_end_no_process(name):
    """Any of the arguments replaced, forward and backward: a refusal, or a result."""
    rng = random.Random(name)
    refused = 0
    for case in (case for case in CASES if case.op == name):
        with Recorder() as recorder:
            results(case, case.inputs(case.shapes[0]), "auto")
        for func, arguments in recorder.calls:
            refused += sum(attempt(func, arguments, rng, 1 + i % 3) for i in range(40))
    assert refused > 0


def test_tracing_may_be_the_first_call():
    """torch.jit.trace records no operator of the library's loading."""
    features, attentions = torch.rand(2, 3, 4, 4), torch.rand(2, 5, 4, 4)
    _native.failure.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and sizes become constants
        traced = torch.jit.trace(wk.bilinear_attention_pool, (features, attentions))
    others = torch.rand(2, 3, 4, 4), torch.rand(2, 5, 4, 4)
    assert torch.equal(traced(*others), wk.bilinear_attention_pool(*others))
