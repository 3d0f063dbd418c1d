"""Oxford 102 Flower: imagelabels.mat, setid.mat and jpg/, with torchvision's names of the classes.

Training takes the published training and validation images, 2,040; validation the 6,149 of the
test. torchvision's class is not used: it wants the published files' checksums.
"""

from pathlib import Path

from wsdan.data.readers._layout import (
    containing_folder,
    read_mat_file,
    require_images,
    require_path,
)
from wsdan.data.samples import ImageRecord, Listing
from wsdan.errors import UserError

LAYOUT = "imagelabels.mat and setid.mat (or flowers-102/)"
FOLDER = "flowers-102"  # as torchvision names it
PARTS = {"train": ("trnid", "valid"), "val": ("tstid",)}
SOURCE = (
    "see https://www.robots.ox.ac.uk/~vgg/data/flowers/102/ for 102flowers.tgz, imagelabels.mat "
    "and setid.mat"
)


def recognises(root: Path) -> bool:
    """Whether the folder, or flowers-102 in it, holds the lists of this dataset."""
    return all((_folder(root) / name).is_file() for name in ("imagelabels.mat", "setid.mat"))


def _folder(root: Path) -> Path:
    inside = containing_folder(root, FOLDER) / FOLDER
    return inside if inside.is_dir() else root


def read(root: Path, split: str) -> Listing:
    """The images of one split; root holds jpg/ and the two lists, or flowers-102.

    Classes are those that have an image, by number.
    """
    import numpy as np
    from torchvision.datasets import Flowers102

    folder = _folder(root)
    for name in ("imagelabels.mat", "setid.mat", "jpg"):
        require_path(folder / name, "flowers", SOURCE)
    (labels,) = read_mat_file(folder / "imagelabels.mat", "flowers", ["labels"])
    parts = read_mat_file(folder / "setid.mat", "flowers", PARTS[split])
    labels, images = np.atleast_1d(labels), np.concatenate([np.atleast_1d(part) for part in parts])
    for what, values, most in (
        ("imagelabels.mat: label", labels, len(Flowers102.classes)),
        ("setid.mat: image", images, len(labels)),
    ):
        wrong = values[(values < 1) | (values > most)]
        if wrong.size:
            raise UserError(f"--data flowers: {folder}/{what} {wrong[0]} is not in 1..{most}")
    records = [
        ImageRecord(
            folder / "jpg" / f"image_{number:05d}.jpg", Flowers102.classes[labels[number - 1] - 1]
        )
        for number in images.tolist()
    ]
    require_images(records, "flowers", folder / "setid.mat")
    classes = [Flowers102.classes[label - 1] for label in sorted(set(labels.tolist()))]
    return Listing(f"--data flowers: {split} of {folder}", classes, records)
