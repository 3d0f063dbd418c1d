"""The reference against each operator's equation by loops; a wrong equation is found."""

import dataclasses

import pytest
import torch
import truths
from parity import as_tuple

from wsdan_kernels import ops, reference
from wsdan_kernels.testing import CASES, TOLERANCES, relative_error


def check_case(case, dtype=torch.float64):
    """On all shapes; in float64 with several seeds, as its rounding crosses no threshold."""
    for shape in case.shapes:
        for seed in range(3 if dtype == torch.float64 else 1):
            check_truth(case, shape, dtype, seed)


def check_truth(case, shape, dtype, seed):
    """AssertionError where the reference differs from the equation on the same values."""
    inputs = {name: value.detach() for name, value in case.inputs(shape, dtype, seed).items()}
    wide = {
        name: value.double() if value.dtype.is_floating_point else value
        for name, value in inputs.items()
    }
    found = as_tuple(case.run(inputs, "reference"))
    expected = as_tuple(getattr(truths, case.op)(**wide, **case.options))
    for value, truth in zip(found, expected, strict=True):
        if truth.dtype.is_floating_point:
            assert relative_error(value, truth) <= TOLERANCES[dtype], case
        else:
            assert torch.equal(value, truth), case


@pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_reference_computes_the_equation(case, dtype):
    check_case(case, dtype)


def wrong_pool(features, attentions, reduce, signed_sqrt, *options):
    """The mean of one position too many."""
    *arguments, scale = options
    scale = scale * (0.99 if reduce == "mean" else 1.01)
    run = reference.bilinear_attention_pool.forward
    return run(features, attentions, reduce, signed_sqrt, *arguments, scale)


def wrong_attend(features, weight, gamma, beta, mean, variance, bn_eps, *options):
    """The variance in place of the deviation."""
    run = reference.attend_and_pool.forward
    return run(features, weight, gamma, beta, mean, variance.square(), bn_eps, *options)


def wrong_sample(attentions, uniforms, weighting):
    """The mass as the weight, not its root."""
    return reference.sample_attention.forward(attentions.square(), uniforms, weighting)


def wrong_boxes(maps, thresholds, height, width, padding, rule, align_corners):
    """A padding of one pixel more."""
    run = reference.attention_boxes.forward
    return run(maps, thresholds, height, width, padding + 1 / height, rule, align_corners)


def wrong_crop(images, boxes, height, width, align_corners):
    """The other rule for the corners."""
    return reference.crop_resize.forward(images, boxes, height, width, not align_corners)


def wrong_drop(images, maps, thresholds, rule, align_corners):
    """Another threshold."""
    run = reference.attention_drop.forward
    return run(images, maps, 0.9 * thresholds, rule, align_corners)


def wrong_crop_drop(images, crop_maps, drop_maps, *options):
    """The drop's map upside down."""
    return reference.attention_crop_drop.forward(images, crop_maps, drop_maps.flip(1), *options)


def wrong_swap(images, boxes, partners):
    """A box of one column less on the left."""
    one = torch.tensor([1, 0, 0, 0])
    return reference.attention_swap.forward(images, boxes + one, partners)


def wrong_loss(features, centers, labels):
    """The norm of the difference is not squared."""
    loss, difference = reference.center_loss.forward(features, centers, labels)
    return loss.sqrt(), difference


def wrong_update(centers, features, labels, beta, duplicates):
    """A step of another length."""
    reference.center_loss.update(centers, features, labels, 1.1 * beta, duplicates)


WRONG = {
    "bilinear_attention_pool": wrong_pool,
    "attend_and_pool": wrong_attend,
    "sample_attention": wrong_sample,
    "attention_boxes": wrong_boxes,
    "crop_resize": wrong_crop,
    "attention_drop": wrong_drop,
    "attention_crop_drop": wrong_crop_drop,
    "attention_swap": wrong_swap,
    "center_loss": wrong_loss,
    "update_centers_": wrong_update,
}


@pytest.mark.parametrize("op", WRONG)
def test_a_wrong_equation_is_found(op, monkeypatch):
    """Also where every backend and the gradient agree with it."""
    kernel = dataclasses.replace(ops.KERNELS[op]["reference"], run=WRONG[op])
    monkeypatch.setitem(ops.KERNELS[op], "reference", kernel)
    for case in [case for case in CASES if case.op == op]:
        with pytest.raises(AssertionError):
            check_case(case)
