"""Which files of a folder are images, and what is said of the others."""

import os
import shutil
import sys
import types
from pathlib import Path

import pytest
from PIL import Image
from trees import COLOURS, config_of, encoded, error_of, make_tree

from wsdan.cli import main
from wsdan.data import formats, readers
from wsdan.data.images import BadImageError, load_image
from wsdan.data.splits import open_split
from wsdan.errors import UserError

KINDS = {
    "jpg": "JPEG", "JFIF": "JPEG", "jpe": "JPEG", "gif": "GIF", "avif": "AVIF", "jp2": "JPEG2000",
    "tga": "TGA", "mpo": "JPEG", "webp": "WEBP",
}  # fmt: skip


def test_images_of_every_suffix_and_without_one_are_taken(tmp_path, capsys):
    red = make_tree(tmp_path) / "train" / "red"
    for kind, name in KINDS.items():
        (red / f"more.{kind}").write_bytes(encoded("red", name))
    (red / "photo").write_bytes(encoded("red", "JPEG"))
    samples, _ = open_split(config_of("folder", tmp_path), "train")
    names = {sample.source.name for sample in samples if sample.label == 2}
    assert names == {*(f"{i}.png" for i in range(4)), *(f"more.{kind}" for kind in KINDS), "photo"}
    assert all(load_image(sample.source).mode == "RGB" for sample in samples)
    assert capsys.readouterr().err == ""


def test_what_is_left_out_is_counted_and_said_once(tmp_path, capsys):
    red = make_tree(tmp_path) / "train" / "red"
    numbers = {".txt": 6, ".heic": 5, ".mp4": 4, "": 3, ".json": 2, ".xml": 1, ".eps": 1}
    for suffix, count in numbers.items():
        for index in range(count):
            (red / f"other{index}{suffix}").write_text("no image")
    (red.parent / "readme.md").write_text("beside the classes")
    open_split(config_of("folder", tmp_path), "train")
    assert capsys.readouterr().err == (
        f"wsdan: warning: {red.parent}: files left out, which are no images for Pillow: 23, "
        "of which .txt 6, .heic 5, .mp4 4, no suffix 3, .json 2, ...; "
        "HEIC needs pip install pillow-heif\n"
    )


def test_heic_is_read_where_pillow_heif_is_installed(monkeypatch):
    """Its opener is registered; here one that reads nothing."""
    stand_in = types.ModuleType("pillow_heif")

    def register():
        Image.register_open("HEIF", lambda *_: None, lambda _: False)
        Image.register_extensions("HEIF", [".heic", ".heif"])

    stand_in.register_heif_opener = register
    monkeypatch.setitem(sys.modules, "pillow_heif", stand_in)
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "EXTENSION", dict(Image.EXTENSION))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    for function in (formats.formats, formats.suffixes):
        function.cache_clear()
    try:
        assert formats.is_image_name("IMG_0001.HEIC")
    finally:
        for function in (formats.formats, formats.suffixes):
            function.cache_clear()
    monkeypatch.undo()
    assert not formats.is_image_name("IMG_0001.HEIC")


@pytest.mark.parametrize(("name", "hint"), [("a.HEIC", True), ("a.jpg", False)])
def test_a_file_of_an_unknown_format_says_what_is_needed(name, hint, tmp_path):
    (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(BadImageError, match="of no format that Pillow reads") as caught:
        load_image(tmp_path / name)
    assert str(caught.value).endswith("pip install pillow-heif") == hint


def test_a_folder_that_may_not_be_read_is_no_empty_one(tmp_path, monkeypatch):
    """Its images would be lost in silence. Tests may run as root, whom nothing is forbidden."""
    red = make_tree(tmp_path) / "train" / "red"
    (red / "closed").mkdir()
    scandir = os.scandir

    def refuse(path):
        if Path(path) in (red / "closed", tmp_path / "closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert f"{red}/closed: Permission denied" in error_of(config_of("folder", tmp_path))
    (tmp_path / "closed").mkdir()
    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(UserError, match="closed: Permission denied"):
        readers.detect(tmp_path / "closed")


def test_postscript_is_not_given_to_ghostscript(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded("red", "EPS"))
    with pytest.raises(BadImageError, match="its content is of no format that Pillow reads"):
        load_image(tmp_path / "a.jpg")


def test_an_empty_class_is_an_error_unless_allowed(tmp_path, capsys):
    (make_tree(tmp_path) / "train" / "violet").mkdir()
    command = ["train", "--data", "folder", "--root", str(tmp_path), "--backbone", "tiny"]
    command += ["--image-size", "32", "--workers", "0", "--epochs", "1", "--no-pretrained"]
    command += ["--num-attentions", "2", "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert (
        f"{tmp_path}/train/violet: the class folder holds no image (--allow-empty keeps"
        in capsys.readouterr().err
    )
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert main([*command, "--allow-empty"]) == 0
    printed = capsys.readouterr()
    assert "12 images of 4 classes to train on" in printed.out
    for split in ("train", "val"):
        assert f"warning: {tmp_path}/{split}: no image of the class violet\n" in printed.err


def test_a_class_that_val_lacks_is_a_warning_with_its_name(tmp_path, capsys):
    config = config_of("folder", make_tree(tmp_path))
    for image in (tmp_path / "val" / "blue").iterdir():
        image.unlink()
    shutil.rmtree(tmp_path / "val" / "red")
    split = open_split(config, "val", list(COLOURS))
    assert {sample.label for sample in split.samples} == {1}
    assert "val: no image of the class blue, red\n" in capsys.readouterr().err


def test_images_in_the_wrong_place_and_notes_of_archives(tmp_path, capsys):
    train = make_tree(tmp_path) / "train"
    config = config_of("folder", tmp_path)
    (train / "__MACOSX").mkdir()
    assert open_split(config, "train").classes == list(COLOURS)
    for name in COLOURS:
        (train / name).rename(tmp_path / name)
    (tmp_path / "red" / "0.png").rename(train / "0.png")
    command = ["train", "--data", "folder", "--root", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main([*command, "--no-pretrained"]) == 2
    line = capsys.readouterr().err
    assert f"{train}: images lie directly in it; move those of each class to {train}/CLASS/" in line
    (train / "0.png").unlink()
    (tmp_path / "red").rename(train / "red")
    assert main([*command, "--no-pretrained"]) == 2
    assert "at least two classes are needed; found 1: only red" in capsys.readouterr().err


def test_a_step_of_more_images_than_there_are_is_told(tmp_path, capsys):
    from wsdan.data.loaders import train_loader

    train_loader(config_of("folder", make_tree(tmp_path), batch_size=13))
    line = capsys.readouterr().err
    assert "there are 12 images to train on, fewer than a step takes (13)" in line
    assert "lower --batch-size" in line
