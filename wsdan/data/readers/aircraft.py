"""FGVC-Aircraft: variants of aircraft, trainval and test, as torchvision reads them.

The images keep the banner at their foot that names the photographer, as in WS-DAN.PyTorch.
"""

from pathlib import Path

from torchvision.datasets import FGVCAircraft

from wsdan.data.readers._layout import expect_file, expect_images, folder_around, read_table
from wsdan.data.samples import Box, Entry, Listing
from wsdan.errors import UserError

FOLDER = "fgvc-aircraft-2013b"
SOURCE = f"it is part of {FOLDER}.tar.gz, see https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/"


def read(root: Path, split: str) -> Listing:
    """The images of one split; root is fgvc-aircraft-2013b or the folder that holds it.

    Boxes come from images_box.txt where it is there.
    """
    root = folder_around(root, FOLDER)
    data, part = root / FOLDER / "data", "trainval" if split == "train" else "test"
    names = data / f"images_variant_{part}.txt"
    for path in (data / "variants.txt", names, data / "images"):
        expect_file(path, "aircraft", SOURCE)
    try:
        images = FGVCAircraft(root, part, "variant", loader=Path)  # items are (path, label)
    except KeyError as error:
        raise UserError(f"--data aircraft: {names}: class {error} is not in variants.txt") from None
    except ValueError:
        raise UserError(f"--data aircraft: {names}: expected lines `number variant`") from None
    boxes = data / "images_box.txt"
    box_table = read_table(boxes, "aircraft") if boxes.exists() else {}
    entries = []
    for path, label in (images[index] for index in range(len(images))):
        box = _box(box_table[path.stem], boxes) if path.stem in box_table else None
        entries.append(Entry(path, images.classes[label], box))
    expect_images(entries, "aircraft", names)
    return Listing(f"--data aircraft: {names}", images.classes, entries)


def _box(text: str, path: Path) -> Box:
    """`xmin ymin xmax ymax`, counted from 1 and inclusive, as x1, y1, x2, y2."""
    try:
        x1, y1, x2, y2 = map(float, text.split())
    except ValueError:
        raise UserError(
            f"--data aircraft: {path}: expected xmin ymin xmax ymax; got {text!r}"
        ) from None
    return x1 - 1, y1 - 1, x2, y2
