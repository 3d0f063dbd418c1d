"""Shared by the tests: where things are, and Triton's interpreter where there is no GPU."""

import importlib.util
from pathlib import Path

import interpreter
import pytest

ROOT = Path(__file__).parent.parent

if interpreter.interpreting() and importlib.util.find_spec("triton") is not None:
    interpreter.round_as_the_gpu()


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT
