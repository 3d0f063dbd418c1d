"""Readers of dataset layouts, one module each: `--data NAME` is read by readers/NAME.py.

A module defines `read(root: Path, split: str) -> Listing`, where split is "train" or "val",
`recognises(root: Path) -> bool` and LAYOUT, which describes in words what `recognises` looks for. A
file in this folder is all that a new choice of --data needs; files whose name begins with _ are
helpers. The modules import torch, numpy and PIL inside their functions, so that `detect` is fast.
See docs/development/adding-a-dataset-layout.md.
"""

import importlib
import os
import pkgutil
from pathlib import Path

from wsdan.data.readers._mistakes import mend
from wsdan.data.readers._remote import detect_remote
from wsdan.errors import UserError
from wsdan.remote.addresses import is_remote, place


def names() -> list[str]:
    """The names of all layouts, sorted."""
    return sorted(item.name for item in pkgutil.iter_modules(__path__) if item.name[0] != "_")


def detect(root: str | Path) -> str:
    """The name of the layout of the folder `root`, as --data takes it.

    Only looks at names of files and at the header of train.csv. Imports neither torch nor PIL.

    Raises UserError, one line, if `root` is no folder, or of no layout (it says what was looked
    for), or of several.
    """
    if is_remote(root):
        return detect_remote(place(root), names())
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"--root: no such folder: {root}")
    try:
        os.listdir(root)
    except OSError as error:
        raise UserError(f"{root}: {error.strerror}") from None
    readers = {name: importlib.import_module(f"{__name__}.{name}") for name in names()}
    found = [name for name, reader in readers.items() if reader.recognises(root)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"{root} may be read as {' or '.join(found)}; say which with --data {found[0]}"
        )
    looked_for = "; ".join(f"{name}: {reader.LAYOUT}" for name, reader in readers.items())
    raise UserError(f"{root}: no dataset found. {mend(root)}Looked for {looked_for}")
