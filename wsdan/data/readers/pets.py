"""Oxford-IIIT Pet: breeds of cats and dogs, annotations/trainval.txt and test.txt, images/.

Of its boxes, annotations/xmls/, only heads are known, and of some images: they are not read.
"""

from pathlib import Path

from wsdan.data.readers._layout import (
    containing_folder,
    read_key_values,
    require_images,
    require_path,
)
from wsdan.data.samples import ImageRecord, Listing
from wsdan.errors import UserError

LAYOUT = "annotations/trainval.txt (or oxford-iiit-pet/annotations/)"
FOLDER = "oxford-iiit-pet"  # as torchvision names it
SOURCE = "see https://www.robots.ox.ac.uk/~vgg/data/pets/ for images.tar.gz and annotations.tar.gz"


def recognises(root: Path) -> bool:
    """Whether the folder, or oxford-iiit-pet in it, holds the lists of this dataset."""
    return (_folder(root) / "annotations" / "trainval.txt").is_file()


def _folder(root: Path) -> Path:
    inside = containing_folder(root, FOLDER) / FOLDER
    return inside if inside.is_dir() else root


def read(root: Path, split: str) -> Listing:
    """The images of one split; root holds images/ and annotations/, or oxford-iiit-pet.

    A class is named as its images are, less their number; classes are in the published order.
    """
    folder = _folder(root)
    path = folder / "annotations" / ("trainval.txt" if split == "train" else "test.txt")
    for needed in (path, folder / "images"):
        require_path(needed, "pets", SOURCE)
    records, numbers = [], {}
    for name, values in read_key_values(path, "pets").items():  # NAME CLASS SPECIES BREED
        breed = name.rpartition("_")[0]
        try:
            numbers[breed] = int(values.split()[0])
        except ValueError:
            raise UserError(
                f"--data pets: {path}: expected `name class ...`; got {name!r} {values!r}"
            ) from None
        records.append(ImageRecord(folder / "images" / f"{name}.jpg", breed))
    require_images(records, "pets", path)
    return Listing(f"--data pets: {path}", sorted(numbers, key=numbers.__getitem__), records)
