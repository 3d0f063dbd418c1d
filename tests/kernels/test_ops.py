"""Every operator: dispatcher registration, gradients, compilation, dtypes, strides, odd shapes."""

from dataclasses import replace

import pytest
import torch
from parity import Recorder, as_tuple, results

from wsdan_kernels import backends
from wsdan_kernels.testing import CASES, TOLERANCES, relative_error

each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_dtype = pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)


def assert_close(case, found, expected, tolerance):
    for value, truth in zip(found, expected, strict=True):
        assert value.dtype == truth.dtype, case
        if truth.dtype.is_floating_point:
            assert relative_error(value, truth) <= tolerance, case
        else:
            assert torch.equal(value, truth), case


@each_case
def test_opcheck(case):
    inputs = case.inputs(case.shapes[0], torch.float64)
    with Recorder() as recorder:
        results(case, inputs, "auto")
    assert recorder.calls
    for func, args in recorder.calls:
        leaves = [arg for arg in args if isinstance(arg, torch.Tensor)]
        if case.differentiable and not func._schema.name.endswith(("backward", "_")):
            for leaf in leaves:
                leaf.requires_grad_(leaf.dtype.is_floating_point)
        torch.library.opcheck(func, tuple(args))


@pytest.mark.parametrize("case", [case for case in CASES if case.differentiable], ids=str)
def test_gradcheck(case):
    for shape in case.shapes:
        inputs = case.inputs(shape, torch.float64)

        def run(*leaves, inputs=inputs):
            named = dict(zip(case.differentiable, leaves, strict=True))
            return case.run({**inputs, **named}, "auto")

        leaves = tuple(inputs[name] for name in case.differentiable)
        assert torch.autograd.gradcheck(run, leaves, fast_mode=True), shape


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("case", [case for case in CASES if case.differentiable], ids=str)
def test_second_derivatives_are_right_or_refused(case, backend):
    inputs = case.inputs(case.shapes[-1], torch.float64)

    def run(*leaves):
        return case.run({**inputs, **dict(zip(case.differentiable, leaves, strict=True))}, backend)

    leaves = tuple(inputs[name] for name in case.differentiable)
    if case.op == "bilinear_attention_pool":
        with pytest.raises(NotImplementedError, match=f"{case.op}: has no second derivatives"):
            torch.autograd.gradgradcheck(run, leaves, fast_mode=True)
    else:
        assert torch.autograd.gradgradcheck(run, leaves, fast_mode=True)


@pytest.mark.parametrize("case", [case for case in CASES if not case.differentiable], ids=str)
def test_what_is_not_differentiable_asks_for_no_gradient(case):
    inputs = case.inputs(case.shapes[0])
    for name in ("maps", "attentions", "features"):
        if name in inputs:
            inputs[name].requires_grad_()
    assert not any(result.requires_grad for result in as_tuple(case.run(inputs, "auto")))


@each_case
def test_compiles_as_one_graph(case):
    torch._dynamo.reset()
    inputs = case.inputs(case.shapes[0])
    expected = results(case, inputs, "auto")
    compiled = torch.compile(
        lambda values: case.run(values, "auto"), fullgraph=True, backend="aot_eager"
    )
    found = as_tuple(compiled(inputs))
    if case.differentiable:
        upstream = [torch.linspace(-1, 1, out.numel()).view_as(out) for out in found]
        leaves = [inputs[name] for name in case.differentiable]
        found = (*found, *torch.autograd.grad(found, leaves, upstream))
    assert_close(case, found, expected, TOLERANCES[torch.float32])


@pytest.mark.slow
def test_compiles_with_inductor():
    """One whole chain through the default compiler, forward and backward."""
    torch._dynamo.reset()
    case = next(case for case in CASES if case.name == "attention_crop_drop")
    inputs = case.inputs(case.shapes[0])
    expected = results(case, inputs, "auto")
    compiled = replace(case, call=torch.compile(case.call, fullgraph=True))
    found = results(compiled, inputs, "auto")
    assert_close(case, found, expected, TOLERANCES[torch.float32])


@each_case
@each_dtype
def test_backends_agree(case, dtype):
    """Every backend that can run equals the reference, forward and every gradient."""
    for shape in case.shapes:
        for batch in (shape[0], 0):
            inputs = case.inputs((batch, *shape[1:]), dtype)
            expected = results(case, inputs, "reference")
            for backend in backends.NAMES:
                if backends.why_not(case.op, backend, "cpu", dtype) is None:
                    found = results(case, inputs, backend)
                    assert_close(case, found, expected, TOLERANCES[dtype])


@each_case
def test_half_precision_is_computed_in_float32(case):
    """A half-precision call differs from the float32 call on the same values by rounding only."""
    for dtype in (torch.bfloat16, torch.float16):
        inputs = case.inputs(case.shapes[0], dtype)
        wide = {
            name: value.detach().float() if value.dtype == dtype else value
            for name, value in inputs.items()
        }
        for name in case.differentiable:
            wide[name].requires_grad_()
        found = [value.to(torch.float64) for value in results(case, inputs, "auto")]
        expected = [value.to(torch.float64) for value in results(case, wide, "auto")]
        assert_close(case, found, expected, TOLERANCES[dtype])


@each_case
def test_strides_do_not_matter(case):
    inputs = case.inputs(case.shapes[0])
    expected = results(case, inputs, "auto")
    for rearrange in (_transposed, _spaced, _expanded_storage):
        strided = {name: rearrange(value.detach()) for name, value in inputs.items()}
        for name in case.differentiable:
            strided[name].requires_grad_()
        assert_close(case, results(case, strided, "auto"), expected, TOLERANCES[torch.float32])


def _transposed(value):
    """Same values, axes stored in reverse order (channels_last is one of these)."""
    axes = tuple(reversed(range(value.dim())))
    return value.permute(axes).contiguous().permute(axes)


def _spaced(value):
    """Same values, every second element of a larger NaN-filled storage."""
    shape = (*value.shape, 2)
    filler = float("nan") if value.dtype.is_floating_point else 0
    storage = torch.full(shape, filler, dtype=value.dtype)
    storage[..., 0] = value
    return storage[..., 0]


def _expanded_storage(value):
    """Same values at an offset into a larger storage."""
    storage = torch.zeros((value.shape[0] + 1, *value.shape[1:]), dtype=value.dtype)
    storage[1:] = value
    return storage[1:]


@each_case
def test_shapes_on_the_meta_device(case):
    inputs = case.inputs(case.shapes[0])
    expected = as_tuple(case.run(inputs, "auto"))
    found = as_tuple(
        case.run({name: value.detach().to("meta") for name, value in inputs.items()}, "auto")
    )
    for value, truth in zip(found, expected, strict=True):
        assert (value.shape, value.dtype) == (truth.shape, truth.dtype)


@each_case
def test_inputs_are_not_written(case):
    inputs = case.inputs(case.shapes[0])
    before = {name: value.detach().clone() for name, value in inputs.items()}
    results(case, inputs, "auto")
    for name, value in inputs.items():
        assert torch.equal(value, before[name]), name


@each_case
def test_autocast_does_not_lower_the_precision(case):
    inputs = case.inputs(case.shapes[0])
    expected = results(case, inputs, "auto")
    with torch.autocast("cpu", torch.bfloat16):
        found = results(case, inputs, "auto")
    assert_close(case, found, expected, TOLERANCES[torch.float32])


@each_case
def test_repeats_bit_for_bit(case):
    inputs = case.inputs(case.shapes[0])
    for first, second in zip(
        results(case, inputs, "auto"), results(case, inputs, "auto"), strict=True
    ):
        assert torch.equal(first, second)
