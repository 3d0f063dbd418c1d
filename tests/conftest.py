"""Shared by the tests: where things are, and Triton's interpreter where there is no GPU."""

import importlib.util
import os
import sys
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # processes share the cores: one thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import interpreter
import pytest
from paths import ROOT

sys.path.append(str(ROOT))  # for native_build; last, so that wsdan_kernels is the installed one

if interpreter.interpreting() and importlib.util.find_spec("triton") is not None:
    interpreter.round_as_the_gpu()
    interpreter.remember_what_repeats()


def pytest_xdist_make_scheduler(config, log):
    """With `pytest -n 2` a file's tests stay in one process, which shares what they set up."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT
