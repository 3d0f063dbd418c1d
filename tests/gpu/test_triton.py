"""The Triton kernels against the reference: on a GPU, or without one in Triton's interpreter."""

import contextlib
import functools
import importlib.util
import itertools
from dataclasses import replace
from functools import partial

import interpreter
import parity
import pytest
import torch
from parity import GPU, OPS, arranged, as_tuple, check_pool, far_apart, share_of_tolerance, values

import wsdan_kernels as wk
from wsdan_kernels import backends
from wsdan_kernels.ops import KERNELS
from wsdan_kernels.ops._declare import TRITON_DTYPES
from wsdan_kernels.testing import CASES, TOLERANCES

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from wsdan_kernels import _triton
from wsdan_kernels._triton import _launch
from wsdan_kernels._triton import _tuning as tuning

# test_ops.py compares every operator's kernels with the reference, more quickly.
pytestmark = pytest.mark.slow
interpreted = pytest.mark.skipif(
    not interpreter.interpreting(), reason="needs the interpreter: TRITON_INTERPRET=1, or no GPU"
)
TRITON_CASES = [case for case in CASES if "triton" in KERNELS[case.op]]
each_case = pytest.mark.parametrize("case", TRITON_CASES, ids=str)
each_dtype = pytest.mark.parametrize("dtype", TRITON_DTYPES, ids=str)
each_reduce = pytest.mark.parametrize("reduce", ["mean", "max"])
FLOAT32 = TOLERANCES[torch.float32]
EXACT_SHARE = 0.5  # of the tolerance, between attend_and_pool and the exact result


def results(case, inputs, backend="triton"):
    """Outputs and gradients of a case's inputs, which are moved to the GPU where there is one."""
    inputs = {name: value.detach().to(GPU) for name, value in inputs.items()}
    for name in case.differentiable:
        inputs[name].requires_grad_()
    outputs = as_tuple(case.run(inputs, backend))
    if not case.differentiable:
        return outputs
    upstream = [torch.linspace(-1, 1, out.numel()).view_as(out).to(out) for out in outputs]
    leaves = [inputs[name] for name in case.differentiable]
    return tuple(out.detach() for out in outputs) + torch.autograd.grad(outputs, leaves, upstream)


def test_these_operators_have_kernels():
    names = {case.op for case in TRITON_CASES}
    assert names == {
        "attend_and_pool",
        "bilinear_attention_pool",
        "center_loss",
        "sample_attention",
        "update_centers_",
    }
    assert backends.available()["triton"] is None


@each_case
@each_dtype
def test_equals_the_reference(case, dtype):
    for shape in case.shapes:
        for batch in (shape[0], 0):
            inputs = case.inputs((batch, *shape[1:]), dtype)
            found, expected = results(case, inputs), results(case, inputs, "reference")
            exact = functools.cache(partial(results, case, widened(inputs), "reference"))
            for i, (value, truth) in enumerate(zip(found, expected, strict=True)):
                if case.op == "attend_and_pool":
                    assert share_of_exact(value, exact()[i], dtype) <= EXACT_SHARE, (shape, batch)
                share = share_of_tolerance(value, truth, lambda i=i, exact=exact: exact()[i])
                assert share <= 1, (shape, batch)


def share_of_exact(value, exact, dtype):
    """The error from the result in float64, as a share of the tolerance of the inputs' dtype.

    The reference of attend_and_pool rounds between its steps where the kernel does not, which alone
    can take most of the tolerance between the two.
    """
    return parity.relative_error(value.double(), exact) / TOLERANCES[dtype]


def widened(inputs):
    """The same values in float64."""
    return {
        name: value.detach().double() if value.is_floating_point() else value
        for name, value in inputs.items()
    }


# B M C h w: blocks that are full and that are not, more of each than one, odd strides.
SHAPES = (
    (2, 5, 40, 3, 4),
    (1, 17, 130, 9, 5),
    (2, 32, 64, 8, 8),
    (1, 33, 96, 4, 16),
    (1, 3, 1, 5, 7),
    (2, 1, 9, 1, 70),
)
# Every dtype in both layouts that are read in place; those that are copied in one.
LAYOUTS = (
    *itertools.product(TRITON_DTYPES, ("contiguous", "channels_last")),
    *itertools.product((torch.float32,), ("sliced", "expanded")),
)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("dtype", "strides"), LAYOUTS, ids=str)
@each_reduce
def test_pooling(shape, strides, dtype, reduce):
    normalize = {"contiguous": "part", "channels_last": "all"}.get(strides, "none")
    for signed in (False, True) if reduce == "mean" else (strides == "contiguous",):
        share = check_pool(
            shape, dtype, strides=strides, upstream_strides="transposed", signed=signed,
            poison=None, seed=sum(shape), reduce=reduce, normalize=normalize, backend="triton",
        )  # fmt: skip
        assert share <= 1


