"""The C++ operators: odd shapes, layouts, special values, threads, forks, levels, sanitizers."""

import multiprocessing
import os
from pathlib import Path

import parity
import pytest
import torch
import view_parity
from native import (
    INF,
    MEAN,
    MKL,
    NAN,
    each_dtype,
    each_layout,
    each_strides,
    large,
    native,
    run_python,
)
from parity import DTYPES, NATIVE, STRIDES, arranged, threads, values
from torch._subclasses import FakeTensorMode
from torch.utils.data import DataLoader, Dataset

import wsdan_kernels as wk
from wsdan_kernels.testing import TOLERANCES, relative_error

each_case = pytest.mark.parametrize("case", NATIVE, ids=str)


@pytest.mark.parametrize("reduce", ["mean", "sum", "max"])
@each_strides
@each_dtype
def test_pool_equals_the_reference(dtype, strides, reduce):
    """B, M, C, h and w at 0, 1, primes, and about the widths of vectors and blocks."""
    for i, shape in enumerate(
        [
            (0, 3, 5, 4, 4),
            (1, 1, 1, 1, 1),
            (2, 1, 7, 1, 1),
            (3, 5, 1, 3, 2),
            (2, 7, 31, 1, 17),
            (1, 3, 97, 13, 1),
            (2, 33, 65, 5, 7),
            (1, 17, 129, 16, 16),
            (1, 2, 3, 67, 61),
        ]
    ):
        for signed in (False, True):
            share = parity.check_pool(
                shape,
                dtype,
                strides=strides,
                upstream_strides=STRIDES[i % len(STRIDES)],
                signed=signed,
                poison=None,
                seed=i,
                reduce=reduce,
                normalize=("all", "part", "none")[i % 3],
                scale=100.0 if i % 2 else 1.0,
            )
            assert share <= 1, shape


@each_dtype
def test_a_norm_over_one_value_leaves_no_gradient(dtype):
    features, attentions = (values((3, 1, 4, 5), dtype, seed).abs() + 0.5 for seed in (0, 1))
    leaves = [tensor.requires_grad_() for tensor in (features, attentions)]
    pooled = wk.bilinear_attention_pool(*leaves, scale=100.0, backend="cpu")
    assert torch.allclose(pooled, torch.full_like(pooled, 100.0))
    for grad in torch.autograd.grad(pooled.sum(), leaves):
        assert float(grad.abs().max()) <= 100 * TOLERANCES[dtype]


@pytest.mark.parametrize("poison", [NAN, INF, -INF])
@pytest.mark.parametrize("reduce", ["mean", "max"])
@pytest.mark.parametrize("normalize", ["all", "part", "none"])
@pytest.mark.parametrize("strides", ["contiguous", "channels_last"])
def test_pool_of_nan_and_infinity(normalize, reduce, poison, strides):
    for seed in range(3):
        share = parity.check_pool(
            (2, 5, 37, 4, 9),
            torch.float32,
            strides=strides,
            upstream_strides="contiguous",
            signed=True,
            poison=poison,
            seed=seed,
            reduce=reduce,
            normalize=normalize,
        )
        assert share <= 1


def pool_max(features, attentions, backend):
    options = ("max", False, "none", 1, 0.0, 1.0, backend)
    return torch.ops.wsdan.bilinear_attention_pool(features, attentions, *options)


@each_layout
@each_dtype
def test_a_tie_goes_to_the_lowest_position(dtype, layout):
    """Few distinct values, so that the maximum is reached many times."""
    generator = torch.Generator().manual_seed(0)
    features, attentions = (
        torch.randint(-2, 3, (2, size, 5, 61), generator=generator).to(dtype) for size in (37, 9)
    )
    pooled, index = pool_max(features.contiguous(memory_format=layout), attentions, "cpu")[1:]
    products = attentions.flatten(2)[:, :, None].double() * features.flatten(2)[:, None].double()
    lowest = (products == products.amax(3, keepdim=True)).int().argmax(3)
    assert torch.equal(pooled.double(), products.amax(3))
    assert torch.equal(index.long(), lowest)


