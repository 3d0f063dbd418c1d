"""--decode gpu, run on the CPU: the same inputs as with --decode cpu."""

import numpy as np
import pytest
import torch
from PIL import Image

from wsdan.config import Config
from wsdan.constants import IMAGENET_STD
from wsdan.data import loaders
from wsdan.data.images import BadImageError
from wsdan.data.loaders import train_loader, val_loader
from wsdan.data.synthetic import CLASSES as SYNTHETIC_CLASSES
from wsdan.errors import UserError

CLASSES = ["a", "b"]


def make_images(root):
    """Two classes of slanted gradients: RGB, grey and rotated JPEG files, and a PNG file."""
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"rgb.jpg": {}, "grey.jpg": {}, "rotated.jpg": {"exif": exif}, "plain.png": {}}
    for split in ("train", "val"):
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for file, saved in options.items():
                x, y = np.meshgrid(np.linspace(0, 1, 90), np.linspace(0, 1, 70))
                pixels = np.stack([x, y, (x + label * y) / 2], -1) * 200 + 20
                image = Image.fromarray(pixels.astype(np.uint8))
                image = image.convert("L") if file == "grey.jpg" else image
                image.save(folder / file, quality=95, **saved)
    return root


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setattr(loaders, "DECODER", torch.device("cpu"))
    return make_images(tmp_path)


def config_of(tree, decode="gpu", workers=0) -> Config:
    return Config(
        data="folder", root=str(tree), image_size=28, batch_size=8, decode=decode, workers=workers
    ).resolved()


def bytes_apart(one, other) -> float:
    """The mean difference of two batches' images in steps of 1/255."""
    scale = 255 * torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    return float(((one.images - other.images) * scale).abs().mean())


@pytest.mark.parametrize("workers", [0, 2])
def test_inputs_equal_those_of_decode_cpu(workers, tree):
    for split in ("train", "val"):
        batches = []
        for decode in ("cpu", "gpu"):
            config = config_of(tree, decode, workers)
            loader = train_loader(config)[0] if split == "train" else val_loader(config, CLASSES)
            batches.append(list(loader))
        for one, other in zip(*batches, strict=True):
            assert type(other.images) is torch.Tensor
            assert one.names == other.names
            assert torch.equal(one.labels, other.labels)
            assert torch.equal(one.uniforms, other.uniforms)
            assert torch.equal(one.boxes.isnan(), other.boxes.isnan())
            assert bytes_apart(one, other) < 1
            # A crop shifted by one pixel would differ by more.
            shifted = other.images.roll(1, -1)
            other.images[..., 1:] = shifted[..., 1:]
            assert bytes_apart(one, other) > 2


def test_another_epoch_has_other_crops(tree):
    loader, _ = train_loader(config_of(tree))
    assert len(loader) == 1
    (first,), (again,) = list(loader), list(loader)
    assert torch.equal(first.images, again.images)
    loader.batch_sampler.set_epoch(1)
    (other,) = list(loader)
    assert not torch.equal(first.images, other.images)


def test_the_runs_generator_is_not_advanced(tree):
    before = torch.get_rng_state()
    list(train_loader(config_of(tree))[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_damaged_files_are_named(tree):
    folder = tree / "train" / "a"
    whole = (folder / "rgb.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("no image")
    (folder / "cut.png").write_bytes((folder / "plain.png").read_bytes()[:200])
    config = Config(**{**vars(config_of(tree)), "batch_size": 11})
    (batch,) = list(train_loader(config)[0])
    assert len(batch.labels) == 8
    names = sorted(line.split(": not a readable image: ")[0] for line in batch.bad)
    assert names == [str(folder / name) for name in ("cut.jpg", "cut.png", "text.jpg")]
    assert all("\n" not in line for line in batch.bad)


def test_a_batch_of_damaged_files_is_empty(tree):
    config = config_of(tree)
    for path in tree.rglob("val/*/*"):
        path.write_bytes(b"")
    (batch,) = list(val_loader(config, CLASSES))
    assert len(batch.labels) == 0
    assert len(batch.bad) == 8


def test_a_missing_file_is_a_bad_image(tree):
    loader = val_loader(config_of(tree), CLASSES)
    (tree / "val" / "a" / "rgb.jpg").unlink()
    (batch,) = list(loader)
    assert batch.bad == [
        str(BadImageError(f"{tree}/val/a/rgb.jpg: not a readable image: no such file"))
    ]


def test_out_of_memory_is_not_a_damaged_file(tree, monkeypatch):
    def full(*arguments):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr("torchvision.io.decode_jpeg", full)
    with pytest.raises(torch.OutOfMemoryError):
        list(val_loader(config_of(tree), CLASSES))


def test_cache_and_decode_exclude_each_other(tree):
    with pytest.raises(UserError, match="--cache and --decode gpu exclude each other"):
        Config(data="folder", root=str(tree), decode="gpu", cache="ram").resolved()


@pytest.mark.parametrize("way", ["plain", "cached", "gpu"])
def test_the_size_and_the_index_of_each_original_are_known(way, tree):
    """Upright, of cached images too; an unreadable image leaves a gap in the indices."""
    (tree / "val" / "a" / "grey.jpg").write_bytes(b"")
    config = config_of(tree, decode="gpu" if way == "gpu" else "cpu")
    config = Config(**{**vars(config), "cache": "ram" if way == "cached" else None})
    loader = val_loader(config, CLASSES)
    for _ in range(2 if way == "cached" else 1):
        (batch,) = list(loader)
        sizes = {
            name.split("/")[-1]: size for name, size in zip(batch.names, batch.sizes, strict=True)
        }
        assert sizes == {"plain.png": (90, 70), "rgb.jpg": (90, 70), "grey.jpg": (90, 70),
                         "rotated.jpg": (70, 90)}  # fmt: skip
        assert batch.indices == [1, 2, 3, 4, 5, 6, 7]
        assert batch.names[0].endswith("a/plain.png") and batch.names[3].endswith("b/grey.jpg")


def test_synthetic_images_have_their_own_size(monkeypatch):
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 3)
    config = Config(image_size=40, batch_size=2).resolved()
    batches = list(val_loader(config, list(SYNTHETIC_CLASSES)))
    assert [batch.sizes for batch in batches] == [[(40, 40)] * 2, [(40, 40)]]
    assert [batch.indices for batch in batches] == [[0, 1], [2]]
