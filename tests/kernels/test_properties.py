"""What holds for every input: parity with the reference, and what the operators promise."""

import random

import fuzzers
import parity
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import DTYPES, NATIVE, STRIDES, arranged, outcomes, values

import wsdan_kernels as wk
from wsdan_kernels.testing import TOLERANCES, relative_error

pytestmark = pytest.mark.slow

SEEDS = st.integers(0, 2**31)
each_op = pytest.mark.parametrize("op", list(fuzzers.FUZZERS))
each_case = pytest.mark.parametrize("case", NATIVE, ids=str)


def examples(count):
    return settings(max_examples=count, deadline=None, derandomize=True)


def sides(most):
    return st.one_of(st.integers(1, 3), st.integers(1, most))


@examples(150)
@given(
    batch=st.integers(0, 3),
    maps=sides(40),
    channels=sides(140),
    height=sides(14),
    width=sides(14),
    dtype=st.sampled_from(DTYPES),
    strides=st.sampled_from(STRIDES),
    upstream_strides=st.sampled_from(STRIDES),
    signed=st.booleans(),
    reduce=st.sampled_from(["mean", "sum", "max"]),
    normalize=st.sampled_from(["all", "part", "none"]),
    eps=st.sampled_from([0.0, 1e-12, 1e-6, 1e-2]),
    scale=st.floats(0.01, 100),
    seed=SEEDS,
)
def test_pool_equals_the_reference(batch, maps, channels, height, width, dtype, **options):
    shape = (batch, maps, channels, height, width)
    assert parity.check_pool(shape, dtype, poison=None, **options) <= 1


@each_op
@examples(40)
@given(seed=SEEDS)
def test_operators_equal_the_reference(op, seed):
    """The cases of the fuzz driver; hypothesis keeps and shortens what fails."""
    assert fuzzers.FUZZERS[op](random.Random(seed), seed) <= 1


@each_case
@examples(12)
@given(
    shape=st.integers(0, 2),
    dtype=st.sampled_from(DTYPES),
    strides=st.sampled_from(STRIDES[:-1]),
    order=st.permutations(range(5)),
    seed=SEEDS,
)
def test_an_image_does_not_depend_on_its_batch(case, shape, dtype, strides, order, seed):
    """The images of a batch in another order, some of them twice: the same bits for each."""
    if case.op in ("center_loss", "update_centers_", "attention_swap"):
        return  # one result for the batch; images of others
    order = torch.tensor([*order, order[0]])
    made = case.inputs((5, *case.shapes[shape][1:]), dtype, seed)
    inputs = {name: arranged(value.detach(), strides) for name, value in made.items()}
    mixed = {name: arranged(value.detach()[order], strides) for name, value in made.items()}
    for whole, part in zip(
        outcomes(case.run, inputs, (), "cpu"), outcomes(case.run, mixed, (), "cpu"), strict=True
    ):
        assert torch.equal(whole[order], part)


@examples(60)
@given(
    shape=st.tuples(st.integers(1, 3), sides(20), sides(70), sides(9), sides(9)),
    reduce=st.sampled_from(["mean", "sum", "max"]),
    channels_last=st.booleans(),
    power=st.integers(-20, 20),
    seed=SEEDS,
)
def test_pool_is_linear_in_powers_of_two(shape, reduce, channels_last, power, seed):
    """Without the root and the norm nothing but the exponent changes."""
    batch, maps, channels, height, width = shape
    features = values((batch, channels, height, width), seed=seed)
    features = arranged(features, "channels_last" if channels_last else "contiguous")
    attentions = values((batch, maps, height, width), seed=seed + 1)
    once, scaled = (
        wk.bilinear_attention_pool(
            features, factor, reduce=reduce, signed_sqrt=False, normalize=None, backend="cpu"
        )
        for factor in (attentions, attentions * 2.0**power)
    )
    assert torch.equal(scaled, once * 2.0**power)


@examples(40)
@given(
    groups=st.integers(1, 5), each=st.integers(1, 9), channels=sides(50), side=sides(8), seed=SEEDS
)
def test_groups_equal_separate_calls(groups, each, channels, side, seed):
    features = values((2, channels, side, side), seed=seed).relu() + 0.1
    attentions = values((2, groups * each, side, side), seed=seed + 1).relu() + 0.1
    together = wk.bilinear_attention_pool(features, attentions, groups=groups, backend="cpu")
    apart = [
        wk.bilinear_attention_pool(features, part, backend="cpu")
        for part in attentions.chunk(groups, 1)
    ]
    assert relative_error(together, torch.cat(apart, 1)) <= TOLERANCES[torch.float32]


@examples(60)
@given(
    size=st.tuples(sides(90), sides(90)),
    dtype=st.sampled_from(DTYPES),
    strides=st.sampled_from(STRIDES),
    align_corners=st.booleans(),
    seed=SEEDS,
)
def test_a_crop_of_the_whole_image_is_the_image(size, dtype, strides, align_corners, seed):
    images = arranged(values((2, 3, *size), dtype, seed), strides)
    boxes = torch.tensor([[0, 0, size[1], size[0]], [-5, -5, size[1] + 1, size[0] + 9]])
    crops = wk.crop_resize(images, boxes, align_corners=align_corners, backend="cpu")
    assert torch.equal(crops, images)


@examples(60)
@given(
    size=st.tuples(sides(90), sides(90)),
    maps=st.tuples(st.just(2), sides(14), sides(14)),
    dtype=st.sampled_from(DTYPES),
    low=st.floats(0.01, 0.5),
    high=st.floats(0.5, 1.0),
    rule=st.sampled_from(["paper", "guyuc"]),
    seed=SEEDS,
)
def test_a_drop_is_a_projection_that_shrinks(size, maps, dtype, low, high, rule, seed):
    """Dropping twice changes nothing; a lower threshold drops no less."""
    images, maps = values((2, 3, *size), dtype, seed), values(maps, seed=seed + 1).abs()

    def drop(images, threshold):
        return wk.attention_drop(images, maps, threshold=threshold, rule=rule, backend="cpu")

    once, less = drop(images, low), drop(images, high)
    assert torch.equal(drop(once, low), once)
    assert torch.equal(drop(less, low), once)
    kept = once != 0
    assert torch.equal(once[kept], images[kept]) and bool((less != 0)[kept].all())


@examples(60)
@given(
    batch=st.integers(1, 9),
    classes=st.integers(1, 4),
    dim=sides(1100),
    dtype=st.sampled_from(DTYPES),
    duplicates=st.sampled_from(["accumulate", "mean"]),
    seed=SEEDS,
)
def test_centers_without_a_label_stay(batch, classes, dim, dtype, duplicates, seed):
    centers, features = values((classes + 1, dim), dtype, seed), values((batch, dim), dtype, seed)
    labels = torch.randint(classes, (batch,), generator=torch.Generator().manual_seed(seed))
    before = centers.clone()
    wk.update_centers_(centers, features, labels, duplicates=duplicates, backend="cpu")
    others = [label for label in range(classes + 1) if label not in labels]
    assert torch.equal(centers[others], before[others])
    wk.update_centers_(before, features, labels, beta=0.0, backend="cpu")
    still = values((classes + 1, dim), dtype, seed)
    assert torch.equal(before, still)
