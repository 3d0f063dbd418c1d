"""What the reports on compiled kernels found, kept in build/ by a hash of what it follows from."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]


def kept(folder: str, parts: tuple, find: Callable[[], dict | list]) -> dict | list:
    """What find() gave for equal parts before, else what it gives now, as JSON has it.

    folder: of build/. parts: all that the result follows from, as repr() tells it apart.
    """
    name = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
    path = ROOT / "build" / folder / f"{name}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        own = path.with_suffix(f".{os.getpid()}")  # other processes may do the same
        own.write_text(json.dumps(find()), encoding="utf-8")
        own.replace(path)
    return json.loads(path.read_text(encoding="utf-8"))
