"""The rules by which two backends are compared: test_native.py, test_properties.py, fuzz.py."""

import contextlib
import fcntl
import functools
import tempfile
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from wsdan_kernels import backends
from wsdan_kernels._dtypes import accumulation_dtype
from wsdan_kernels.ops import KERNELS
from wsdan_kernels.ops.bilinear_attention_pool import RESIZING
from wsdan_kernels.reference._layout import memory_format
from wsdan_kernels.reference.attention_boxes import reached
from wsdan_kernels.testing import CASES, TOLERANCES, relative_error

OPS = torch.ops.wsdan
# Where a backend's tests put their tensors: without a GPU, Triton's interpreter runs on the CPU.
GPU = "cuda" if torch.cuda.is_available() else "cpu"
# Without one, or without the library, the CUDA kernels run in tests/gpu/emulator.
EMULATED = GPU == "cpu" or backends.available()["cuda"] is not None
DEVICE = {"cpu": "cpu", "triton": GPU, "cuda": "cpu" if EMULATED else GPU}
# By default a float32 convolution on a GPU takes TF32: the reference is to be float32 proper.
torch.backends.cudnn.allow_tf32 = False
DTYPES = tuple(TOLERANCES)
FAR_APART_BYTES = 12e9
# What C++ kernels compute alone: the convolution of attend_and_pool is torch's.
NATIVE = [c for c in CASES if "cpu" in KERNELS[c.op] and c.op != "attend_and_pool"]
STRIDES = ("contiguous", "channels_last", "sliced", "window", "transposed", "expanded")


@contextlib.contextmanager
def deterministic(filled):
    """torch's deterministic mode. filled: what is allocated is NaN, or the largest integer.

    On a GPU torch's own operators (the resize, its gradient) have other bits in it: results are
    compared with those of the same mode.
    """
    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = filled
    try:
        assert torch.empty(3, device=GPU).isnan().all() or not filled
        yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = before
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def room_far_apart():
    """Runs the body, which allocates 12 GB on a GPU, in one process at a time."""
    if GPU == "cpu":  # untouched memory costs nothing
        yield
        return
    with Path(tempfile.gettempdir(), "wsdan-far-apart.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        torch.cuda.empty_cache()
        if torch.cuda.mem_get_info()[0] < FAR_APART_BYTES:
            pytest.skip("needs 12 GB of free GPU memory")
        yield
        torch.cuda.empty_cache()


@contextlib.contextmanager
def threads(count):
    """Runs the body with this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def values(shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def arranged(value, strides):
    """The same values in memory laid out otherwise; "expanded" repeats the first image.

    What lies between the values is NaN, or an integer that no result survives.
    """
    shape = value.shape
    if strides == "contiguous" or value.dim() == 0:
        return value.contiguous()
    if strides == "expanded":
        return value[:1].expand(shape)
    if strides == "channels_last" and value.dim() == 4:
        return value.contiguous(memory_format=torch.channels_last)
    if strides in ("channels_last", "transposed"):
        axes = tuple(reversed(range(value.dim())))
        return value.permute(axes).contiguous().permute(axes)
    filler = float("nan") if value.is_floating_point() else -(10**6)
    if strides == "sliced":
        room = value.new_full((*shape[:-1], 2 * shape[-1] + 1), filler)
        view = room[..., 1::2]
    else:
        room = value.new_full([size + 3 for size in shape], filler)
        view = room[tuple(slice(1, 1 + size) for size in shape)]
    view.copy_(value)
    return view


def far_apart(tensor, axis, stride):
    """The same values with `stride` elements between those along this axis."""
    strides = list(tensor.stride())
    strides[axis] = stride
    room = torch.empty(stride * tensor.shape[axis], dtype=tensor.dtype, device=tensor.device)
    view = room.as_strided(tensor.shape, strides)
    view.copy_(tensor)
    return view


def share_of_tolerance(value, truth, exact=None):
    """The error as a share of the tolerance: above 1, or NaN, is a failure.

    NaN and infinities must be where the truth has them. Where rounding alone moves the truth by
    more than the tolerance (`exact` says so: the same in float64), the value must be as near to the
    exact one, as in test_golden.py. Integers must be equal.
    """
    assert (value.dtype, value.shape) == (truth.dtype, truth.shape), "dtype or shape differ"
    if not value.is_floating_point():
        assert torch.equal(value, truth), "integers differ"
        return 0.0
    finite = torch.isfinite(truth)
    same = torch.where(truth.isnan(), value.isnan(), value == truth)
    assert bool(torch.where(finite, value.isfinite(), same).all()), "NaN or infinities differ"
    tolerance = TOLERANCES[value.dtype]
    value, truth = value.where(finite, 0), truth.where(finite, 0)
    error = relative_error(value, truth)
    if error <= tolerance or exact is None:
        return error / tolerance
    exact = exact().where(finite, 0)
    return relative_error(value, exact) / (tolerance + 2 * relative_error(truth, exact))


def outcomes(run, inputs, leaves, backend, seed=0, upstream_strides="contiguous"):
    """Outputs of run(inputs, backend), then the gradients of the leaves under random upstreams."""
    inputs = {
        name: value.detach().requires_grad_() if name in leaves else value
        for name, value in inputs.items()
    }
    outputs = run(inputs, backend)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    smooth = [output for output in outputs if output.requires_grad]
    upstreams = [
        arranged(values(out.shape, out.dtype, ~seed - i).to(out.device), upstream_strides)
        for i, out in enumerate(smooth)
    ]
    wanted = [inputs[name] for name in leaves]
    grads = torch.autograd.grad(smooth, wanted, upstreams) if smooth and leaves else ()
    return [*(output.detach() for output in outputs), *grads]


def parity(run, inputs, leaves=(), backend="cpu", place=None, **options):
    """The largest share of the tolerance of the backend's outputs and gradients; and those.

    place: what the backend gets for an input that the reference gets, such as its copy on a GPU.
    """
    given = {name: place(value) for name, value in inputs.items()} if place else inputs
    found = outcomes(run, given, leaves, backend, **options)
    truth = outcomes(run, inputs, leaves, "reference", **options)

    @functools.cache
    def exact():
        wide = {
            name: value.double() if value.is_floating_point() else value
            for name, value in inputs.items()
        }
        return outcomes(run, wide, leaves, "reference", **options)

    shares = [
        share_of_tolerance(value.to(truth[i].device), truth[i], lambda i=i: exact()[i])
        for i, value in enumerate(found)
    ]
    return worst(shares), found


def worst(shares):
    """The largest; NaN, which compares with nothing, counts as infinite."""
    return max((share if share == share else float("inf") for share in shares), default=0.0)


def assert_layout(result, like):
    """channels_last where `like` is so, else contiguous."""
    wanted = torch.contiguous_format if like is None else memory_format(like)
    assert result.is_contiguous(memory_format=wanted), "memory format differs"


def at_size_of(features, attentions, backend):
    """What the backend is given: all but the native one take maps of the size of the features."""
    size = features.shape[2:]
    if attentions.shape[2:] == size or backend in RESIZING:
        return attentions
    return F.interpolate(attentions, size, mode="bilinear", align_corners=True)


def check_pool(
    shape, dtype, *, strides, upstream_strides, signed, poison, seed, backend="cpu",
    map_size=None, whole=False, **options,
):  # fmt: skip
    """shape B M C h w. The root of values near 0 amplifies rounding: signed ones have no root.

    map_size: of the maps, where it is not h w. whole: values are whole numbers, as they also are
    for a maximum under resized maps, which must not hang on rounding: the steps from size to size
    should be halves and quarters.
    """
    batch, maps, channels, height, width = shape
    map_size = map_size or (height, width)
    inputs = {
        "features": values((batch, channels, height, width), dtype, seed),
        "attentions": values((batch, maps, *map_size), dtype, seed + 1),
    }
    if whole or (map_size != (height, width) and options.get("reduce") == "max"):
        inputs = {name: (2 * value).round() for name, value in inputs.items()}
    if not signed:
        inputs = {name: value.relu() + 0.0625 for name, value in inputs.items()}
    if poison is not None and inputs["features"].numel():
        inputs["features"].view(-1)[seed % inputs["features"].numel()] = poison
    inputs = {name: arranged(value.to(DEVICE[backend]), strides) for name, value in inputs.items()}
    arguments = {
        "reduce": "mean", "signed_sqrt": not signed, "normalize": "all", "groups": 1,
        "eps": 1e-12, "scale": 1.0, **options,
    }  # fmt: skip

    def run(values, backend):
        features, attentions = values.values()
        attentions = at_size_of(features, attentions, backend)
        return OPS.bilinear_attention_pool(features, attentions, *arguments.values(), backend)

    # What only scales all that one norm spans has no gradient but rounding.
    spanned = {"none": 0, "part": 1, "all": maps // arguments["groups"]}[arguments["normalize"]]
    alone, single = spanned * channels == 1, height * width == 1
    flat = min(height, map_size[0]) == min(width, map_size[1]) == 1  # one value in all positions
    leaves = [] if alone or (single and spanned and channels == 1) else ["features"]
    leaves += [] if alone or (flat and spanned == 1) else ["attentions"]
    share, found = parity(
        run, inputs, leaves, backend, seed=seed, upstream_strides=upstream_strides
    )
    if arguments["reduce"] == "max":  # a product and a maximum do not round
        _, pooled, index = run(inputs, "reference")
        assert torch.equal(found[1].nan_to_num(), pooled.nan_to_num()), "maxima differ"
        assert torch.equal(found[2], index), "positions differ"
    for name, result in zip(["", "", "", *leaves], found, strict=True):
        assert_layout(result, inputs["features"] if name == "features" else None)
    return share


def edges(maps, thresholds):
    """Thresholds 2 ulp lower and 2 ulp higher: the resized map is exact to that."""
    wide = accumulation_dtype(maps.dtype)
    thresholds = thresholds.to(wide)
    return (thresholds * (1 + side * 2 * torch.finfo(wide).eps) for side in (-1, 1))


def check_boxes(found, maps, thresholds, height, width, padding, rule, align_corners):
    """The reference's boxes, or between those for thresholds 2 ulp lower and higher.

    A lower threshold reaches more positions, so its box contains the others: a box between the two
    differs only where a resized value lies within 2 ulp of the threshold. Without padding, one row
    gives [y,y+1) and y..z gives [y,z), which does not contain the last row alone: so equal boxes
    are right whatever the thresholds beside them give.
    """
    lower, upper = edges(maps, thresholds)
    size = (height, width)
    outer, truth, inner = (
        OPS.attention_boxes(maps, edge, *size, padding, rule, align_corners, "reference")
        for edge in (lower, thresholds, upper)
    )
    maybe, surely = (
        reached(maps, edge, *size, rule, align_corners).flatten(2).any(2) for edge in (lower, upper)
    )
    whole = (found == torch.tensor([0, 0, width, height])).all(2)
    between = contains(outer, found) & (contains(found, inner) | ~surely)
    assert found.dtype == torch.int32 and found.shape == outer.shape, "dtype or shape differ"
    right = torch.where(maybe, between, whole) | (whole & ~surely) | (found == truth).all(2)
    assert bool(right.all()), "boxes differ"


def contains(outer, inner):
    """outer, inner (...,4) -> (...) bool.

    An inner box of one row or column may be the last one that outer reached, which outer leaves
    out: see check_boxes.
    """
    first, last = inner[..., :2], inner[..., 2:]
    last = torch.where(last - first == 1, first, last)
    return (outer[..., :2] <= first).all(-1) & (outer[..., 2:] >= last).all(-1)


def check_drop(found, images, maps, thresholds, rule, align_corners):
    """Bit by bit the image or 0, by the reference's mask but for values within 2 ulp of T."""
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[
        images.element_size()
    ]
    maybe, surely = (
        reached(maps, edge[:, None], *images.shape[2:], rule, align_corners)
        for edge in edges(maps, thresholds)
    )
    bits = found.contiguous().view(integer)
    kept, dropped = bits == images.contiguous().view(integer), bits == 0
    assert (found.dtype, found.shape) == (images.dtype, images.shape), "dtype or shape differ"
    right = torch.where(surely, dropped, torch.where(maybe, kept | dropped, kept))
    assert bool(right.all()), "what is dropped differs"


def as_tuple(result):
    return result if isinstance(result, tuple) else (result,)


def results(case, inputs, backend: str):
    """Outputs and, for the differentiable inputs, gradients under a fixed upstream gradient."""
    outputs = as_tuple(case.run(inputs, backend))
    if not case.differentiable:
        return outputs
    upstream = [torch.linspace(-1, 1, out.numel()).view_as(out).to(out.dtype) for out in outputs]
    leaves = [inputs[name] for name in case.differentiable]
    return (*outputs, *torch.autograd.grad(outputs, leaves, upstream))


class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
    """Collects the calls of the project's dispatcher operators."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "wsdan":
            copies = [arg.clone() if isinstance(arg, torch.Tensor) else arg for arg in args]
            self.calls.append((func, copies))
        return func(*args, **(kwargs or {}))
