"""What the tests of the C++ operators share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from parity import DTYPES, NATIVE, STRIDES, arranged, outcomes
from paths import SUPPORT

import wsdan_kernels as wk
from wsdan_kernels.testing import OpCase

MEAN = next(case for case in NATIVE if case.name == "bilinear_attention_pool[mean]")
NAN, INF = float("nan"), float("inf")
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_layout = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
each_strides = pytest.mark.parametrize("strides", STRIDES)
# Shapes that MKL takes forward and backward where it is (csrc/cpu/pooling/pool_mkl.h): (M,C,h,w).
MKL = {"contiguous": (8, 160, 29, 31), "channels_last": (40, 70, 21, 19)}
# Large enough to be split between threads (csrc/cpu/parallel.h), less the batch.
LARGE = {
    "bilinear_attention_pool": (7, 130, 11, 9),
    "sample_attention": (97, 33, 35),
    "attention_boxes": (14, 9, 150, 171),
    "crop_resize": (150, 171),
    "attention_swap": (150, 171),
    "attention_drop": (14, 9, 150, 171),
    "attention_crop_drop": (14, 9, 150, 171),
    "center_loss": (3, 30_000),
    "update_centers_": (3, 30_000),
}


def native(case: OpCase, inputs, seed=0, **options):
    """Outputs and gradients of the C++ operator."""
    return outcomes(case.run, inputs, case.differentiable, "cpu", seed, **options)


def large(case: OpCase, batch: int, strides="contiguous", shape=None):
    inputs = case.inputs((batch, *(shape or LARGE[case.op])))
    return {name: arranged(value.detach(), strides) for name, value in inputs.items()}


def run_python(*arguments, folder=SUPPORT, **environment):
    """Runs in tests/support with the wsdan_kernels in use here, installed or not."""
    paths = [str(Path(wk.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
