"""FGVC-Aircraft: variants of aircraft, splits trainval and test, read with torchvision.

The banner with the photographer's name at the bottom is not cropped, as in WS-DAN.PyTorch.
"""

from pathlib import Path

from wsdan.data.readers._layout import (
    containing_folder,
    read_key_values,
    require_images,
    require_path,
)
from wsdan.data.samples import Box, ImageRecord, Listing
from wsdan.errors import UserError

LAYOUT = "fgvc-aircraft-2013b/data/variants.txt"
FOLDER = "fgvc-aircraft-2013b"
SOURCE = f"it is part of {FOLDER}.tar.gz, see https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/"


def recognises(root: Path) -> bool:
    """Whether the folder is, or contains, fgvc-aircraft-2013b."""
    return (containing_folder(root, FOLDER) / FOLDER / "data" / "variants.txt").is_file()


def read(root: Path, split: str) -> Listing:
    """The images of one split; root is fgvc-aircraft-2013b or the folder that holds it.

    Boxes are read from images_box.txt if it exists.
    """
    from torchvision.datasets import FGVCAircraft

    root = containing_folder(root, FOLDER)
    data, part = root / FOLDER / "data", "trainval" if split == "train" else "test"
    variants = data / f"images_variant_{part}.txt"
    for path in (data / "variants.txt", variants, data / "images"):
        require_path(path, "aircraft", SOURCE)
    try:
        dataset = FGVCAircraft(root, part, "variant", loader=Path)  # items are (path, label)
    except KeyError as error:
        raise UserError(
            f"--data aircraft: {variants}: class {error} is not in variants.txt"
        ) from None
    except ValueError:
        raise UserError(f"--data aircraft: {variants}: expected lines `number variant`") from None
    boxes = data / "images_box.txt"
    box_table = read_key_values(boxes, "aircraft") if boxes.exists() else {}
    records = []
    for path, label in (dataset[index] for index in range(len(dataset))):
        box = _box(box_table[path.stem], boxes) if path.stem in box_table else None
        records.append(ImageRecord(path, dataset.classes[label], box))
    require_images(records, "aircraft", variants)
    return Listing(f"--data aircraft: {variants}", dataset.classes, records)


def _box(text: str, path: Path) -> Box:
    """Parse `xmin ymin xmax ymax`, which is 1-based and inclusive."""
    try:
        x1, y1, x2, y2 = map(float, text.split())
    except ValueError:
        raise UserError(
            f"--data aircraft: {path}: expected xmin ymin xmax ymax; got {text!r}"
        ) from None
    return x1 - 1, y1 - 1, x2, y2
