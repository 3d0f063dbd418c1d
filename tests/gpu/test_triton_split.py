"""The float32 product as three of tf32: how an operand is split, and what becomes of infinities."""

import importlib.util

import pytest
import torch
from parity import GPU

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

import triton
import triton.language as tl

from wsdan_kernels._triton._device import product, tf32_part
from wsdan_kernels.testing import TOLERANCES

SIZE = 16
INFINITY, NAN = float("inf"), float("nan")
KEPT = -(1 << 13)  # the bits that a tf32 has of a float32


@triton.jit
def parts_kernel(values, parts, size: tl.constexpr):
    at = tl.arange(0, size)
    tl.store(parts + at, tf32_part(tl.load(values + at)))


@triton.jit
def product_kernel(left, right, into, size: tl.constexpr):
    """into = into + left @ right."""
    at = tl.arange(0, size)[:, None] * size + tl.arange(0, size)[None, :]
    total = product(tl.load(left + at), tl.load(right + at), tl.load(into + at), "tf32x3")
    tl.store(into + at, total)


def part_of(values: torch.Tensor) -> torch.Tensor:
    """tf32_part of values (N,) float32, N a power of two."""
    parts = torch.empty_like(values)
    parts_kernel[(1,)](values, parts, size=len(values))
    return parts


def cut(values: torch.Tensor) -> torch.Tensor:
    """As a tensor core reads a float32: without the bits that tf32 lacks."""
    return (values.view(torch.int32) & KEPT).view(torch.float32)


def test_the_parts_are_tf32_and_near():
    exponents = torch.linspace(-120, 120, 4096, device=GPU)
    values = torch.randn(4096, device=GPU) * exponents.exp2()
    values[:8] = torch.tensor([0.0, -0.0, 1.0, -1.0, 2 - 2**-23, 1 + 2**-23, 2**-126, -(2**-140)])
    parts = part_of(values)
    assert torch.equal(cut(parts), parts)
    rest = values - parts
    assert torch.equal(rest.double(), values.double() - parts.double())  # without a rounding
    normal = values.abs() >= 2**-126
    assert bool((rest.abs() <= 2**-10.5 * values.abs())[normal].all())


def test_infinities_and_every_nan_stay():
    bits = [0x7FFFFFFF, -1, 0x7FC00000, -0x400000, 0x7F800001, 0x7FFFF000, 0x7FFFE000, 0x7F801FFF]
    nans = torch.tensor(bits, dtype=torch.int32, device=GPU).view(torch.float32)
    assert bool(part_of(nans).isnan().all())
    infinities = torch.tensor([INFINITY, -INFINITY], device=GPU)
    assert torch.equal(part_of(infinities), infinities)


def test_the_product_is_near_the_exact_one():
    """With operands as the tensor cores read them, which is exact but for the low parts."""
    left, right = torch.rand((2, SIZE * SIZE), device=GPU) + 1
    pairs = [(part_of(value), value - part_of(value)) for value in (left, right)]
    (a, low_a), (b, low_b) = [
        [cut(part).double().view(SIZE, SIZE) for part in pair] for pair in pairs
    ]
    exact = left.double().view(SIZE, SIZE) @ right.double().view(SIZE, SIZE)
    error = (a @ b + low_a @ b + a @ low_b - exact).abs().max() / exact.max()
    assert error < 2**-20


@pytest.mark.parametrize("value", [INFINITY, -INFINITY, NAN])
def test_the_product_keeps_what_is_not_finite(value):
    left, right = torch.rand((2, SIZE, SIZE), device=GPU) + 1
    left[3, 5] = value
    total = torch.ones((SIZE, SIZE), device=GPU)
    product_kernel[(1,)](left, right, total, size=SIZE)
    expected = left.double() @ right.double() + 1
    # The tensor cores cut off what a sum has beyond float32, a bit or two.
    tolerance = TOLERANCES[torch.float32]
    torch.testing.assert_close(total.double(), expected, rtol=tolerance, atol=0, equal_nan=True)
    assert bool((total[3] == value).all() or total[3].isnan().all())