@pytest.mark.parametrize(
    ("size", "dtype"),
    [((16, 16), torch.uint8), ((257, 1), torch.int16), ((128, 256), torch.int16),
     ((1, 32769), torch.int32)],
)  # fmt: skip
def test_the_index_is_as_wide_as_the_positions_need(size, dtype):
    features = torch.full((1, 2, *size), -1.0)
    features[0, 0, -1, -1] = 1
    features = features.requires_grad_()
    pooled, _, index = pool_max(features, torch.ones(1, 1, *size), "cpu")
    assert index.dtype == dtype
    assert index.long().flatten().tolist() == [size[0] * size[1] - 1, 0]
    (grad,) = torch.autograd.grad(pooled.sum(), features)
    assert grad[0, 0, -1, -1] == 1 and grad[0, 1, 0, 0] == 1 and float(grad.sum()) == 2


@each_case
@each_strides
@each_dtype
def test_layouts_and_the_fake_kernel(dtype, strides, case):
    """Results lie in memory as the fake kernel says: a compiler believes it."""
    shape = {3: (3, 7, 8), 4: (2, 4, 5, 6), 5: (2, 5, 4, 9, 7)}[len(case.shapes[0])]
    made = {name: value.detach() for name, value in case.inputs(shape, dtype).items()}
    inputs = {name: arranged(value, strides) for name, value in made.items()}
    found = native(case, inputs, upstream_strides=strides)
    for value in found:
        if value.dim() == 4 and strides == "channels_last":
            maps = case.op == "bilinear_attention_pool" and value is found[-1]
            assert value.is_contiguous() == maps
        else:
            assert value.is_contiguous() or case.op == "update_centers_"  # it gives its argument
    if "labels" in inputs:  # their range is checked, and a fake tensor has none
        return
    with FakeTensorMode() as mode:
        fakes = {name: mode.from_tensor(value) for name, value in inputs.items()}
        outputs = case.run(fakes, "cpu")
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    for fake, value in zip(outputs, found, strict=False):
        assert (fake.shape, fake.stride(), fake.dtype) == (value.shape, value.stride(), value.dtype)


@pytest.mark.parametrize("size", [(513, 513), (1, 513), (513, 2), (127, 251)])
@each_layout
def test_large_and_narrow_images(size, layout):
    view_parity.check_images("cpu", size, layout)


@pytest.mark.parametrize("channels", [1, 3, 4])
@each_layout
@pytest.mark.parametrize("dtype", [*DTYPES, torch.uint8], ids=str)
def test_images_of_every_dtype(dtype, layout, channels):
    view_parity.check_rows("cpu", dtype, layout, channels)


def test_boxes_out_of_the_image_reversed_and_beyond_32_bits():
    view_parity.check_odd_boxes("cpu")


@pytest.mark.parametrize("rule", ["paper", "guyuc"])
@each_layout
@each_dtype
def test_unusable_maps_leave_the_image_bit_for_bit(dtype, layout, rule):
    view_parity.check_unusable_maps("cpu", dtype, layout, rule)


@pytest.mark.parametrize("duplicates", ["accumulate", "mean"])
@pytest.mark.parametrize("kind", [torch.int64, torch.int32])
def test_labels_with_duplicates(kind, duplicates):
    centers, features = values((3, 1030)), values((9, 1030), seed=1)
    labels = torch.tensor([2, 0, 2, 2, 0, 2, 2, 0, 2], dtype=kind)
    before = centers.clone()
    wk.update_centers_(centers, features, labels, duplicates=duplicates, backend="cpu")
    unit = torch.nn.functional.normalize(before, dim=1)
    for label in range(3):
        mine = labels == label
        step = 0.05 * (features[mine] - unit[label]).sum(0)
        step = step / max(int(mine.sum()), 1) if duplicates == "mean" else step
        assert relative_error(centers[label], before[label] + step) <= TOLERANCES[torch.float32]
    assert torch.equal(centers[1], before[1])


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
@each_case
def test_threads_change_no_bit(case, batch):
    for strides in ("contiguous", "channels_last"):
        inputs = large(case, batch, strides)
        with threads(1):
            expected = native(case, inputs, upstream_strides=strides)
        for count in (2, 4):
            with threads(count):
                found = native(case, inputs, upstream_strides=strides)
            assert all(map(torch.equal, found, expected)), count