@pytest.mark.parametrize("maps", [65, 130])
@each_dtype
def test_more_maps_than_one_tile_holds(maps, dtype):
    for strides in ("contiguous", "channels_last"):
        share = check_pool(
            (1, maps, 70, 3, 13), dtype, strides=strides, upstream_strides="contiguous",
            signed=False, poison=None, seed=maps, reduce="sum", backend="triton",
        )  # fmt: skip
        assert share <= 1


def test_groups_eps_and_scale():
    for groups, eps, scale in ((3, 0.0, 100.0), (2, 1e-2, 0.5), (6, 1e-6, 1.0)):
        share = check_pool(
            (2, 6, 33, 4, 5), torch.float32, strides="contiguous", upstream_strides="contiguous",
            signed=False, poison=None, seed=1, groups=groups, eps=eps, scale=scale,
            backend="triton",
        )  # fmt: skip
        assert share <= 1


@each_reduce
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 0.0])
def test_values_that_are_not_finite_go_where_the_reference_has_them(reduce, poison):
    share = check_pool(
        (2, 4, 20, 3, 5), torch.float32, strides="channels_last", upstream_strides="contiguous",
        signed=True, poison=poison, seed=5, reduce=reduce, normalize="part", backend="triton",
    )  # fmt: skip
    assert share <= 1


def test_where_nothing_was_pooled_the_gradient_is_zero():
    features, attentions = torch.zeros(1, 3, 2, 2, device=GPU), torch.ones(1, 2, 2, 2, device=GPU)
    for normalize in ("all", None):
        leaves = [value.clone().requires_grad_() for value in (features, attentions)]
        pooled = wk.bilinear_attention_pool(*leaves, normalize=normalize, backend="triton")
        assert torch.equal(pooled, torch.zeros_like(pooled))
        pooled.sum().backward()
        assert all(torch.equal(leaf.grad, torch.zeros_like(leaf)) for leaf in leaves)


def pooled_in_parts(monkeypatch, multiprocessors):
    """The pooling of one input on a GPU with so many multiprocessors, and how often it splits."""
    counts = []
    split = tuning.splits

    def record(*arguments):
        counts.append(split(*arguments[:2], multiprocessors))
        return counts[-1]

    features, attentions = values((2, 20, 9, 80)).relu(), values((2, 5, 9, 80), seed=1).relu()
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "splits", record)
        pooled = wk.bilinear_attention_pool(features.to(GPU), attentions.to(GPU), backend="triton")
    return pooled, counts


def test_the_positions_are_split_where_the_programs_do_not_fill_the_card(monkeypatch):
    whole, once = pooled_in_parts(monkeypatch, 1)
    parts, often = pooled_in_parts(monkeypatch, 1000)
    assert once == [1] and often[0] >= 4
    assert parity.relative_error(parts, whole) <= FLOAT32


@interpreted
@each_case
def test_the_order_of_the_programs_does_not_matter(case):
    """A race would show: programs that depend on each other see another order each time."""
    for shape in case.shapes[:1] + case.shapes[2:]:
        inputs = case.inputs(shape)
        expected = results(case, inputs)
        for seed in range(3):
            with interpreter.shuffled(seed) as orders:
                found = results(case, inputs)
            assert orders
            assert all(map(torch.equal, found, expected))


@interpreted
@each_case
def test_every_kernel_is_launched_on_its_tensors_device(case, monkeypatch):
    """Not on the current one: all launches are within device_of of a tensor of the call."""
    from triton.runtime.interpreter import GridExecutor

    entered, outside, launch = [], [], GridExecutor.__call__

    @contextlib.contextmanager
    def device_of(tensor):
        entered.append(tensor)
        yield
        entered.pop()

    def launched(self, *arguments, **keywords):
        outside.append(not entered)
        return launch(self, *arguments, **keywords)

    results(case, case.inputs(case.shapes[0]))  # the kernels' modules are loaded on first use
    for module in [value for value in vars(_triton).values() if hasattr(value, "device_of")]:
        monkeypatch.setattr(module, "device_of", device_of)
    monkeypatch.setattr(GridExecutor, "__call__", launched)
    results(case, case.inputs(case.shapes[0]))
    assert outside and not any(outside)


