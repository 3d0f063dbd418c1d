"""Which files are images: those that Pillow decodes, by suffix, and by content without one.

PIL is imported by the functions: the names of readers are known without it.
"""

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from wsdan.validation import file_fault

# Pillow identifies these and decodes them not at all, or by another program, or on Windows only.
UNREADABLE = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF", "EPS", "PDF"}
HEIF = (".heic", ".heif", ".hif")
MOST_NAMED = 5  # suffixes that a warning lists


@cache
def formats() -> tuple[str, ...]:
    """The formats that are decoded, as PIL.Image.open takes them; HEIF if pillow-heif is there."""
    from PIL import Image

    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(sorted(Image.OPEN.keys() - UNREADABLE))


@cache
def suffixes() -> frozenset[str]:
    """The suffixes of these formats, in lower case, with the dot."""
    from PIL import Image

    known = formats()
    return frozenset(
        suffix
        for suffix, kind in Image.registered_extensions().items()
        if kind in known or kind == "MPO"  # which the reader of JPEG opens
    )


def is_image_name(name: str) -> bool:
    """Whether the suffix of a name is that of an image."""
    return os.path.splitext(name)[1].lower() in suffixes()


def is_image(path: Path) -> bool:
    """Whether the file is an image: by its suffix, or without one by its first bytes."""
    return is_image_name(path.name) if path.suffix else _holds_image(path)


def _holds_image(path: Path) -> bool:
    """Whether a format recognises the content; formats without a signature are not asked."""
    from PIL import Image

    signed = [name for name in formats() if Image.OPEN[name][1] is not None]
    if file_fault(path) is not None:
        return False
    try:
        with Image.open(path, formats=signed):
            return True
    except Exception:  # decoders raise errors of any kind on what is no image
        return False


def left_out_text(left_out: Mapping[str, int]) -> str:
    """`files left out ...: 12, of which .txt 8, ...`: the most frequent suffixes."""
    counts = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    named = [f"{suffix or 'no suffix'} {count}" for suffix, count in counts[:MOST_NAMED]]
    text = f"files left out, which are no images for Pillow: {sum(left_out.values())}, of which "
    text += ", ".join(named) + (", ..." if len(counts) > MOST_NAMED else "")
    return text + next(filter(None, map(heif_hint, left_out)), "")


def heif_hint(name: str) -> str:
    """What is needed for a file of HEIF that could not be read; "" for other suffixes."""
    return "; HEIC needs pip install pillow-heif" if name.lower().endswith(HEIF) else ""
