"""Tensors of another GPU than the current one: the kernels run there, and the current one stays."""

import parity
import pytest
import torch

from wsdan_kernels import backends
from wsdan_kernels.ops import KERNELS
from wsdan_kernels.testing import CASES

needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs")
KERNELS_OF = [
    (case, backend)
    for case in CASES
    for backend in ("triton", "cuda")
    if backend in KERNELS[case.op] and "resized" not in case.name  # torch's resize has atomics
]


def outcomes(case, backend, device):
    inputs = {
        name: value.detach().to(device) for name, value in case.inputs(case.shapes[0]).items()
    }
    return parity.outcomes(case.run, inputs, case.differentiable, backend)


@needs_two
@pytest.mark.parametrize(("case", "backend"), KERNELS_OF, ids=str)
def test_kernels_run_on_the_tensors_gpu(case, backend):
    assert backends.available()[backend] is None
    expected = outcomes(case, backend, "cuda:0")
    found = outcomes(case, backend, "cuda:1")
    assert torch.cuda.current_device() == 0
    assert {value.device for value in found} == {torch.device("cuda:1")}
    assert all(
        torch.equal(one.cpu(), other.cpu()) for one, other in zip(found, expected, strict=True)
    )
