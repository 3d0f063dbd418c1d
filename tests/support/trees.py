"""Small datasets for the tests, in the published layouts."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from wsdan.config import Config
from wsdan.data.images import load_image
from wsdan.data.splits import open_split
from wsdan.errors import UserError

COLOURS = {"blue": (30, 40, 200), "green": (40, 180, 60), "red": (200, 40, 30)}
BOX = (4.0, 6.0, 20.0, 16.0)  # x1, y1, x2, y2, half-open; of all objects with a box
INATURALIST = [
    f"{i:05}_Animalia_Chordata_Aves_Order_Family_Genus_{c}" for i, c in enumerate(COLOURS)
]
IMAGE_SIZE = (30, 24)  # width, height; except in `make_tree`


def make_tree(root: Path, per_class: int = 4, val: str = "val", size: int = 40) -> Path:
    """root/train and root/VAL with three classes of noisy coloured images."""
    generator = np.random.default_rng(0)
    for split in ("train", val):
        for name, colour in COLOURS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(per_class):
                noise = generator.integers(-25, 25, (size, size, 3))
                pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


def paint(path: Path, colour: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", IMAGE_SIZE, COLOURS[colour]).save(path)


def write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def make_cub(root: Path) -> Path:
    """CUB_200_2011 with images 1 to 6: odd ones for training, even ones for testing."""
    folder = root / "CUB_200_2011"
    colours = [name for name in COLOURS for _ in range(2)]
    names = [f"{i // 2 + 1:03}.{colour}/{i}.jpg" for i, colour in enumerate(colours)]
    for name, colour in zip(names, colours, strict=True):
        paint(folder / "images" / name, colour)
    write(folder / "images.txt", [f"{i} {name}" for i, name in enumerate(names, 1)])
    write(folder / "image_class_labels.txt", [f"{i} {(i + 1) // 2}" for i in range(1, 7)])
    write(folder / "train_test_split.txt", [f"{i} {i % 2}" for i in range(1, 7)])
    write(folder / "classes.txt", [f"{i} {i:03}.{c}" for i, c in enumerate(COLOURS, 1)])
    write(folder / "bounding_boxes.txt", [f"{i} 4.0 6.0 16.0 10.0" for i in range(1, 7)])
    return root


def make_nabirds(root: Path) -> Path:
    """nabirds with six images of three of the five classes that its hierarchy names."""
    folder = root / "nabirds"
    numbers = {"blue": 3, "green": 20, "red": 100}
    images = {f"{i:08}-{c}": c for i, c in enumerate([*COLOURS, *COLOURS])}
    names = {key: f"{numbers[c]:04}/{key.replace('-', '')}.jpg" for key, c in images.items()}
    for key, colour in images.items():
        paint(folder / "images" / names[key], colour)
    write(folder / "images.txt", [f"{key} {name}" for key, name in names.items()])
    labels = [f"{key} {numbers[colour]}" for key, colour in images.items()]
    write(folder / "image_class_labels.txt", labels)
    write(folder / "train_test_split.txt", [f"{k} {int(i < 3)}" for i, k in enumerate(images)])
    classes = ["0 Birds", "1 Ducks", *(f"{n} {c} (Adult male)" for c, n in numbers.items())]
    write(folder / "classes.txt", classes)
    write(folder / "hierarchy.txt", ["1 0", *(f"{n} 1" for n in numbers.values())])
    write(folder / "bounding_boxes.txt", [f"{key} 4 6 16 10" for key in images])
    return root


def make_pets(root: Path) -> Path:
    """oxford-iiit-pet with an image of each breed in each list; names sort unlike the numbers."""
    folder = root / "oxford-iiit-pet"
    for part in ("trainval", "test"):
        breeds = {f"{'Zz'[i % 2]}_{colour}": colour for i, colour in enumerate(COLOURS)}
        lines = [f"{breed}_{part[:1]}1 {i} 1 {i}" for i, breed in enumerate(breeds, 1)]
        for breed, colour in breeds.items():
            paint(folder / "images" / f"{breed}_{part[:1]}1.jpg", colour)
        write(folder / "annotations" / f"{part}.txt", lines)
    return root


def make_flowers(root: Path) -> Path:
    """flowers-102 with nine images of three flowers: two lists for training, one for the test."""
    folder = root / "flowers-102"
    for number, colour in enumerate([*COLOURS] * 3, start=1):
        paint(folder / "jpg" / f"image_{number:05}.jpg", colour)
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": [1, 2, 4] * 3})
    parts = {"trnid": [1, 2], "valid": [3], "tstid": [7, 9, 8]}
    scipy.io.savemat(folder / "setid.mat", parts)
    return root


def make_inaturalist(root: Path) -> Path:
    """2021_train and 2021_valid with an image of each species in each."""
    for index, (name, colour) in enumerate(zip(INATURALIST, COLOURS, strict=True)):
        for part in ("2021_train", "2021_valid"):
            paint(root / part / name / f"{index}{part[-1]}.jpg", colour)
    return root


def make_inaturalist_2018(root: Path) -> Path:
    """train2018.json and val2018.json with an image of each category in each."""
    categories = [{"id": i, "name": c, "supercategory": "Aves"} for i, c in enumerate(COLOURS)]
    for part in ("train", "val"):
        files = {10 + i: f"train_val2018/Aves/{i}/{part}.jpg" for i in range(3)}
        for name, colour in zip(files.values(), COLOURS, strict=True):
            paint(root / name, colour)
        content = {
            "images": [{"id": i, "file_name": name, "width": 30} for i, name in files.items()],
            "annotations": [{"id": i, "image_id": i, "category_id": i - 10} for i in files],
            "categories": categories[::-1],
        }
        write(root / f"{part}2018.json", [json.dumps(content)])
    return root


def make_aircraft(root: Path) -> Path:
    """fgvc-aircraft-2013b with one image of each variant in trainval and in test."""
    data = root / "fgvc-aircraft-2013b" / "data"
    write(data / "variants.txt", [f"{colour} 7/0" for colour in COLOURS])
    boxes = []
    for part, first in (("trainval", 1), ("test", 4)):
        numbers = {f"{first + i:07}": colour for i, colour in enumerate(COLOURS)}
        write(data / f"images_variant_{part}.txt", [f"{n} {c} 7/0" for n, c in numbers.items()])
        for number, colour in numbers.items():
            paint(data / "images" / f"{number}.jpg", colour)
            boxes.append(f"{number} 5 7 20 16")
    write(data / "images_box.txt", boxes)
    return root


def annotations(names: list[str], **fields) -> np.ndarray:
    """A struct array as scipy writes it to a .mat file."""
    kinds = [(f"bbox_{edge}", object) for edge in ("x1", "y1", "x2", "y2")]
    kinds += [(name, object) for name in fields]
    rows = [(5, 7, 20, 16, *(values[i] for values in fields.values())) for i in range(len(names))]
    return np.array(rows, dtype=kinds)


def make_cars_devkit(root: Path) -> Path:
    """stanford_cars with devkit/, cars_train/, cars_test/ and the labels of the test."""
    folder, names = root / "stanford_cars", [f"{i:05}.jpg" for i in range(1, 4)]
    for part in ("train", "test"):
        for name, colour in zip(names, COLOURS, strict=True):
            paint(folder / f"cars_{part}" / name, colour)
    (folder / "devkit").mkdir()
    table = annotations(names, **{"class": [1, 2, 3], "fname": names})
    scipy.io.savemat(folder / "devkit" / "cars_train_annos.mat", {"annotations": table})
    scipy.io.savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": table})
    names = np.array(list(COLOURS), dtype=object)
    scipy.io.savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    return root


def make_cars_annos(root: Path) -> Path:
    """cars_annos.mat and car_ims/: the first three images for training, the others for testing."""
    names = [f"car_ims/{i:06}.jpg" for i in range(1, 7)]
    for name, colour in zip(names, [*COLOURS, *COLOURS], strict=True):
        paint(root / name, colour)
    table = annotations(
        names,
        relative_im_path=names,
        **{"class": [1, 2, 3, 1, 2, 3], "test": [0, 0, 0, 1, 1, 1]},
    )
    content = {"annotations": table, "class_names": np.array(list(COLOURS), dtype=object)}
    scipy.io.savemat(root / "cars_annos.mat", content)
    return root


def make_dogs(root: Path) -> Path:
    """Stanford Dogs with an image of each class in each split, and boxes of two dogs in each."""
    box = "<object><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
    for part in ("train", "test"):
        names = [f"n0{i}-{colour}/{part}.jpg" for i, colour in enumerate(COLOURS)]
        for name, colour in zip(names, COLOURS, strict=True):
            paint(root / "Images" / name, colour)
            objects = [box.format(0, 0, 3, 3), box.format(4, 6, 20, 16)]
            text = "".join(f"{item}</object>" for item in objects)
            xml = root / "Annotation" / name.removesuffix(".jpg")
            write(xml, [f"<annotation>{text}</annotation>"])
        content = {"file_list": np.array(names, dtype=object), "labels": [[1], [2], [3]]}
        scipy.io.savemat(root / f"{part}_list.mat", content)
    return root


def make_table(root: Path, val: str = "val") -> Path:
    """train.csv and VAL.csv with the images of `make_tree`, two of three with a box."""
    make_tree(root, val=val)
    for split in ("train", val):
        rows = [
            f"{split}/{name}/{index}.png,{name},{'4,6,20,16' if index % 3 else ',,,'}"
            for name in COLOURS
            for index in range(4)
        ]
        write(root / f"{split}.csv", ["path,label,x1,y1,x2,y2", *rows])
    return root


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def make_shard(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            add_member(tar, name, content)


def encoded(colour: str, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", IMAGE_SIZE, COLOURS[colour]).save(file, kind)
    return file.getvalue()


def make_shards(root: Path, val: str = "val") -> Path:
    """Two training shards and one validation shard, with class names in .cls and .json files."""
    for name in ("train-000", "train-001", f"{val}-000"):
        members = {}
        for index, colour in enumerate(COLOURS):
            members[f"a/{index}.png"] = encoded(colour)
            if index == 2:
                members[f"a/{index}.json"] = json.dumps({"label": colour, "other": 1}).encode()
            else:
                members[f"a/{index}.cls"] = f"{colour}\n".encode()
            members[f"a/{index}.note.txt"] = b"ignored"
        make_shard(root / f"{name}.tar", members)
    return root


LAYOUTS = {  # --data -> (maker, class names, training images)
    "cub": (make_cub, ["001.blue", "002.green", "003.red"], 3),
    "aircraft": (make_aircraft, ["blue 7/0", "green 7/0", "red 7/0"], 3),
    "cars": (make_cars_devkit, list(COLOURS), 3),
    "nabirds": (make_nabirds, [f"{colour} (Adult male)" for colour in COLOURS], 3),
    "pets": (make_pets, ["Z_blue", "z_green", "Z_red"], 3),
    "flowers": (make_flowers, ["pink primrose", "hard-leaved pocket orchid", "sweet pea"], 3),
    "inaturalist": (make_inaturalist, INATURALIST, 3),
    "dogs": (make_dogs, ["n00-blue", "n01-green", "n02-red"], 3),
    "csv": (make_table, list(COLOURS), 12),
    "webdataset": (make_shards, list(COLOURS), 6),
}


def config_of(data, root, **options):
    defaults = {"data": data, "root": str(root), "image_size": 32, "workers": 0, "batch_size": 4}
    return Config(**{**defaults, **options}).resolved()


def error_of(config, split="train", classes=None) -> str:
    """The one-line error of opening a split."""
    with pytest.raises(UserError) as caught:
        open_split(config, split, classes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def colour_of(sample) -> str:
    """The colour of a sample's image."""
    pixel = np.asarray(load_image(sample.source), dtype=float).mean((0, 1))
    return min(COLOURS, key=lambda name: np.abs(pixel - COLOURS[name]).sum())
