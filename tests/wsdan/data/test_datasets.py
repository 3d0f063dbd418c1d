"""Every dataset layout: its images, classes and boxes, and a one-line error for each mistake."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import trees
from trees import BOX, COLOURS, LAYOUTS, colour_of, config_of, error_of, write

from wsdan.cli import main
from wsdan.data import readers
from wsdan.data.images import ImageDataset, load_image
from wsdan.data.loaders import train_loader, val_loader
from wsdan.data.splits import open_split
from wsdan.data.transforms import eval_transform


def check_images(config, classes, count):
    """Each image of both splits shows the colour of its class: the trees' classes are in order."""
    for split in ("train", "val"):
        samples, found = open_split(config, split, None if split == "train" else classes)
        assert found == classes
        assert len(samples) == count if split == "train" or config.data != "webdataset" else 3
        assert {sample.label for sample in samples} == {0, 1, 2}
        for sample in samples:
            assert colour_of(sample) == list(COLOURS)[sample.label]


@pytest.mark.parametrize("data", LAYOUTS)
def test_images_and_classes(data, tmp_path):
    make, classes, count = LAYOUTS[data]
    check_images(config_of(data, make(tmp_path)), classes, count)


def test_the_other_layout_of_stanford_cars(tmp_path):
    config = config_of("cars", trees.make_cars_annos(tmp_path))
    check_images(config, list(COLOURS), 3)
    assert {sample.box for sample in open_split(config, "val", list(COLOURS)).samples} == {BOX}


def nest(folder: Path) -> None:
    """Move a folder's content into a folder of the same name in it, as Kaggle does."""
    folder.rename(folder.parent / "moving")
    folder.mkdir()
    (folder.parent / "moving").rename(folder / folder.name)


@pytest.mark.parametrize("labels", ["", "car_devkit", "car_devkit/devkit"])
def test_stanford_cars_as_kaggle_packs_them(labels, tmp_path):
    (trees.make_cars_devkit(tmp_path) / "stanford_cars").rename(tmp_path / "archive")
    root = tmp_path / "archive"
    nest(root / "cars_train")
    nest(root / "cars_test")
    (root / "car_devkit").mkdir()
    (root / "devkit").rename(root / "car_devkit" / "devkit")
    (root / "cars_annos.mat").write_bytes(b"of the images of car_ims/")
    name = "cars_test_annos_withlabels.mat"
    (root / name).rename(root / labels / name)
    config = config_of("cars", root)
    assert readers.detect(root) == "cars"
    check_images(config, list(COLOURS), 3)
    assert {sample.box for sample in open_split(config, "val", list(COLOURS)).samples} == {BOX}
    (root / labels / name).unlink()
    error = error_of(config, "val", list(COLOURS))
    assert f"{root / name} is missing; see https://github.com/pytorch/vision/issues/7545" in error


def make_kaggle_dogs(root: Path, per_class: int) -> list[str]:
    """images/Images/ and annotations/Annotation/ without lists; returns the classes."""
    box = "<a><bndbox><xmin>4</xmin><ymin>6</ymin><xmax>20</xmax><ymax>16</ymax></bndbox></a>"
    classes = [f"n0{i}-{colour}" for i, colour in enumerate(COLOURS)]
    for name, colour in zip(classes, COLOURS, strict=True):
        for index in range(per_class):
            trees.paint(root / "images" / "Images" / name / f"{index}.1.jpg", colour)
            write(root / "annotations" / "Annotation" / name / f"{index}.1", [box])
        write(root / "images" / "Images" / name / "Thumbs.db", ["no image"])
    return classes


def test_stanford_dogs_as_kaggle_packs_them(tmp_path, capsys):
    classes = make_kaggle_dogs(tmp_path, 5)
    config = config_of("dogs", tmp_path)
    assert readers.detect(tmp_path) == "dogs"
    train = open_split(config, "train")
    assert capsys.readouterr().err == ""
    val = open_split(config, "val", train.classes)
    assert "no train_list.mat and test_list.mat, so 100 images of each class" in (
        capsys.readouterr().err
    )
    assert train.classes == classes
    assert [sample.label for sample in train.samples] == [0] * 4 + [1] * 4 + [2] * 4
    assert [sample.label for sample in val.samples] == [0, 1, 2]
    assert {sample.box for sample in val.samples} == {BOX}
    sources = {sample.source for sample in (*train.samples, *val.samples)}
    assert len(sources) == 15  # no image is in both
    assert all(colour_of(sample) in classes[sample.label] for sample in val.samples)


def test_the_drawn_split_of_stanford_dogs_has_at_most_the_published_size(tmp_path, monkeypatch):
    monkeypatch.setattr("wsdan.data.readers.dogs.TRAINING_IMAGES", 3)
    classes = make_kaggle_dogs(tmp_path, 8)
    config = config_of("dogs", tmp_path)
    assert len(open_split(config, "train").samples) == 9
    assert len(open_split(config, "val", classes).samples) == 15


def test_cub_as_kaggle_packs_it(tmp_path):
    """Beside the folders of other archives, or in a folder of its own name."""
    trees.make_cub(tmp_path)
    for name in ("segmentations", "cvpr2016_cub"):
        (tmp_path / name).mkdir()
    config = config_of("cub", tmp_path)
    assert readers.detect(tmp_path) == "cub"
    check_images(config, LAYOUTS["cub"][1], 3)
    nest(tmp_path / "CUB_200_2011")
    assert readers.detect(tmp_path) == "cub"
    check_images(config, LAYOUTS["cub"][1], 3)
    check_images(config_of("cub", tmp_path / "CUB_200_2011"), LAYOUTS["cub"][1], 3)


@pytest.mark.parametrize(
    ("data", "folder"),
    [
        ("cub", "CUB_200_2011"),
        ("aircraft", "fgvc-aircraft-2013b"),
        ("cars", "stanford_cars"),
        ("nabirds", "nabirds"),
        ("pets", "oxford-iiit-pet"),
        ("flowers", "flowers-102"),
    ],
)
def test_root_may_be_the_dataset_itself(data, folder, tmp_path):
    make, classes, count = LAYOUTS[data]
    check_images(config_of(data, make(tmp_path) / folder), classes, count)
    (tmp_path / "link").symlink_to(tmp_path / folder)
    check_images(config_of(data, tmp_path / "link"), classes, count)
    (tmp_path / folder).rename(tmp_path / "elsewhere")
    (tmp_path / folder).symlink_to(tmp_path / "elsewhere")
    check_images(config_of(data, tmp_path / folder), classes, count)


@pytest.mark.parametrize("data", ["cub", "nabirds", "aircraft", "cars", "dogs", "csv"])
def test_validation_has_boxes(data, tmp_path):
    make, classes, _ = LAYOUTS[data]
    samples, _ = open_split(config_of(data, make(tmp_path)), "val", classes)
    boxes = {sample.box for sample in samples}
    assert boxes == ({BOX, None} if data == "csv" else {BOX})
    sample = next(sample for sample in samples if sample.box is not None)
    item = ImageDataset([sample], eval_transform(28, whole=True))[0]
    width, height = load_image(sample.source).size
    scales = (28 / width, 28 / height) * 2
    assert item.box == pytest.approx([x * s for x, s in zip(BOX, scales, strict=True)])
    assert item.name == str(sample.source)


@pytest.mark.parametrize("data", ["cub", "nabirds", "aircraft", "dogs"])
def test_boxes_may_be_missing(data, tmp_path):
    make, classes, _ = LAYOUTS[data]
    make(tmp_path)
    for path in [*tmp_path.rglob("*box*.txt"), *tmp_path.glob("Annotation")]:
        path.unlink() if path.is_file() else shutil.rmtree(path)
    samples, _ = open_split(config_of(data, tmp_path), "val", classes)
    assert {sample.box for sample in samples} == {None}
    assert all(math.isnan(edge) for edge in ImageDataset(samples, eval_transform(28))[0].box)


@pytest.mark.parametrize("data", ["cub", "csv", "webdataset"])
def test_workers_read_the_same_images(data, tmp_path):
    make, classes, _ = LAYOUTS[data]
    make(tmp_path)
    alone, two = (list(val_loader(config_of(data, tmp_path, workers=n), classes)) for n in (0, 2))
    for one, other in zip(alone, two, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    loader, found = train_loader(config_of(data, tmp_path, workers=2))
    assert found == classes
    assert sum(len(batch.labels) for batch in loader) >= 3


@pytest.mark.parametrize(
    ("data", "path", "text"),
    [
        ("cub", "CUB_200_2011/classes.txt", "vision.caltech.edu"),
        ("cub", "CUB_200_2011/images", "vision.caltech.edu"),
        ("aircraft", "fgvc-aircraft-2013b/data/variants.txt", "robots.ox.ac.uk"),
        ("aircraft", "fgvc-aircraft-2013b/data/images_variant_trainval.txt", "robots.ox.ac.uk"),
        ("cars", "stanford_cars/devkit/cars_train_annos.mat", "github.com/pytorch/vision"),
        ("cars", "stanford_cars/devkit/cars_meta.mat", "github.com/pytorch/vision"),
        ("cars", "stanford_cars/cars_train", "github.com/pytorch/vision"),
        ("dogs", "train_list.mat", "ImageNetDogs"),
        ("dogs", "Images", "ImageNetDogs"),
        ("nabirds", "nabirds/classes.txt", "dl.allaboutbirds.org/nabirds"),
        ("nabirds", "nabirds/images", "dl.allaboutbirds.org/nabirds"),
        ("pets", "oxford-iiit-pet/annotations/trainval.txt", "robots.ox.ac.uk/~vgg/data/pets"),
        ("pets", "oxford-iiit-pet/images", "images.tar.gz"),
        ("flowers", "flowers-102/setid.mat", "robots.ox.ac.uk/~vgg/data/flowers"),
        ("flowers", "flowers-102/jpg", "102flowers.tgz"),
        ("inaturalist", "2021_train", "github.com/visipedia/inat_comp"),
    ],
)
def test_a_missing_file_is_named_with_its_source(data, path, text, tmp_path):
    LAYOUTS[data][0](tmp_path)
    (tmp_path / path).rename(tmp_path / "elsewhere")
    error = error_of(config_of(data, tmp_path))
    assert f"--data {data}: {tmp_path / path} is missing" in error
    assert text in error


@pytest.mark.parametrize(
    "data", ["cub", "nabirds", "aircraft", "cars", "dogs", "pets", "flowers", "csv"]
)
def test_a_missing_image_is_named(data, tmp_path):
    LAYOUTS[data][0](tmp_path)
    config = config_of(data, tmp_path)
    lost = open_split(config, "train").samples[1].source
    lost.unlink()
    assert f"{lost}" in error_of(config)
    assert f"--data {data}: 1 of {LAYOUTS[data][2]} images that " in error_of(config)


def test_many_missing_images_are_listed_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names = [f"{index}.png" for index in range(14)]
    write(tmp_path / "train.csv", ["path,label", *(f"{name},a" for name in names)])
    error = error_of(config_of("csv", tmp_path))
    assert "14 of 14 images" in error
    assert f"{tmp_path}/9.png, ...;" in error
    assert "/10.png" not in error
    listed = error.split("...; ")[1].removesuffix(" lists all")
    assert Path(listed).read_text().split() == [str(tmp_path / name) for name in names]


@pytest.mark.parametrize(
    ("name", "lines", "text"),
    [
        ("image_class_labels.txt", ["1 1", "2 1", "3 9", "4 2", "5 3", "6 3"], "class 9 of image"),
        ("image_class_labels.txt", ["1 1"], "has no line for image 2"),
        ("train_test_split.txt", ["1 1"], "train_test_split.txt has no line for image 2"),
        ("images.txt", ["1"], "images.txt:1: expected `key value`; got '1'"),
        ("bounding_boxes.txt", ["1 2 3 4"], "expected x y width height; got '2 3 4'"),
        ("train_test_split.txt", [f"{i} 0" for i in range(1, 7)], "holds no image"),
        (
            "train_test_split.txt",
            [f"{i} {i % 2}.0" for i in range(1, 7)],
            "image 1 must have 1 (train) or 0; got '1.0'",
        ),
        ("classes.txt", ["1 a", "2 a", "3 b"], "two classes have the same name"),
    ],
)
def test_wrong_cub_files(name, lines, text, tmp_path):
    write(trees.make_cub(tmp_path) / "CUB_200_2011" / name, lines)
    assert text in error_of(config_of("cub", tmp_path))


def test_spaces_between_the_fields_of_cub_files(tmp_path):
    folder = trees.make_cub(tmp_path) / "CUB_200_2011"
    write(folder / "train_test_split.txt", [f"{i}   {i % 2} " for i in range(1, 7)])
    check_images(config_of("cub", tmp_path), LAYOUTS["cub"][1], 3)


def test_nabirds_beside_cub(tmp_path):
    """Both have images.txt; the classes of NABirds are those that have images, by number."""
    trees.make_nabirds(tmp_path)
    folder = tmp_path / "nabirds"
    assert readers.detect(folder) == "nabirds"
    write(folder / "image_class_labels.txt", [f"{i:08}-{c} x" for i, c in enumerate(COLOURS)])
    assert "class x of image 00000000-blue is not in classes.txt" in error_of(
        config_of("nabirds", tmp_path)
    )
    trees.make_cub(tmp_path)
    assert readers.detect(tmp_path / "CUB_200_2011") == "cub"


def test_pets_and_flowers_where_they_were_unpacked(tmp_path):
    """Without the folders of torchvision's names."""
    for data, inside in (("pets", "oxford-iiit-pet"), ("flowers", "flowers-102")):
        make, classes, count = LAYOUTS[data]
        (make(tmp_path / data) / inside).rename(tmp_path / f"{data} here")
        assert readers.detect(tmp_path / f"{data} here") == data
        check_images(config_of(data, tmp_path / f"{data} here"), classes, count)


def test_wrong_lists_of_pets(tmp_path):
    path = trees.make_pets(tmp_path) / "oxford-iiit-pet" / "annotations" / "trainval.txt"
    write(path, ["Abyssinian_100 x 1 1"])
    error = error_of(config_of("pets", tmp_path))
    assert f"{path}: expected `name class ...`; got 'Abyssinian_100' 'x 1 1'" in error


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("imagelabels.mat", {"labels": [1, 0, 4] * 3}, "imagelabels.mat: label 0 is not in 1..102"),
        ("imagelabels.mat", {"labels": [1, 103]}, "label 103 is not in 1..102"),
        ("imagelabels.mat", {"label": [1]}, "imagelabels.mat holds no variable 'labels'"),
        ("setid.mat", {"trnid": [1], "valid": [10]}, "setid.mat: image 10 is not in 1..9"),
        ("setid.mat", {"trnid": [1]}, "setid.mat holds no variable 'valid'"),
    ],
)
def test_wrong_lists_of_flowers(name, content, text, tmp_path):
    folder = trees.make_flowers(tmp_path) / "flowers-102"
    scipy.io.savemat(folder / name, content)
    assert text in error_of(config_of("flowers", tmp_path))


def test_the_other_folders_of_inaturalist_2021(tmp_path):
    """The small training set, what is no image, and both training sets, of which one is larger."""
    _, classes, count = LAYOUTS["inaturalist"]
    trees.make_inaturalist(tmp_path)
    write(tmp_path / "2021_train" / classes[0] / "._0n.jpg", ["of macOS"])
    write(tmp_path / "2021_train" / classes[0] / "notes.txt", ["no image"])
    (tmp_path / "2021_train" / ".cache").mkdir()
    (tmp_path / "2021_train_mini").mkdir()
    config = config_of("inaturalist", tmp_path)
    check_images(config, classes, count)
    shutil.rmtree(tmp_path / "2021_train_mini")
    (tmp_path / "2021_train").rename(tmp_path / "2021_train_mini")
    assert readers.detect(tmp_path) == "inaturalist"
    check_images(config, classes, count)
    (tmp_path / "2021_valid").rename(tmp_path / "val")
    error = error_of(config, "val", classes)
    assert f"{tmp_path}/2021_valid is missing; see https://github.com/visipedia/inat" in error


def test_inaturalist_before_2021(tmp_path):
    trees.make_inaturalist_2018(tmp_path)
    assert readers.detect(tmp_path) == "inaturalist"
    config = config_of("inaturalist", tmp_path)
    check_images(config, list(COLOURS), 3)
    (tmp_path / "train_val2018").rename(tmp_path / "2018")  # as torchvision does
    check_images(config, list(COLOURS), 3)
    lost = tmp_path / "2018" / "Aves" / "1" / "train.jpg"
    lost.unlink()
    assert f"1 of 3 images that {tmp_path}/train2018.json names are missing: {lost}" in (
        error_of(config)
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "cannot read"),
        ("[]", "cannot read"),
        ('{"categories": []}', "has no 'annotations'"),
        ('{"categories": [], "annotations": [], "images": [{"file_name": "a", "id": 7}]}', "no 7"),
    ],
)
def test_wrong_annotations_of_inaturalist(text, fault, tmp_path):
    write(trees.make_inaturalist_2018(tmp_path) / "train2018.json", [text])
    error = error_of(config_of("inaturalist", tmp_path))
    assert f"{tmp_path}/train2018.json" in error
    assert fault in error


def test_a_cache_on_disk_of_images_whose_paths_are_text(tmp_path, monkeypatch):
    monkeypatch.setenv("WSDAN_CACHE_DIR", str(tmp_path / "cache"))
    config = config_of("inaturalist", trees.make_inaturalist(tmp_path), cache="disk")
    assert isinstance(open_split(config, "train").samples[0].source, str)
    cached, plain = (train_loader(item)[0] for item in (config, config_of("inaturalist", tmp_path)))
    for one, other in zip(cached, plain, strict=True):
        assert torch.equal(one.images, other.images)


def test_wrong_aircraft_files(tmp_path):
    data = trees.make_aircraft(tmp_path) / "fgvc-aircraft-2013b" / "data"
    config = config_of("aircraft", tmp_path)
    write(data / "images_box.txt", ["0000001 1 2"])
    assert "expected xmin ymin xmax ymax; got '1 2'" in error_of(config)
    write(data / "images_variant_trainval.txt", ["0000001"])
    assert "expected lines `number variant`" in error_of(config)
    write(data / "images_variant_trainval.txt", ["0000001 zeppelin"])
    assert "class 'zeppelin' is not in variants.txt" in error_of(config)


@pytest.mark.parametrize("number", [0, 4])
def test_a_label_of_stanford_cars_out_of_range(number, tmp_path):
    names = ["a.jpg", "b.jpg"]
    fields = {"class": [1, number], "fname": names, "relative_im_path": names, "test": [0, 0]}
    table = {"annotations": trees.annotations(names, **fields)}
    devkit = trees.make_cars_devkit(tmp_path / "one") / "stanford_cars" / "devkit"
    scipy.io.savemat(devkit / "cars_train_annos.mat", table)
    assert f"class {number} is not in 1..3" in error_of(config_of("cars", tmp_path / "one"))
    trees.make_cars_annos(tmp_path / "two")
    table["class_names"] = np.array(list(COLOURS), dtype=object)
    scipy.io.savemat(tmp_path / "two" / "cars_annos.mat", table)
    assert f"class {number} is not in 1..3" in error_of(config_of("cars", tmp_path / "two"))


def test_annotations_of_stanford_cars_without_a_field(tmp_path):
    names = ["00001.jpg", "00002.jpg"]
    unlabelled = {"annotations": trees.annotations(names, fname=names)}
    folder = trees.make_cars_devkit(tmp_path / "one") / "stanford_cars"
    config = config_of("cars", tmp_path / "one")
    scipy.io.savemat(folder / "cars_test_annos_withlabels.mat", unlabelled)
    error = error_of(config, "val", list(COLOURS))
    assert error.endswith("cars_test_annos_withlabels.mat: its annotations have no class")
    scipy.io.savemat(folder / "devkit" / "cars_meta.mat", {"names": [1]})
    assert "cars_meta.mat holds no variable 'class_names'" in error_of(config)
    scipy.io.savemat(folder / "devkit" / "cars_train_annos.mat", {"annotations": [1, 2]})
    assert "have no class, fname, bbox_x1, bbox_y1, bbox_x2, bbox_y2" in error_of(config)
    trees.make_cars_annos(tmp_path / "two")
    unlabelled["class_names"] = np.array(list(COLOURS), dtype=object)
    scipy.io.savemat(tmp_path / "two" / "cars_annos.mat", unlabelled)
    assert "have no class, relative_im_path, test" in error_of(config_of("cars", tmp_path / "two"))


def test_wrong_matlab_files(tmp_path):
    config = config_of("dogs", trees.make_dogs(tmp_path))
    scipy.io.savemat(tmp_path / "train_list.mat", {"files": [1]})
    assert "train_list.mat holds no variable 'file_list'" in error_of(config)
    for content in (b"", b"no MATLAB file", b"x" * 300):
        (tmp_path / "train_list.mat").write_bytes(content)
        assert "train_list.mat is no MATLAB file" in error_of(config)
    write(tmp_path / "Annotation" / "n00-blue" / "test", ["<annotation></annotation>"])
    assert "n00-blue/test: no bndbox" in error_of(config, "val", LAYOUTS["dogs"][1])


