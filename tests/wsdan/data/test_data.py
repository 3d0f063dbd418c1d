"""Image files of every format, folders, and their errors."""

import io
import os
import shutil
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2
from trees import make_tree

from wsdan.config import Config
from wsdan.constants import IMAGENET_MEAN, IMAGENET_STD
from wsdan.data.decoding import RawImageDataset
from wsdan.data.images import BadImageError, ImageDataset, load_image
from wsdan.data.loaders import _image_dataset, train_loader, val_loader
from wsdan.data.samples import Sample
from wsdan.data.splits import open_split
from wsdan.data.transforms import (
    box_in_input,
    box_in_original,
    eval_transform,
    train_transform,
)
from wsdan.errors import UserError


def gradient(width=37, height=21):
    return np.linspace(0, 255, width * height).reshape(height, width)


def test_the_conversion_equals_the_plain_transforms_bit_for_bit():
    """Contiguous and in place, which is faster."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    steps = (
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    )
    plain = v2.Compose([v2.CenterCrop(35), *steps])(image)
    found = eval_transform(35).finish(image)
    assert torch.equal(found, plain)
    assert found.is_contiguous() and not plain.is_contiguous()
    assert image.tobytes() == pixels.tobytes()


def folder_config(root, **options):
    defaults = {"data": "folder", "root": str(root), "image_size": 32, "workers": 0}
    return Config(**{**defaults, **options}).resolved()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "P", "1", "LA", "I;16", "I", "F"])
def test_every_kind_of_image_becomes_rgb(mode, tmp_path):
    grey = gradient()
    if mode == "I;16":
        image = Image.fromarray((grey * 257).astype(np.uint16))
    elif mode in ("I", "F"):
        image = Image.fromarray(grey.astype(np.int32 if mode == "I" else np.float32))
    else:
        image = Image.fromarray(grey.astype(np.uint8)).convert(mode)
    path = tmp_path / ("a.png" if mode in ("L", "RGB", "RGBA", "P", "1", "LA", "I;16") else "a.tif")
    image.save(path)
    found = load_image(path)
    assert found.mode == "RGB"
    assert found.size == (37, 21)
    if mode not in ("1", "P"):
        difference = np.abs(np.asarray(found, dtype=float) - grey[:, :, None])
        assert difference.max() <= 2


def test_floats_up_to_1_are_scaled(tmp_path):
    grey = gradient()
    Image.fromarray((grey / 255).astype(np.float32)).save(tmp_path / "a.tif")
    found = np.asarray(load_image(tmp_path / "a.tif"), dtype=float)
    assert np.abs(found - grey[:, :, None]).max() <= 1


def test_transparent_images_are_composited_over_white(tmp_path):
    Image.new("RGBA", (5, 5), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").getpixel((2, 2)) == (255, 255, 255)


def test_exif_orientation_is_followed(tmp_path):
    image = Image.new("RGB", (8, 4))
    exif = image.getexif()
    exif[0x0112] = 6  # rotated by 90 degrees
    image.save(tmp_path / "a.jpg", exif=exif)
    assert load_image(tmp_path / "a.jpg").size == (4, 8)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp"])
def test_every_orientation_is_followed(orientation, kind, tmp_path):
    pixels = gradient(9, 5).astype(np.uint8)
    path, exif = tmp_path / f"a.{kind}", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).convert("RGB").save(path, exif=exif)
    with Image.open(path) as image:
        expected = ImageOps.exif_transpose(image)
    assert load_image(path).tobytes() == expected.tobytes()


def odd_exif(tag: int, kind: int) -> bytes:
    """EXIF data with an orientation, and with a tag of an unusual type."""
    fields = struct.pack("<HHIIHHII", 0x0112, 3, 1, 6, tag, kind, 1, 0x40400000)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + fields + bytes(4)


# A resolution of type text, a description of type float.
@pytest.mark.parametrize(("tag", "kind"), [(0x011A, 2), (0x010E, 11)])
def test_malformed_exif_fields_are_ignored(tag, kind, tmp_path):
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=odd_exif(tag, kind))
    assert load_image(tmp_path / "a.jpg").size == (4, 8)


def test_any_error_of_a_decoder_is_a_bad_image(tmp_path):
    """A TIFF file whose pixel offset is of type text."""
    file = io.BytesIO()
    Image.new("L", (8, 4)).save(file, "TIFF")
    usual, odd = struct.pack("<HHI", 273, 4, 1), struct.pack("<HHI", 273, 2, 1)
    assert usual in file.getvalue()
    (tmp_path / "a.tif").write_bytes(file.getvalue().replace(usual, odd))
    with pytest.raises(BadImageError, match="a.tif: not a readable image: "):
        load_image(tmp_path / "a.tif")
    item = RawImageDataset([Sample(tmp_path / "a.tif", 0, None)], eval_transform(28))[0]
    assert isinstance(item, BadImageError)


def bad_files(folder):
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("no image")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(
        folder / "whole.png"
    )
    data = (folder / "whole.png").read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    (folder / "whole.png").unlink()
    return ["empty.png", "text.jpg", "cut.png"]


def test_bad_images_are_named(tmp_path):
    for name in [*bad_files(tmp_path), "missing.png"]:
        with pytest.raises(BadImageError, match=rf"{name}: not a readable image: \S+"):
            load_image(tmp_path / name)


def test_transforms_give_the_input_size():
    image = Image.fromarray(gradient().astype(np.uint8)).convert("RGB")
    for transform in (train_transform(32), eval_transform(32), eval_transform(32, whole=True)):
        tensor = transform(image)
        assert tensor.shape == (3, 32, 32)
        assert tensor.dtype == torch.float32


def test_a_box_maps_back_to_the_image():
    # The center crop of 448 from the image resized to 512.
    assert box_in_original([0, 0, 448, 448], (1024, 512), 448) == [64, 32, 960, 480]
    assert box_in_original([0, 0, 96, 96], (300, 200), 96, whole=True) == [0, 0, 300, 200]


@pytest.mark.parametrize("whole", [False, True])
def test_a_box_maps_to_the_input_and_back(whole):
    box, size = (70, 35, 300, 160), (401, 223)
    in_input = box_in_input(box, size, 224, whole)
    assert box_in_original(list(in_input), size, 224, whole) == list(box)
    assert box_in_input((-5, -5, 500, 300), size, 224, whole) == (0, 0, 224, 224)


@pytest.mark.parametrize("image_size", [298, 299, 300, 302, 448])
def test_a_box_frames_the_same_pixels_in_the_input(image_size):
    """Also if the margin of the center crop is not an integer."""
    transform = eval_transform(image_size)
    side = transform.side
    image = Image.new("RGB", (side, side))
    image.paste((255, 255, 255), (100, 120, 200, 180))
    x1, y1, x2, y2 = map(int, transform.box((100, 120, 200, 180), (side, side)))
    white = transform(image)[0] > 0
    assert white[y1:y2, x1:x2].all() and white.sum() == 100 * 60


def test_a_box_outside_the_crop_has_no_area():
    assert box_in_input((0, 0, 10, 300), (512, 512), 448) == (0, 0, 0, 300 - 32)


@pytest.mark.parametrize("val", ["val", "test"])
def test_loaders_of_a_folder(tmp_path, val):
    make_tree(tmp_path, val=val)
    config = folder_config(tmp_path, batch_size=5)
    loader, classes = train_loader(config)
    assert classes == ["blue", "green", "red"]
    batches = list(loader)
    assert [len(batch.labels) for batch in batches] == [5, 5]  # the incomplete one is dropped
    batches = list(val_loader(config, classes))
    assert torch.cat([batch.labels for batch in batches]).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert batches[0].images.shape == (5, 3, 32, 32)


def test_a_bad_image_is_reported_not_raised(tmp_path):
    make_tree(tmp_path)
    bad_files(tmp_path / "train" / "red")
    for workers in (0, 1):
        loader, _ = train_loader(folder_config(tmp_path, batch_size=15, workers=workers))
        (batch,) = list(loader)
        assert len(batch.labels) == 12
        assert sorted(line.split(":")[0].split("/")[-1] for line in batch.bad) == [
            "cut.png",
            "empty.png",
            "text.jpg",
        ]


def test_validation_uses_the_training_labels(tmp_path):
    make_tree(tmp_path)
    shutil.rmtree(tmp_path / "val" / "blue")
    split = open_split(folder_config(tmp_path), "val", ["blue", "green", "red"])
    assert {sample.label for sample in split.samples} == {1, 2}
    assert split.classes == ["blue", "green", "red"]


def test_links_are_followed_and_hidden_files_are_skipped(tmp_path):
    red = make_tree(tmp_path / "tree") / "train" / "red"
    (red / "more.png").mkdir()  # a folder, whatever its name
    (red / "1.png").rename(red / "more.png" / "1.png")
    (red / "2.png").rename(tmp_path / "2.png")
    (red / "2.png").symlink_to(tmp_path / "2.png")
    (tmp_path / "elsewhere").mkdir()
    (red / "3.png").rename(tmp_path / "elsewhere" / "3.png")
    (red / "linked").symlink_to(tmp_path / "elsewhere")
    for hidden in (red, red.parent):
        (hidden / ".ipynb_checkpoints").mkdir()
        shutil.copy(red / "0.png", hidden / ".ipynb_checkpoints" / "0-checkpoint.png")
    (red / "._0.png").write_bytes(b"\0\5\x16\7")
    samples, classes = open_split(folder_config(tmp_path / "tree"), "train")
    assert classes == ["blue", "green", "red"]
    files = [str(sample.source.relative_to(red)) for sample in samples if sample.label == 2]
    assert files == ["0.png", "2.png", "linked/3.png", "more.png/1.png"]


def test_each_real_folder_is_read_once(tmp_path):
    root = make_tree(tmp_path)
    red = root / "train" / "red"
    for index, target in enumerate((".", ".", "..", "../..", "../blue", red)):
        (red / f"link{index}").symlink_to(target)
    (red / "deep").mkdir()
    (red / "deep" / "up").symlink_to("..")
    (red / "deep" / "4.png").symlink_to("../0.png")
    (red / "again").symlink_to("deep")
    (red / "broken").symlink_to("nowhere")
    (red / "itself").symlink_to("itself")
    samples, classes = open_split(folder_config(root), "train")
    assert classes == ["blue", "green", "red"]
    files = [str(sample.source.relative_to(red)) for sample in samples if sample.label == 2]
    assert files == ["0.png", "1.png", "2.png", "3.png", "again/4.png"]
    (red.parent / "rouge").symlink_to("red")
    with pytest.raises(UserError, match="the classes red and rouge are links to one folder"):
        open_split(folder_config(root), "train")


def test_a_fifo_or_a_device_as_an_image_is_refused_at_once(tmp_path):
    red = make_tree(tmp_path) / "train" / "red"
    os.mkfifo(red / "fifo.png")
    (red / "zero.jpg").symlink_to("/dev/zero")
    os.mkfifo(red / "nosuffix")
    loader, _ = train_loader(folder_config(tmp_path, batch_size=14))
    (batch,) = loader
    assert len(batch.labels) == 12
    assert sorted(batch.bad) == [
        f"{red}/fifo.png: not a readable image: is no regular file but a FIFO",
        f"{red}/zero.jpg: not a readable image: is no regular file but a device",
    ]


def test_more_pixels_than_allowed_are_refused_by_the_header(tmp_path):
    """The file holds no pixels: decoding would fail otherwise."""
    path = tmp_path / "a.png"
    Image.new("L", (50, 40)).save(path)
    head = path.read_bytes()[:60]
    path.write_bytes(head[:16] + struct.pack(">II", 20_000, 9_000) + head[24:29])
    head = path.read_bytes()
    path.write_bytes(
        head + struct.pack(">I", zlib.crc32(head[12:29])) + struct.pack(">I", 9) + b"IDAT"
    )
    with pytest.raises(
        BadImageError, match="its 20000 x 9000 pixels are more than --max-pixels 178"
    ):
        load_image(path)
    with pytest.raises(BadImageError, match="more than twice as many pixels as --max-pixels 1000"):
        load_image(path, 1000)
    with pytest.raises(BadImageError, match="truncated|unrecognized|broken"):
        load_image(path, 180_000_000)


def test_the_limit_is_an_option_of_train_and_of_loading(tmp_path):
    make_tree(tmp_path)
    for decode, kind in (("cpu", ImageDataset), ("gpu", RawImageDataset)):
        samples, _ = open_split(folder_config(tmp_path), "train")
        config = folder_config(tmp_path, max_pixels=1599, decode=decode)
        assert isinstance(_image_dataset(config, samples, eval_transform(28)), kind)
        item = _image_dataset(config, samples, eval_transform(28))[0]
        assert "its 40 x 40 pixels are more than --max-pixels 1599" in str(item)
        config = folder_config(tmp_path, max_pixels=1600, decode=decode)
        assert not isinstance(_image_dataset(config, samples, eval_transform(28))[0], BadImageError)
    with pytest.raises(UserError, match="--max-pixels must be at least 1"):
        folder_config(tmp_path, max_pixels=0)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F", "RGBA", "LA", "P"])
def test_a_conversion_in_strips_has_the_same_bits(mode, tmp_path, monkeypatch):
    grey = gradient(37, 40)
    image = Image.fromarray(grey.astype(np.uint8)).convert("P" if mode == "P" else "L")
    if mode in ("RGBA", "LA"):
        image = image.convert(mode)
        image.putalpha(Image.fromarray(grey.T.reshape(grey.shape).astype(np.uint8)))
    elif mode != "P":
        types = {"I;16": np.uint16, "I;16B": ">u2", "I": np.int32, "F": np.float32}
        image = Image.fromarray((grey * 200).astype(types[mode]))
    options = {"transparency": 3} if mode == "P" else {}
    path = tmp_path / ("a.png" if mode == "P" else "a.tif")
    image.save(path, **options)
    whole = load_image(path)
    monkeypatch.setattr("wsdan.data.images.STRIP", 37 * 7)
    assert load_image(path).tobytes() == whole.tobytes()
    assert len(np.unique(whole)) > 30


def test_the_memory_of_a_conversion_is_bounded(tmp_path):
    """A small file of many 16-bit pixels: float64 copies of all of them took 30 bytes a pixel."""
    Image.new("I;16", (2400, 2400), 4000).save(tmp_path / "a.png")
    tracemalloc.start()
    assert load_image(tmp_path / "a.png").getpixel((0, 0)) == (15, 15, 15)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * 2400 * 2400


def test_wrong_folders(tmp_path):
    with pytest.raises(UserError, match="--root: no such folder: .*nowhere"):
        open_split(folder_config(tmp_path / "nowhere"), "train")
    with pytest.raises(UserError, match="has no val/ or test/ folder"):
        open_split(folder_config(tmp_path), "val")
    config = folder_config(make_tree(tmp_path / "tree"))
    train = tmp_path / "tree" / "train"
    (train / "void").mkdir()
    with pytest.raises(UserError, match=r"train/void: the class folder holds no image"):
        open_split(config, "train")
    (train / "void").rmdir()
    with pytest.raises(UserError, match="class 'green' is not among the training classes"):
        open_split(config, "val", ["blue", "red"])
    for name in ("blue", "green", "red"):
        shutil.rmtree(tmp_path / "tree" / "val" / name)
    with pytest.raises(UserError, match="tree/val: holds no image"):
        open_split(config, "val", ["blue", "green", "red"])
    for name in ("green", "red"):
        shutil.rmtree(train / name)
    with pytest.raises(UserError, match="at least two classes are needed; found 1"):
        open_split(config, "train")
