"""attention_boxes: against the published lines, and every backend against the reference."""

import numpy as np
import parity
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import wsdan_kernels as wk
from wsdan_kernels import backends
from wsdan_kernels._dtypes import accumulation_dtype
from wsdan_kernels.reference.attention_boxes import resize_maps

BOX_BACKENDS = [
    name
    for name in backends.NAMES
    if backends.why_not("attention_boxes", name, "cpu", torch.float32) is None
]
each_box_backend = pytest.mark.parametrize("backend", BOX_BACKENDS)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def box_by_loops(up, peak, threshold, padding, rule):
    """The published lines, for one map already resized, as numpy and Python integers."""
    height, width = up.shape
    ys, xs = np.nonzero(up >= np.float32(np.float32(threshold) * np.float32(peak)))
    if rule == "paper":
        pad_y, pad_x = int(padding * height), int(padding * width)
        y1, x1 = max(0, ys.min() - pad_y), max(0, xs.min() - pad_x)
        y2, x2 = min(height, ys.max() + pad_y), min(width, xs.max() + pad_x)
    else:
        y1, x1 = max(int(ys.min() - padding * height), 0), max(int(xs.min() - padding * width), 0)
        y2 = min(int(ys.max() + padding * height), height)
        x2 = min(int(xs.max() + padding * width), width)
    return [x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)]


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 12)] * 2, *[st.integers(1, 70)] * 2),
    threshold=st.floats(0, 1, width=32),
    padding=st.sampled_from([0.0, 0.05, 0.1, 0.7]),
    rule=st.sampled_from(["paper", "guyuc"]),
    align_corners=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_reference_boxes_by_loops(sizes, threshold, padding, rule, align_corners, seed):
    height, width = sizes[2:]
    maps = random(1, *sizes[:2], seed=seed).abs() + 1e-3
    up = resize_maps(maps, height, width, align_corners)[0].numpy()
    peak = up.max() if rule == "paper" else maps.max()
    if not (up >= np.float32(threshold) * np.float32(peak)).any():
        expected = [0, 0, width, height]
    else:
        expected = box_by_loops(up, peak, threshold, padding, rule)
    found = wk.attention_boxes(
        maps,
        (height, width),
        threshold=threshold,
        padding=padding,
        rule=rule,
        align_corners=align_corners,
        backend="reference",
    )
    assert found.tolist() == [expected]


BOX_OPTIONS = {
    "padding": st.sampled_from([0.0, 0.05, 0.1, 0.33]),
    "rule": st.sampled_from(["paper", "guyuc"]),
    "align_corners": st.booleans(),
    "dtype": st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    "seed": st.integers(0, 2**31),
}
THRESHOLDS = (0.0, 0.1, 0.35, 0.5, 0.9)


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT",
    reason="torch itself rounds differently without fused multiply-add",
)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(0, 4), st.integers(1, 28), st.integers(1, 28)),
    size=st.tuples(st.integers(65, 300), st.integers(65, 300)),
    relu=st.booleans(),
    **BOX_OPTIONS,
)
@each_box_backend
def test_boxes_equal_the_reference_exactly(
    backend, shape, size, relu, padding, rule, align_corners, dtype, seed
):
    """Bit for bit at the sizes of real images (torch blends H + W <= 128 in another way)."""
    maps = random(*shape, seed=seed)
    maps = (maps.relu() if relu else maps).to(dtype)
    options = {"padding": padding, "rule": rule, "align_corners": align_corners}
    found, expected = (
        wk.attention_boxes(maps, size, threshold=THRESHOLDS, backend=name, **options)
        for name in (backend, "reference")
    )
    assert found.dtype == torch.int32
    assert torch.equal(found, expected)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(0, 4), st.integers(1, 15), st.integers(1, 15)),
    size=st.tuples(st.integers(1, 63), st.integers(1, 63)),
    **BOX_OPTIONS,
)
@each_box_backend
def test_boxes_differ_from_the_reference_only_within_rounding(
    backend, shape, size, padding, rule, align_corners, dtype, seed
):
    """Equal, or between the reference's boxes for thresholds 2 ulp lower and 2 ulp higher."""
    maps = random(*shape, seed=seed).relu().to(dtype)
    options = {"padding": padding, "rule": rule, "align_corners": align_corners}
    found = wk.attention_boxes(maps, size, threshold=THRESHOLDS, backend=backend, **options)
    wide = accumulation_dtype(dtype)
    thresholds = torch.tensor(THRESHOLDS, dtype=wide).expand(shape[0], len(THRESHOLDS))
    parity.check_boxes(found, maps, thresholds, *size, padding, rule, align_corners)


@each_box_backend
@pytest.mark.parametrize("rule", ["paper", "guyuc"])
def test_boxes_of_unusable_maps_are_the_whole_image(backend, rule):
    maps = torch.ones(6, 5, 4)
    maps[0] = 0
    maps[1] = -1
    maps[2, 3, 1] = float("nan")
    maps[3, 0, 0] = float("inf")
    maps[4, 0, 0] = -float("inf")
    maps[5] = torch.eye(5, 4)
    boxes = wk.attention_boxes(
        maps, (40, 30), threshold=0.5, padding=0.0, rule=rule, backend=backend
    )
    assert boxes[:5].tolist() == [[0, 0, 30, 40]] * 5
    assert boxes[5].tolist() != [0, 0, 30, 40]
    beyond = torch.full((6,), 1.5)
    whole = wk.attention_boxes(
        maps, (40, 30), threshold=beyond, padding=0.0, rule=rule, backend=backend
    )
    assert whole.tolist() == [[0, 0, 30, 40]] * 6


@each_box_backend
def test_several_thresholds_give_nested_boxes(backend):
    """Nested where the padding is a pixel or more (see parity.check_boxes)."""
    maps = random(3, 7, 7).abs()
    boxes = wk.attention_boxes(
        maps, (50, 60), threshold=(0.2, 0.5, 0.8), padding=0.1, backend=backend
    )
    assert boxes.shape == (3, 3, 4)
    for i, threshold in enumerate((0.2, 0.5, 0.8)):
        single = wk.attention_boxes(
            maps, (50, 60), threshold=threshold, padding=0.1, backend=backend
        )
        assert torch.equal(boxes[:, i], single)
    for image in boxes:
        assert parity.contains(image[0], image[1])
        assert parity.contains(image[1], image[2])


def test_validate_names_the_sample():
    maps = torch.ones(3, 4, 4)
    maps[2, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"attention_boxes: maps\[2\]"):
        wk.attention_boxes(maps, (8, 8), threshold=0.5, padding=0.1, validate=True)
    maps[2] = 1
    boxes = wk.attention_boxes(maps, (8, 8), threshold=0.5, padding=0.1, validate=True)
    assert boxes.tolist() == [[0, 0, 7, 7]] * 3


@each_box_backend
@pytest.mark.parametrize("rule", ["paper", "guyuc"])
def test_padding_ends_at_the_edges(rule, backend):
    for padding in (1.0, 2.5, 1e17, 1e300):
        boxes = wk.attention_boxes(
            random(3, 5, 4).abs(), (200, 3), threshold=0.9, padding=padding, rule=rule,
            backend=backend,
        )  # fmt: skip
        assert boxes.tolist() == [[0, 0, 3, 200]] * 3
