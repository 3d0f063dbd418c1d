"""`wsdan serve` in a process of its own."""

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

from runs import Script, start


@contextlib.contextmanager
def server(checkpoint: Path, *options: object) -> Iterator[tuple[Script, str]]:
    """The process, and its address with a slash at the end; it is ended after the block."""
    arguments = ["serve", "--checkpoint", checkpoint, "--port", 0, "--device", "cpu", *options]
    process = start(*map(str, arguments), script="serve.py")
    try:
        yield process, _address(process)
    finally:
        if process.process.exitcode is None:
            process.process.terminate()
        process.finish(timeout=10)


def _address(process: Script) -> str:
    output = Path(process._outputs.name, "stdout")
    for _ in range(3000):
        found = re.search(r"serving on (\S+)", output.read_text() if output.exists() else "")
        if found:
            return found[1]
        assert process.process.exitcode is None, process.finish().stderr
        time.sleep(0.02)
    raise AssertionError("the server did not start within a minute")
