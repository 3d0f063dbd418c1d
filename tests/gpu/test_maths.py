"""What of csrc/common a GPU computes by other instructions than the CPU's operators and tests."""

import subprocess

import pytest
from emulator import build


@pytest.mark.skipif(build.missing() is not None, reason=str(build.missing()))
def test_a_gpus_quotient_is_rounded_as_a_division(root, tmp_path):
    program = tmp_path / "quotients"
    flags = ["-std=c++20", "-O2", "-ffp-contract=off"]
    source = root / "tests" / "gpu" / "quotients.cpp"
    subprocess.run([build.COMPILER, *flags, str(source), "-o", str(program)], check=True)
    result = subprocess.run([str(program)], check=True, capture_output=True, text=True)
    assert result.stdout == "0 of 16055500\n"
