"""The build backend of pyproject.toml: setuptools', with the torch that is installed already.

Compiling needs torch's headers and libraries to link with, of any version from 2.11 on. An isolated
build would unpack a torch of its own for them, 5 GB; it does so only where the environment that it
installs into has none.
"""

import os

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403 - the other hooks

from native_build.objects import OLDEST_TORCH, installed_torch


def get_requires_for_build_wheel(config_settings=None) -> list[str]:
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_torch()]


def get_requires_for_build_editable(config_settings=None) -> list[str]:
    return [*build_meta.get_requires_for_build_editable(config_settings), *_torch()]


def _torch() -> list[str]:
    if os.environ.get("WSDAN_NATIVE", "1") == "0" or installed_torch() is not None:
        return []
    return [f"torch>={OLDEST_TORCH}"]
