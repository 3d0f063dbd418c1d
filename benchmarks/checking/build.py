"""Compiles both libraries into this checkout: python -m benchmarks.checking.build.

By setup.py's own commands, without pip, whose isolated builds need a network, and without the
project's metadata, which a setuptools before 77 refuses.
"""

import sys

from checking.jobs import ROOT
from setuptools.dist import Distribution

sys.path.insert(0, str(ROOT))
import setup

PACKAGE = "wsdan_kernels"


def distribution() -> Distribution:
    return Distribution({"name": "wsdan", "packages": [PACKAGE], **setup.native_build()})


def main() -> int:
    command = distribution().get_command_obj("build_ext")
    command.inplace = True
    command.ensure_finalized()
    command.run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