@pytest.mark.parametrize("data", LAYOUTS)
def test_a_class_that_training_lacks(data, tmp_path):
    make, classes, _ = LAYOUTS[data]
    error = error_of(config_of(data, make(tmp_path)), "val", classes[:2])
    assert f"class {classes[2]!r} is not among the training classes" in error


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["file,label", "a.png,b"], "header must be path,label or path,label,x1,y1,x2,y2; got fil"),
        (["path,label,x1", "a.png,b,1"], "got path,label,x1"),
        (["path,label,label", "a.png,b,c"], "got path,label,label"),
        ([], "got nothing"),
        (["path,label", "train/red/0.png,"], "row 1: the label is empty"),
        (["path,label", "train/red/0.png,a", ",b"], "row 2: the path is empty"),
        (["path,label", "train/red/0.png"], "row 1: more or fewer fields than the header has"),
        (["path,label", "train/red/0.png,a,b"], "row 1: more or fewer fields"),
        (["path,label,x1,y1,x2,y2", "train/red/0.png,a,1,2,3,x"], "must be four numbers; got 1,2"),
        (["path,label,x1,y1,x2,y2", "train/red/0.png,a,1,2,,"], "must be four numbers; got 1,2,,"),
        (["path,label,x1,y1,x2,y2", "train/red/0.png,a,3,2,1,4"], "must have x1 < x2 and y1 < y2"),
        (
            ["path,label", 'train/red/0.png,"a', "train/red/1.png,b", "train/red/2.png,c"],
            "row 1: a field goes on in the next line; a quotation mark is not closed",
        ),
        (["path,label", f'"{"x" * 200_000}'], "train.csv: field larger than field limit"),
        ([f'"path,label{"x" * 200_000}'], "train.csv: field larger than field limit"),
        (["path,label", f"{'x' * 300}.png,a"], "1 of 1 images that"),
        (["path,label"], "at least two classes are needed; found 0"),
        (["path,label", "train/red/0.png,a"], "at least two classes are needed; found 1"),
    ],
)
def test_wrong_tables(lines, text, tmp_path):
    trees.make_table(tmp_path)
    write(tmp_path / "train.csv", lines)
    assert text in error_of(config_of("csv", tmp_path))


def test_tables_of_every_spelling(tmp_path):
    trees.make_table(tmp_path, val="test")
    absolute = tmp_path / "train" / "red" / "0.png"
    rows = [f' "{absolute}" , 10', "train/red/1.png,9", "", "train/red/2.png,9"]
    (tmp_path / "train.csv").write_bytes(
        b"\xef\xbb\xbfpath, label\r\n" + "\r\n".join(rows).encode()
    )
    config = config_of("csv", tmp_path)
    samples, classes = open_split(config, "train")
    assert classes == ["9", "10"]  # as numbers, not as text
    assert [sample.label for sample in samples] == [1, 0, 0]
    assert samples[0].source == absolute
    assert len(open_split(config, "val", list(COLOURS)).samples) == 12  # of test.csv
    (tmp_path / "train.csv").write_bytes(b"\xff\xfe\x00")
    assert "cannot read" in error_of(config)
    (tmp_path / "train.csv").unlink()
    assert f"{tmp_path} has no train.csv with the header path,label" in error_of(config)


def test_a_run_on_a_published_dataset(tmp_path, capsys):
    trees.make_cub(tmp_path)
    command = ["train", "--data", "cub", "--root", str(tmp_path), "--cache", "ram"]
    command += ["--backbone", "tiny", "--image-size", "32", "--num-attentions", "4"]
    command += ["--batch-size", "3", "--epochs", "2", "--workers", "1", "--out"]
    assert main([*command, str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "3 images of 3 classes to train on, 3 to validate" in printed
    assert ", starting from random weights; writing to" in printed
    (tmp_path / "CUB_200_2011").rename(tmp_path / "moved")
    checkpoint = str(tmp_path / "out" / "last.pt")
    assert main(["eval", "--checkpoint", checkpoint, "--root", str(tmp_path / "moved")]) == 0
    printed = capsys.readouterr().out
    assert "on 3 images" in printed
    assert "IoU" in printed  # the boxes are known
