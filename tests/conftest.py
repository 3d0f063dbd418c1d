"""Shared by the tests: where things are, and Triton's interpreter where there is no GPU."""

import importlib.util
import sys
from pathlib import Path

import interpreter
import pytest
from paths import ROOT

sys.path.append(str(ROOT))  # for cuda_build; last, so that wsdan_kernels is the installed one

if interpreter.interpreting() and importlib.util.find_spec("triton") is not None:
    interpreter.round_as_the_gpu()
    interpreter.remember_what_repeats()


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT
