"""The cache: the same bits as without it, and no damaged record is used."""

import os
import pickle
import shutil
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from torch.utils.data import ConcatDataset, DataLoader
from trees import make_shards, make_tree

import wsdan.data.cache
from wsdan.config import Config
from wsdan.data.cache import cache_folder, open_cache, record_bytes
from wsdan.data.images import ImageDataset, load_image
from wsdan.data.splits import open_split
from wsdan.data.transforms import eval_transform, train_transform
from wsdan.distributed import process_group
from wsdan.errors import UserError

CACHES = ("ram", "disk")


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A folder of images, with a folder for caches next to it."""
    monkeypatch.setenv("WSDAN_CACHE_DIR", str(tmp_path / "cache"))
    return make_tree(tmp_path / "tree")


def config_of(tree, cache=None) -> Config:
    return Config(data="folder", root=str(tree), image_size=28, cache=cache).resolved()


def open_images(tree, cache, transform) -> ImageDataset:
    config = config_of(tree, cache)
    samples, _ = open_split(config, "train")
    return ImageDataset(samples, transform, open_cache(config, samples, transform.side))


class SeededPerIndex(torch.utils.data.Dataset):
    """Each access draws the same random numbers, whichever process makes it."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        torch.manual_seed(index)
        return self.images[index].image


def images_of(images, workers, context=None) -> torch.Tensor:
    loader = DataLoader(
        SeededPerIndex(images), 5, num_workers=workers, multiprocessing_context=context or None
    )
    return torch.cat(list(loader))


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("make", [train_transform, eval_transform])
def test_cached_images_have_the_same_bits(cache, workers, make, tree, monkeypatch):
    plain = images_of(open_images(tree, None, make(28)), workers=0)
    images = open_images(tree, cache, make(28))
    assert torch.equal(images_of(images, workers), plain)
    shutil.rmtree(tree)  # from now on there is only the cache
    assert torch.equal(images_of(images, workers), plain)


@pytest.mark.slow
def test_a_spawned_worker_shares_the_caches(tree):
    """One worker for both kinds, as it has to import everything."""
    both = ConcatDataset([open_images(tree, cache, eval_transform(28)) for cache in CACHES])
    plain = images_of(both, workers=0)
    shutil.rmtree(tree)
    assert torch.equal(images_of(both, 1, "spawn"), plain)


def test_an_image_is_decoded_once(tree, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        "wsdan.data.images.load_image",
        lambda source, limit, **how: loaded.append(source) or load_image(source, limit, **how),
    )
    images = open_images(tree, "disk", train_transform(28))
    one, two = images[3], images[3]
    assert len(loaded) == 1
    assert not torch.equal(one.image, two.image)  # the random transforms differ
    again = open_images(tree, "disk", train_transform(28))  # as the next run does
    assert again.cache.path == images.cache.path
    assert again[3].name == one.name
    assert len(loaded) == 1


def test_the_original_size_is_cached(tree):
    images = open_images(tree, "ram", eval_transform(28))
    sample = images.samples[0]._replace(box=(10.0, 10.0, 30.0, 20.0))
    images.samples[0] = sample
    first, cached = images[0], images[0]
    assert images.cache.get(0)[1] == (40, 40)
    assert first.box == cached.box == pytest.approx((6, 6, 22, 14))


def test_other_images_have_another_cache(tree):
    config = config_of(tree, "disk")
    samples, _ = open_split(config, "train")
    paths = {open_cache(config, samples, 32).path}
    paths.add(open_cache(config, samples, 33).path)
    paths.add(open_cache(config, samples[1:], 32).path)
    os.utime(samples[0].source, (1, 1))
    paths.add(open_cache(config, samples, 32).path)
    samples[0].source.write_bytes(samples[1].source.read_bytes())
    os.utime(samples[0].source, (1, 1))
    paths.add(open_cache(config, samples, 32).path)
    assert len(paths) == 5
    assert open_cache(config, samples, 32).path in paths
    assert cache_folder() == tree.parent / "cache"


def test_images_of_shards_are_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("WSDAN_CACHE_DIR", str(tmp_path / "cache"))
    make_shards(tmp_path)
    config = Config(data="webdataset", root=str(tmp_path), image_size=28, cache="disk").resolved()
    samples, _ = open_split(config, "train")
    images = ImageDataset(samples, eval_transform(28), open_cache(config, samples, 32))
    first, path = [item.image for item in images], images.cache.path
    monkeypatch.setattr("wsdan.data.images.load_image", None)
    assert all(map(torch.equal, first, [item.image for item in images]))
    assert open_cache(config, samples, 32).path == path
    moved = samples[0].source._replace(offset=samples[0].source.offset + 512)
    assert open_cache(config, [samples[0]._replace(source=moved), *samples[1:]], 32).path != path


@pytest.mark.parametrize("cache", CACHES)
def test_a_damaged_record_is_not_used(cache, tree):
    images = open_images(tree, cache, eval_transform(28))
    plain = [images[index].image for index in range(3)]
    cached, size = images.cache, record_bytes(32)
    descriptor = cached.file.fileno()
    record = os.pread(descriptor, size, size)
    for damaged in (
        record[:-1] + bytes([record[-1] ^ 1]),  # a bit of the last pixel
        record[: size // 2] + bytes(size - size // 2),  # half of the bytes
        bytes(12) + record[12:],  # no header yet
        record[:4] + b"\1" + record[5:],  # another size
    ):
        os.pwrite(descriptor, damaged, size)
        assert cached.get(1) is None
        assert torch.equal(images[1].image, plain[1])
        assert cached.get(1) is not None
    assert cached.get(0) is not None
    os.ftruncate(descriptor, 2 * size + 5)
    assert cached.get(2) is None
    assert torch.equal(images[2].image, plain[2])


@pytest.mark.parametrize("cache", CACHES)
def test_an_interrupted_write_is_not_used(cache, tree, monkeypatch):
    images = open_images(tree, cache, eval_transform(28))
    write = os.pwrite

    def killed(descriptor, record, offset):
        write(descriptor, record[: len(record) // 2], offset)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", killed)
        with pytest.raises(KeyboardInterrupt):
            images[0]
    plain = open_images(tree, None, eval_transform(28))[0].image
    assert torch.equal(images[0].image, plain)
    assert torch.equal(images[0].image, plain)  # from the cache


def test_a_full_disk_does_not_end_the_run(tree, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    images = open_images(tree, "disk", eval_transform(28))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.warns(UserWarning, match="--cache: cannot write to .*: No space left"):
            image = images[0].image
    assert images.cache.get(0) is None
    assert torch.equal(images[0].image, image)
    assert images.cache.get(0) is not None


@pytest.mark.parametrize("cache", CACHES)
def test_too_little_space_is_one_line_before_the_run(cache, tree, monkeypatch):
    monkeypatch.setattr(wsdan.data.cache, "free_memory", lambda: 30_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=30_000))
    where = "ram: memory" if cache == "ram" else f"disk: {tree.parent}/cache"
    needed = 12 * record_bytes(32)
    text = f"--cache {where} has 0.00 GB \\(30000 bytes\\) free; the images need .*{needed} bytes"
    with pytest.raises(UserError, match=text):
        open_images(tree, cache, eval_transform(28))


@pytest.mark.parametrize("cache", CACHES)
def test_space_that_cannot_be_reserved_is_one_line(cache, tree, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=f"--cache {cache}: .* bytes\\).*: No space left on device"):
        open_images(tree, cache, eval_transform(28))


def test_a_folder_that_cannot_be_written_is_one_line(tree, monkeypatch):
    (tree.parent / "file").write_text("")
    monkeypatch.setenv("WSDAN_CACHE_DIR", str(tree.parent / "file" / "cache"))
    with pytest.raises(UserError, match="--cache disk: cannot reserve .*: Not a directory"):
        open_images(tree, "disk", eval_transform(28))


def test_a_full_file_is_not_checked_for_space_again(tree, monkeypatch):
    open_images(tree, "disk", eval_transform(28))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    assert open_images(tree, "disk", eval_transform(28))[0].label == 0


def test_memory_is_freed(tree):
    cache = open_images(tree, "ram", eval_transform(28)).cache
    copy = pickle.loads(pickle.dumps(cache))
    path = cache.path
    del cache
    assert not os.path.exists(path)
    assert copy.get(0) is None  # still holds the memory


def share_a_cache(rank: int, config: Config) -> None:
    """The second rank loads the first image; then both have it and no other."""
    with process_group(torch.device("cpu")):
        samples, _ = open_split(config, "train")
        cache = open_cache(config, samples, 32)
        if rank == 1:
            ImageDataset(samples, eval_transform(28), cache)[0]
        dist.barrier()
        assert cache.get(0) is not None
        assert cache.get(1) is None
        dist.barrier()


def test_ranks_of_a_machine_share_one_cache(tree):
    run_ranks(share_a_cache, config_of(tree, "ram"))