class NativeItems(Dataset):
    """What the C++ operator of each case gives for one set of inputs, then pooling by MKL."""

    works = (*((case, None) for case in NATIVE), *((MEAN, shape) for shape in MKL.values()))

    def __len__(self):
        return len(self.works)

    def __getitem__(self, i):
        case, shape = self.works[i]
        return native(case, large(case, 3, shape=shape))


def all_items():
    items = NativeItems()
    return [items[i] for i in range(len(items))]


def test_data_loader_workers_after_fork():
    with threads(2):
        expected = all_items()  # starts the parent's threads
        loader = DataLoader(
            NativeItems(),
            batch_size=None,
            num_workers=2,
            multiprocessing_context="fork",
            timeout=120,
        )
        for found, truth in zip(loader, expected, strict=True):
            assert all(map(torch.equal, found, truth))


def _send_items(pipe):
    torch.set_num_threads(1)  # as a DataLoader's worker does
    pipe.send([[value.numpy() for value in item] for item in all_items()])


def test_a_forked_process():
    with threads(2):
        expected = all_items()
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send_items, args=(sender,), daemon=True)
    child.start()
    try:
        assert receiver.poll(120), "the child does not answer"
        for found, truth in zip(receiver.recv(), expected, strict=True):
            assert all(map(torch.equal, map(torch.from_numpy, found), truth))
        child.join(30)
        assert child.exitcode == 0
    finally:
        child.kill()


@pytest.mark.slow
def test_the_lowest_level_of_instructions():
    assert torch.ops.wsdan_native.cpu_level() in ("baseline", "avx2", "avx512")
    code = """
import sys, fuzz, torch
assert torch.ops.wsdan_native.cpu_level() == "baseline"
sys.exit(fuzz.main(["--cases", "100"]))
"""
    result = run_python("-c", code, WSDAN_CPU_LEVEL="baseline", OMP_NUM_THREADS="1")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
def test_an_unknown_level_is_the_reason_given():
    code = "import wsdan_kernels; print(wsdan_kernels.available()['cpu'])"
    result = run_python("-c", code, WSDAN_CPU_LEVEL="sse9")
    assert "does not load" in result.stdout and result.returncode == 0, result.stderr
    assert "WSDAN_CPU_LEVEL must be baseline, avx2 or avx512" in result.stdout
    assert result.stdout.strip().endswith("but is sse9")


SANITIZED = os.environ.get("WSDAN_SANITIZED")
FINDINGS = {
    "heap-buffer-overflow": """
out = torch.empty(1, dtype=torch.int32)
torch.ops.wsdan_native.attention_boxes(
    torch.ones(1, 4, 4), torch.ones(1, 500), 8, 8, 0.1, "paper", True, out)
""",
    "signed integer overflow": """
out = torch.empty(1, 1, 4, 4)
torch.ops.wsdan_native.crop_resize_backward(
    torch.ones(1, 1, 4, 4), torch.zeros(1, 4, dtype=torch.int32), 2**62, 2**62, True, out)
""",
}


@pytest.mark.skipif(not SANITIZED, reason="for `make sanitize`, which names its folder")
@pytest.mark.parametrize("finding", list(FINDINGS))
def test_the_sanitized_library_runs_and_a_finding_ends_it(finding):
    assert Path(wk.__file__).is_relative_to(Path(SANITIZED).resolve())
    code = "import torch, wsdan_kernels as wk\nassert wk.available()['cpu'] is None\n{}"
    assert run_python("-c", code.format("")).returncode == 0
    result = run_python("-c", code.format(FINDINGS[finding] + "\nprint('survived')"))
    assert result.returncode != 0 and "survived" not in result.stdout
    assert finding in result.stderr
