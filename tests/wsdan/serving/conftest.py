"""A classifier to serve; without the extra `serve` there is nothing to test but its message."""

import importlib.util

import pytest

NEEDED = ("fastapi", "uvicorn", "python_multipart", "httpx")
if any(importlib.util.find_spec(name) is None for name in NEEDED):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A checkpoint."""
    from served import checkpoint

    return checkpoint(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def classifier(trained):
    from wsdan.inference.classifier import Classifier

    return Classifier(trained, device="cpu")


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """A classifier without attention."""
    from served import checkpoint

    from wsdan.inference.classifier import Classifier

    return Classifier(checkpoint(tmp_path_factory.mktemp("plain"), method="baseline"), device="cpu")