@interpreted
def test_the_shuffle_finds_a_race():
    import triton
    import triton.language as tl

    @triton.jit
    def racing(total, last):
        program = tl.program_id(0)
        tl.store(total, tl.load(total) * 2 + program)
        tl.store(last, program)

    outcomes = set()
    for seed in range(4):
        total, last = torch.zeros(2, dtype=torch.int64).split(1)
        with interpreter.shuffled(seed):
            racing[(8,)](total, last)
        outcomes.add((total.item(), last.item()))
    assert len(outcomes) > 1


@each_case
@each_dtype
def test_every_element_is_written(case, dtype):
    """What a kernel allocates is NaN, or the largest integer, before it runs."""
    runs = []
    for filled in (False, True):
        with parity.deterministic(filled):
            runs.append([results(case, case.inputs(shape, dtype)) for shape in case.shapes])
    expected, found = runs
    for first, second in zip(itertools.chain(*found), itertools.chain(*expected), strict=True):
        assert torch.equal(first, second)


@each_reduce
@pytest.mark.parametrize(("axis", "stride"), [(0, 2**31 + 64), (1, 2**24 - 16)])
@parity.room_far_apart()
def test_offsets_beyond_32_bits(reduce, axis, stride):
    """More than 2^31 elements from end to end; untouched memory costs nothing, but on a GPU."""
    shape = (2, 7, 1, 5) if axis == 0 else (1, 140, 1, 1)
    features = values(shape, torch.bfloat16, 3).to(GPU)
    attentions = values((shape[0], 3, *shape[2:]), torch.bfloat16, 4).to(GPU)
    apart = far_apart(features, axis, stride)
    assert _launch.as_rows(apart).tensor is apart
    for options in ("mean", "max"):
        near, far = (outcomes_of(value, attentions, reduce=options) for value in (features, apart))
        assert all(map(torch.equal, near, far))


def outcomes_of(features, attentions, **options):
    leaves = [value.detach().requires_grad_() for value in (features, attentions)]
    pooled = wk.bilinear_attention_pool(*leaves, **options, backend="triton")
    return pooled.detach(), *torch.autograd.grad(pooled.square().sum(), leaves)


def test_layouts_are_read_in_place_or_copied():
    tensor = values((2, 6, 4, 8))
    for strides in ("contiguous", "channels_last"):
        laid = arranged(tensor, strides)
        rows = _launch.as_rows(laid)
        assert rows.tensor is laid
        assert rows.last == (strides == "channels_last")
    in_place = arranged(tensor, "channels_last")[:, :4]
    assert _launch.as_rows(in_place).tensor is in_place
    copied = _launch.as_rows(arranged(tensor, "sliced")).tensor
    assert copied.is_contiguous()
    assert [_launch.as_rows(values((1, 8, 26, 26), dtype)).vector for dtype in TRITON_DTYPES] == [
        4, 4, 4,
    ]  # fmt: skip
    last = arranged(values((1, 24, 5, 5), torch.bfloat16), "channels_last")
    assert _launch.as_rows(last).vector == 8
    assert _launch.as_rows(last[:, :3]).vector == 1
    assert (
        "read in place, other strides from a copy"
        in KERNELS["bilinear_attention_pool"]["triton"].note
    )


def test_a_label_out_of_range_is_seen_and_harms_nothing():
    features, centers = values((3, 50)).to(GPU), values((4, 50), seed=1).to(GPU)
    labels = torch.tensor([1, 4, -1], device=GPU)
    loss, difference = OPS.center_loss(features, centers, labels, "triton")
    assert loss.isnan() and difference[1:].isnan().all() and difference[0].isfinite().all()
    before = centers.clone()
    OPS.update_centers_(centers, features, labels, 0.5, "accumulate", "triton")
    assert torch.equal(centers[[0, 2, 3]], before[[0, 2, 3]])
    assert not torch.equal(centers[1], before[1])


@pytest.mark.parametrize("duplicates", ["accumulate", "mean"])
def test_labels_that_come_again_and_wide_centers(duplicates):
    labels = torch.tensor([2, 0, 2, 2, 0, 1], device=GPU)
    features, centers = values((6, 2500)).to(GPU), values((4, 2500), seed=1).to(GPU)
    expected, found = (
        wk.update_centers_(
            centers.clone(), features, labels, beta=0.3, duplicates=duplicates, backend=backend
        )
        for backend in ("reference", "triton")
    )
    assert parity.relative_error(found, expected) <= FLOAT32
    strided = arranged(centers, "transposed").clone(memory_format=torch.preserve_format)
    wk.update_centers_(strided, features, labels, beta=0.3, duplicates=duplicates, backend="triton")
    assert torch.equal(strided, found)


def test_many_draws_follow_the_mass():
    attentions = values((2, 37, 6, 5)).abs().to(GPU)
    uniforms = torch.linspace(0, 1 - 1e-6, 60).repeat(2, 1).to(GPU)
    for weighting in ("sqrt_mass", "uniform"):
        expected, found = (
            OPS.sample_attention(attentions, uniforms, weighting, backend)
            for backend in ("reference", "triton")
        )
        assert torch.equal(found, expected)
    attentions[0] = -1.0
    attentions[1, 5:] = float("nan")
    found = OPS.sample_attention(attentions, uniforms, "sqrt_mass", "triton")
    assert torch.equal(found, OPS.sample_attention(attentions, uniforms, "sqrt_mass", "reference"))
    assert found[0].unique().numel() == 37 and found[1].max() < 5


@pytest.mark.parametrize("strides", ["contiguous", "channels_last"])
@each_dtype
def test_attention_and_pooling_in_one_pass(strides, dtype, monkeypatch):
    """Several channel groups and splits; equal to the two steps, maps included."""
    monkeypatch.setattr(tuning, "ATTEND_SUMS", 2048)
    torch.manual_seed(0)
    features = arranged(values((1, 150, 9, 8), dtype).relu().to(GPU), strides)
    weight = (values((5, 150), seed=1) / 12).to(GPU)
    norm = torch.nn.BatchNorm2d(5).to(GPU)
    norm.train()(torch.randn(4, 5, 6, 6, device=GPU))
    expected, found = (
        wk.attend_and_pool(features, weight, norm.eval(), backend=backend)
        for backend in ("reference", "triton")
    )
    exact = wk.attend_and_pool(
        features.double(), weight.to(dtype).double(), norm.double(), backend="reference"
    )
    for value, truth, right in zip(found, expected, exact, strict=True):
        assert value.dtype == truth.dtype
        assert parity.relative_error(value, truth) <= TOLERANCES[dtype]
        assert share_of_exact(value, right, dtype) <= EXACT_SHARE
    parity.assert_layout(found[1], features)


@each_case
def test_traces_as_one_graph(case):
    torch._dynamo.reset()
    inputs = case.inputs(case.shapes[0])
    expected = results(case, inputs)
    compiled = torch.compile(case.call, fullgraph=True, backend="aot_eager")
    found = results(replace(case, call=compiled), inputs)
    if "resized" in case.name:  # the compiler takes torch's resize apart, which moves roundings
        assert all(share_of_tolerance(*pair) <= 1 for pair in zip(found, expected, strict=True))
    else:
        assert all(map(torch.equal, found, expected))


def test_exports():
    class Pool(torch.nn.Module):
        def forward(self, features, attentions):
            return wk.bilinear_attention_pool(features, attentions, backend="triton")

    inputs = tuple(values((2, rows, 4, 4), seed=rows).to(GPU) for rows in (6, 3))
    program = torch.export.export(Pool(), inputs)
    assert torch.equal(program.module()(*inputs), Pool()(*inputs))


def test_autocast_does_not_lower_the_precision():
    case = TRITON_CASES[0]
    inputs = case.inputs(case.shapes[0])
    with torch.autocast(GPU, torch.bfloat16):
        found = results(case, inputs)
    assert all(map(torch.equal, found, results(case, inputs)))


def test_the_same_bits_every_time():
    features, attentions = (values((2, rows, 5, 7), seed=rows).to(GPU) for rows in (70, 17))
    for reduce in ("mean", "max"):
        first, second = (outcomes_of(features, attentions, reduce=reduce) for _ in range(2))
        assert all(map(torch.equal, first, second))


def test_no_kernel_uses_atomics(root):
    for path in (root / "wsdan_kernels" / "_triton").glob("*.py"):
        assert "tl.atomic" not in path.read_text(encoding="utf-8")


def test_float32_products_follow_torchs_switch(monkeypatch):
    monkeypatch.setattr(_launch, "INTERPRETED", False)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        assert _launch.dot_precision(torch.float32) == "tf32x3"
        torch.set_float32_matmul_precision("high")
        assert _launch.dot_precision(torch.float32) == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)
    assert _launch.dot_precision(torch.bfloat16) == "ieee"
    assert _launch.dot_precision(torch.float16, torch.float32) == "tf32"
