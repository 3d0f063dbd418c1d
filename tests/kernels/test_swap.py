"""attention_swap: what stays, what is exchanged, and whose gradient it is."""

import pytest
import torch
from parity import values
from torch.nn import functional as F

import wsdan_kernels as wk
from wsdan_kernels import backends
from wsdan_kernels.reference import _sampling
from wsdan_kernels.reference import attention_swap as reference
from wsdan_kernels.testing import TOLERANCES

BOXES = torch.tensor([[1, 2, 6, 9], [3, 0, 11, 5], [0, 0, 1, 1], [4, 8, 11, 9]])
OTHERS = torch.tensor([1, 0, 3, 2])
UNAVAILABLE = backends.available()["cpu"]
each_backend = pytest.mark.parametrize(
    "backend",
    [
        "reference",
        pytest.param(
            "cpu", marks=pytest.mark.skipif(UNAVAILABLE is not None, reason=str(UNAVAILABLE))
        ),
    ],
)
each_layout = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])


def images(count=4, dtype=torch.float32, layout=torch.contiguous_format):
    return values((count, 3, 9, 11), dtype).contiguous(memory_format=layout)


@each_backend
@each_layout
def test_a_pair_exchanges_its_boxes(backend, layout):
    given = images(layout=layout)
    found = wk.attention_swap(given, BOXES, OTHERS, backend=backend)
    expected = given.clone()
    for b, p in enumerate(OTHERS.tolist()):
        (x1, y1, x2, y2), (left, top, right, bottom) = BOXES[b].tolist(), BOXES[p].tolist()
        part = given[p : p + 1, :, top:bottom, left:right]
        size = (y2 - y1, x2 - x1)
        patch = F.interpolate(part, size, mode="bilinear", align_corners=True)
        expected[b, :, y1:y2, x1:x2] = patch[0]
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=layout)


@each_backend
@each_layout
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_image_that_is_its_own_partner_stays_bit_for_bit(backend, layout, value):
    given = images(layout=layout)
    given[:, :, 4, 5] = value
    found = wk.attention_swap(given, BOXES, torch.arange(4), backend=backend)
    assert torch.equal(found.view(torch.int32), given.view(torch.int32))


@each_backend
@each_layout
def test_boxes_of_one_size_exchanged_twice_are_the_images(backend, layout):
    boxes = torch.tensor([[1, 2, 6, 5], [4, 6, 9, 9]])
    given = images(2, layout=layout)
    once = wk.attention_swap(given, boxes, torch.tensor([1, 0]), backend=backend)
    assert torch.equal(once[0, :, 2:5, 1:6], given[1, :, 6:9, 4:9])
    assert torch.equal(wk.attention_swap(once, boxes, torch.tensor([1, 0]), backend=backend), given)


@each_backend
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_spreads_inside_the_partners_box(backend, value):
    given = images()
    given[1, :, 2, 7] = given[3, 0, 8, 10] = given[2, 1, 5, 5] = value
    found = wk.attention_swap(given, BOXES, OTHERS, backend=backend)
    patch = wk.crop_resize(given[1:2], BOXES[1:2], (7, 5), backend="reference")
    assert torch.equal(found[0, :, 2:9, 1:6].isfinite(), patch[0].isfinite())
    outside = torch.ones(9, 11, dtype=torch.bool)
    outside[2:9, 1:6] = False
    assert torch.equal(found[0][:, outside], given[0][:, outside])
    batched = reference.by_batch(given, _sampling.clamped_boxes(BOXES, 9, 11), OTHERS)
    assert torch.equal(batched.isfinite(), found.isfinite())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8], ids=str)
@each_layout
def test_the_loop_the_batch_and_the_kernel_agree(dtype, layout):
    """The batch is what a GPU runs without a kernel. A byte may be rounded the other way."""
    given = (100 * images().abs()).to(dtype).contiguous(memory_format=layout)
    boxes = _sampling.clamped_boxes(BOXES, 9, 11)
    tolerance = {"atol": 1.0 if dtype == torch.uint8 else 1e-4, "rtol": TOLERANCES.get(dtype, 0)}
    for partners in (OTHERS, torch.tensor([2, 2, 2, 0])):
        loop = reference.by_image(given, boxes, partners)
        others = [reference.by_batch(given, boxes, partners)]
        if UNAVAILABLE is None:
            others.append(wk.attention_swap(given, BOXES, partners, backend="cpu"))
        for found in others:
            torch.testing.assert_close(found.float(), loop.float(), **tolerance)
            assert found.dtype == dtype and found.is_contiguous(memory_format=layout)


@each_backend
def test_the_gradient_of_several_images_with_one_partner_adds_up(backend):
    """Image 0 keeps its own box and gives it to two others, each of one pixel."""
    boxes = torch.tensor([[3, 4, 4, 5], [0, 0, 2, 2], [5, 5, 6, 6]])
    leaf = images(3).requires_grad_()
    wk.attention_swap(
        leaf, boxes, torch.zeros(3, dtype=torch.int64), backend=backend
    ).sum().backward()
    expected = torch.ones(3, 9, 11)
    expected[0, 4, 3] = 1 + 4 + 1
    expected[1, :2, :2] = expected[2, 5, 5] = 0
    assert torch.equal(leaf.grad, expected[:, None].expand(-1, 3, -1, -1))


@each_backend
def test_partners_count_within_a_batch_under_vmap(backend):
    several = torch.stack((images(), 2 * images(), images().flip(2)))
    boxes = torch.stack((BOXES, BOXES.flip(0), BOXES.roll(1, 0)))
    partners = torch.stack((OTHERS, OTHERS.flip(0), torch.tensor([0, 0, 1, 3])))
    found = torch.func.vmap(lambda *x: wk.attention_swap(*x, backend=backend))(
        several, boxes, partners
    )
    for i in range(3):
        one = wk.attention_swap(several[i], boxes[i], partners[i], backend=backend)
        assert torch.equal(found[i], one)


@pytest.mark.skipif(UNAVAILABLE is not None, reason=str(UNAVAILABLE))
@pytest.mark.parametrize("partner", [4, -1, 2**40])
def test_the_kernel_itself_refuses_a_partner_out_of_range(partner):
    """Where torch.compile or torch.func leaves out the check before it."""
    given, partners = images(), torch.tensor([1, 0, 3, partner])
    for name in ("attention_swap", "attention_swap_backward"):
        run = getattr(torch.ops.wsdan_native, name)
        with pytest.raises(RuntimeError, match=r"attention_swap: partners must be in \[0, 4\)"):
            run(given, BOXES.int(), partners, torch.empty_like(given))
