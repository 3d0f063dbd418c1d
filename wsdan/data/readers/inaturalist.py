"""iNaturalist: 2021 by its folders as torchvision names them, 2017 to 2019 by their annotations.

The training images of 2021 are 2.7 million: they are listed, neither opened nor looked for, and
their paths are text. torchvision's class lists them in no order, and has no splits before 2021.
"""

import json
import os
from pathlib import Path

from wsdan.data.formats import is_image_name
from wsdan.data.readers._layout import require_images, require_path
from wsdan.data.samples import ImageRecord, Listing
from wsdan.errors import UserError

LAYOUT = "2021_train/ (or 2021_train_mini/), or train2017.json, train2018.json, train2019.json"
TRAIN = ("2021_train", "2021_train_mini")
VAL = "2021_valid"
YEARS = (2019, 2018, 2017)
SOURCE = "see https://github.com/visipedia/inat_comp"


def recognises(root: Path) -> bool:
    """Whether the folder holds the images of 2021, or the annotations of an earlier year."""
    return any((root / name).is_dir() for name in TRAIN) or _year(root) is not None


def _year(root: Path) -> int | None:
    return next((year for year in YEARS if (root / f"train{year}.json").is_file()), None)


def read(root: Path, split: str) -> Listing:
    """The images of one split.

    2021: a class is a folder NUMBER_KINGDOM_..._GENUS_SPECIES; the archives' own names train/ and
    val/ are --data folder. 2017 to 2019: classes are the categories of the annotations, by number;
    images lie where the annotations say, or in a folder of the year, as torchvision moves them.
    """
    year = _year(root)
    full = next((name for name in TRAIN if (root / name).is_dir()), TRAIN[0])
    if year is not None and not (root / full).is_dir():
        return _read_annotations(root, year, split)
    folder = root / (full if split == "train" else VAL)
    return _read_folders(require_path(folder, "inaturalist", SOURCE))


def _read_folders(folder: Path) -> Listing:
    with os.scandir(folder) as entries:
        names = (entry.name for entry in entries if entry.is_dir())
        classes = sorted(name for name in names if not name.startswith("."))
    records = []
    for name in classes:
        inside = f"{folder}/{name}/"
        files = sorted(file for file in os.listdir(inside) if not file.startswith("."))
        records += [ImageRecord(inside + file, name) for file in files if is_image_name(file)]
    return Listing(f"--data inaturalist: {folder}", classes, records)


def _read_annotations(root: Path, year: int, split: str) -> Listing:
    path = require_path(root / f"{split}{year}.json", "inaturalist", SOURCE)
    try:
        content = json.loads(path.read_bytes())
        names = {item["id"]: str(item["name"]) for item in content["categories"]}
        labels = {item["image_id"]: item["category_id"] for item in content["annotations"]}
        files = [(item["file_name"], names[labels[item["id"]]]) for item in content["images"]]
    except (ValueError, TypeError) as error:  # ValueError: no JSON, or no text
        raise UserError(f"--data inaturalist: cannot read {path}: {error}") from None
    except KeyError as error:
        raise UserError(f"--data inaturalist: {path} has no {error}") from None
    records = [ImageRecord(_located(root, year, name), label) for name, label in files]
    require_images(records, "inaturalist", path)
    classes = [names[number] for number in sorted(names)]
    return Listing(f"--data inaturalist: {path}", classes, records)


def _located(root: Path, year: int, name: str) -> str:
    """The path of the image `train_val2018/Aves/2761/NAME.jpg`, there or in 2018/Aves/2761/."""
    first, _, rest = name.partition("/")
    return f"{root}/{year}/{rest}" if (root / str(year)).is_dir() else f"{root}/{first}/{rest}"
