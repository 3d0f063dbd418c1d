"""torch.func and forward mode: right, or refused with the operator's name."""

import pytest
import torch
from torch.autograd import forward_ad

import wsdan_kernels as wk
from wsdan_kernels.testing import CASES

DIFFERENTIABLE = [case for case in CASES if case.differentiable]
each_case = pytest.mark.parametrize("case", DIFFERENTIABLE, ids=str)
each_backend = pytest.mark.parametrize("backend", ["auto", "reference"])


def function_of(case, backend, shape=None):
    """The case as a function of its first differentiable input, which is returned with it."""
    inputs = case.inputs(shape or case.shapes[0], torch.float64)
    inputs = {name: value.detach() for name, value in inputs.items()}
    name = case.differentiable[0]

    def run(value):
        found = case.run({**inputs, name: value}, backend)
        return sum(part.sum(0) for part in found) if isinstance(found, tuple) else found

    return run, inputs[name]


@each_backend
@each_case
def test_grad_is_that_of_autograd(case, backend):
    run, value = function_of(case, backend)
    weights = torch.linspace(-1, 1, run(value).numel(), dtype=torch.float64)
    found = torch.func.grad(lambda x: run(x).flatten() @ weights)(value)
    leaf = value.clone().requires_grad_()
    (expected,) = torch.autograd.grad(run(leaf).flatten() @ weights, leaf)
    assert torch.equal(found, expected)


@each_case
def test_jacrev_is_the_jacobian(case):
    run, value = function_of(case, "auto", case.shapes[1])
    expected = torch.autograd.functional.jacobian(run, value)
    torch.testing.assert_close(torch.func.jacrev(run)(value), expected)


@each_case
def test_per_sample_gradients(case):
    """vmap over grad, as torch.func's recipe for them."""
    run, value = function_of(case, "auto")
    several = torch.stack((value, 2 * value - 1, value.flip(-1)))
    found = torch.func.vmap(torch.func.grad(lambda x: run(x).square().sum()))(several)
    for i in range(3):
        expected = torch.func.grad(lambda x: run(x).square().sum())(several[i])
        torch.testing.assert_close(found[i], expected)


@each_case
def test_forward_mode_is_refused(case):
    run, value = function_of(case, "auto")
    refusal = pytest.raises(NotImplementedError, match="has no forward-mode derivatives")
    with refusal as caught:
        torch.func.jvp(run, (value,), (value,))
    assert case.op in str(caught.value) or "crop_resize" in str(caught.value)
    with refusal:
        torch.func.jacfwd(run)(value)
    with refusal, forward_ad.dual_level():
        run(forward_ad.make_dual(value, value))


def test_forward_mode_without_a_tangent_is_the_call():
    images, maps = torch.rand(2, 3, 8, 8), torch.rand(2, 4, 4)
    expected = wk.attention_drop(images, maps, threshold=0.5)
    with forward_ad.dual_level():
        assert torch.equal(wk.attention_drop(images, maps, threshold=0.5), expected)


def test_attend_and_pool_refuses_forward_mode_too():
    norm, features = torch.nn.BatchNorm2d(5).eval(), torch.rand(2, 3, 4, 4)
    weight = torch.rand(5, 3)
    with pytest.raises(NotImplementedError, match="attend_and_pool: has no forward-mode"):
        torch.func.jvp(lambda x: wk.attend_and_pool(x, weight, norm)[0], (features,), (features,))


@pytest.mark.parametrize("case", [case for case in CASES if case.op == "attention_boxes"], ids=str)
def test_what_is_not_differentiable_is_batched(case):
    inputs = case.inputs(case.shapes[0])
    several = {name: torch.stack((value, value.flip(1))) for name, value in inputs.items()}
    found = torch.func.vmap(lambda x: case.run(x, "auto"))(several)
    for i in range(2):
        one = {name: value[i] for name, value in several.items()}
        assert torch.equal(found[i], case.run(one, "auto"))
