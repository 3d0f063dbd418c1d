"""Pooling on the CPU by MKL's products: equal to the reference, and the same bits every time."""

import threading

import parity
import pytest
import torch
from native import MEAN, MKL, large, native, run_python
from parity import NATIVE, STRIDES, threads

import wsdan_kernels as wk
from wsdan_kernels import _native

needs_mkl = pytest.mark.skipif(
    wk.available()["cpu"] is not None or not _native.mkl_here(),
    reason="takes an Intel CPU with AVX-512, and MKL in torch",
)
RESIZED = next(case for case in NATIVE if case.name == "bilinear_attention_pool[resized]")
each_shape = pytest.mark.parametrize("layout", list(MKL))


@pytest.fixture
def own_products():
    before = torch.ops.wsdan_native.allow_mkl(False)
    yield
    torch.ops.wsdan_native.allow_mkl(before)


@each_shape
@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_equals_the_reference(reduce, strides, layout):
    for i, normalize in enumerate(("all", "part", "none")):
        share = parity.check_pool(
            (2, *MKL[layout]),
            torch.float32,
            strides=strides,
            upstream_strides=STRIDES[i],
            signed=i == 1,
            poison=None,
            seed=i,
            reduce=reduce,
            normalize=normalize,
        )
        assert share <= 1, normalize


@each_shape
@pytest.mark.parametrize("strides", STRIDES)
def test_maps_of_another_size(strides, layout):
    for map_size in ((7, 11), (40, 33)):
        share = parity.check_pool(
            (3, *MKL[layout]),
            torch.float32,
            strides=strides,
            upstream_strides=strides,
            signed=False,
            poison=None,
            seed=0,
            map_size=map_size,
        )
        assert share <= 1, map_size


@each_shape
def test_equals_the_reference_by_our_own_products(layout, own_products):
    assert not _native.mkl_here()
    test_equals_the_reference("mean", layout, layout)


@needs_mkl
@each_shape
def test_the_rule_takes_it(layout):
    """Forward and backward both round otherwise than our own products."""
    inputs = large(MEAN, 2, layout, MKL[layout])
    found = native(MEAN, inputs)
    before = torch.ops.wsdan_native.allow_mkl(False)
    own = native(MEAN, inputs)
    assert torch.ops.wsdan_native.allow_mkl(before) is False
    assert not any(map(torch.equal, found, own))


@needs_mkl
@each_shape
@pytest.mark.parametrize("batch", [1, 2, 3, 5])
@pytest.mark.parametrize("case", [MEAN, RESIZED], ids=str)
def test_neither_threads_nor_batch_change_a_bit(case, batch, layout):
    inputs = large(case, batch, layout, MKL[layout])
    with threads(1):
        expected = native(case, inputs)
    for count in (2, 4):
        with threads(count):
            assert all(map(torch.equal, native(case, inputs), expected)), count
    alone = {name: value[-1:].clone() for name, value in inputs.items()}
    pooled = native(case, alone)[0]
    assert torch.equal(pooled, expected[0][-1:])


@needs_mkl
def test_maps_in_channels_last_beside_contiguous_features():
    """They are turned first: MKL would take several times as long."""
    inputs = large(MEAN, 2, "contiguous", MKL["contiguous"])
    expected = native(MEAN, inputs)
    attentions = inputs["attentions"].to(memory_format=torch.channels_last)
    found = native(MEAN, {**inputs, "attentions": attentions})
    assert all(map(torch.equal, found, expected))


@needs_mkl
@each_shape
def test_a_thread_with_another_number_of_threads(layout):
    """One that began when torch had one thread: MKL itself would take the four of later."""
    inputs = large(MEAN, 3, layout, MKL[layout])
    found, began, go_on = [], threading.Event(), threading.Event()

    def work():
        torch.set_num_threads(1)
        found.append(native(MEAN, inputs))
        began.set()
        go_on.wait(60)
        found.append(native(MEAN, inputs))

    with threads(4):
        thread = threading.Thread(target=work)
        thread.start()
        assert began.wait(60)
        torch.set_num_threads(4)
        go_on.set()
        thread.join(60)
    assert len(found) == 2 and all(map(torch.equal, *found))


@needs_mkl
def test_torchs_own_products_keep_their_threads():
    """The limit is lifted after each product."""
    count = torch.get_num_threads()
    native(MEAN, large(MEAN, 2, "contiguous", MKL["contiguous"]))
    lines = torch.__config__.parallel_info().splitlines()
    assert f"mkl_get_max_threads() : {count}" in [line.strip() for line in lines]


@pytest.mark.slow
def test_a_lower_level_of_instructions_does_without():
    code = """
import wsdan_kernels as wk
from wsdan_kernels import _native
assert wk.available()["cpu"] is None and not _native.mkl_here()
assert "MKL" not in wk.explain()
"""
    result = run_python("-c", code, WSDAN_CPU_LEVEL="baseline")
    assert result.returncode == 0, result.stderr


@needs_mkl
def test_explain_names_it():
    assert "avx512 instructions; MKL's products in pooling where they win" in wk.explain()
