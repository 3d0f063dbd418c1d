"""Pooling on the CPU under maps of another size than the features: resized in scratch, and back."""

import parity
import pytest
import torch
from native import INF, NAN, each_dtype, each_layout, each_strides
from parity import STRIDES, values

import wsdan_kernels as wk


@pytest.fixture
def memory_of_nan():
    """What a kernel is given to fill holds NaN, or the largest integer."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


# B M C h w and the maps' size: lower, higher, one position; as many maps as a vector, and more.
SHAPES = (
    ((0, 3, 5, 4, 4), (2, 3)),
    ((1, 1, 1, 1, 1), (5, 3)),
    ((3, 2, 7, 9, 5), (1, 1)),
    ((2, 5, 31, 9, 17), (5, 65)),
    ((1, 3, 65, 13, 1), (1, 9)),
    ((3, 33, 17, 5, 7), (17, 4)),
    ((1, 16, 129, 16, 11), (31, 6)),
    ((1, 8, 40, 29, 31), (15, 16)),
)


@pytest.mark.parametrize("reduce", ["mean", "sum"])
@each_strides
@each_dtype
def test_pool_under_maps_of_another_size(dtype, strides, reduce, memory_of_nan):
    for i, (shape, map_size) in enumerate(SHAPES):
        for signed in (False, True):
            share = parity.check_pool(
                shape,
                dtype,
                strides=strides,
                upstream_strides=STRIDES[i % len(STRIDES)],
                signed=signed,
                poison=None,
                seed=i,
                map_size=map_size,
                reduce=reduce,
                normalize=("all", "part", "none")[i % 3],
            )
            assert share <= 1, shape


@each_strides
@each_dtype
def test_the_maximum_under_maps_of_another_size(dtype, strides, memory_of_nan):
    """Where resizing is exact, the same positions, ties included."""
    sizes = [((9, 17), (5, 65)), ((5, 3), (9, 2)), ((5, 9), (1, 3)), ((1, 4), (3, 4))]
    for i, (size, map_size) in enumerate(sizes):
        share = parity.check_pool(
            (3, 7, 37, *size),
            dtype,
            strides=strides,
            upstream_strides=STRIDES[i],
            signed=True,
            poison=None,
            seed=i,
            map_size=map_size,
            reduce="max",
            normalize=("all", "part", "none")[i % 3],
        )
        assert share <= 1, size


@each_layout
@pytest.mark.parametrize("bad", [NAN, INF])
def test_what_is_not_finite_in_a_map_stays_with_it(bad, layout):
    features, attentions = values((2, 40, 9, 7)), values((2, 5, 4, 3), seed=1)
    attentions[1, 3, 2, 1] = bad
    pooled = wk.bilinear_attention_pool(
        features.contiguous(memory_format=layout),
        attentions.contiguous(memory_format=layout),
        signed_sqrt=False,
        normalize=None,
        backend="cpu",
    )
    finite = torch.ones(2, 5, dtype=torch.bool)
    finite[1, 3] = False
    assert torch.equal(pooled.isfinite().all(2), finite)
    assert torch.equal(pooled.isfinite().any(2), finite)
