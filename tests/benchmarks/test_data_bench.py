"""The benchmark of data loading."""

import json
import os
import re
import time

import data_bench
import pytest
import torch
from PIL import Image

from wsdan.config import Config
from wsdan.data import images

PARTS = {
    "read and decode", "resize", "RandomCrop", "RandomHorizontalFlip", "ColorJitter", "ToImage",
    "contiguous", "ToDtype", "Normalize", "collate", "seeding and the rest",
}  # fmt: skip


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_images_are_like_photographs(tmp_path):
    data_bench.make_tree(tmp_path, 3)
    files = sorted((tmp_path / "train").rglob("*.jpg"))
    assert [path.parent.name for path in files] == ["a", "a", "b"]
    for path in files:
        assert 50e3 < path.stat().st_size < 100e3
        assert Image.open(path).size == (500, 375)


@pytest.mark.slow
def test_all_ways_to_load_are_measured(tmp_path, capsys):
    options = ["--images", "8", "--batch", "4", "--image-size", "64"]
    assert data_bench.main([*options, "--json", str(tmp_path / "it.json")]) == 0
    content = json.loads((tmp_path / "it.json").read_text())
    ways = [(row["cache"], row["workers"]) for row in content["rows"]]
    assert ways == [(cache, workers) for cache in (None, "ram") for workers in (0, 1, 2)]
    for row in content["rows"]:
        assert row["images_per_s"] > 0
        assert row["cores"] == pytest.approx(600 * row["cpu_ms"] / 1e3)
        assert row["images_per_s_and_core"] == pytest.approx(1e3 / row["cpu_ms"])
    assert set(content["parts_ms"]) == PARTS
    assert content["parts_ms"]["read and decode"] > 0.1
    printed = capsys.readouterr().out
    assert printed.startswith("8 images of ")
    assert len(re.findall(r"^ +(?:none|ram) +[012] ", printed, re.MULTILINE)) == 6


def test_the_cache_holds_all_images_before_an_epoch_is_timed(tmp_path, monkeypatch):
    loaded, before = [], []
    load, epoch = images.load_image, data_bench._epoch

    def counted(file, *limit, **how):
        loaded.append(file)
        return load(file, *limit, **how)

    monkeypatch.setattr(images, "load_image", counted)

    def noted(batches, number):
        before.append(len(loaded))
        return epoch(batches, number)

    monkeypatch.setattr(data_bench, "_epoch", noted)
    data_bench.make_tree(tmp_path, 10)
    config = Config("folder", str(tmp_path), batch_size=4, image_size=32, workers=0, cache="ram")
    data_bench.measure(config.resolved())
    assert before[-1] == len(loaded) == 10


def test_the_processors_time_of_other_processes_counts():
    child = data_bench.multiprocessing.get_context("fork").Process(target=_busy, daemon=True)
    child.start()
    try:
        end = time.monotonic() + 30
        while data_bench.cpu_seconds()[child.pid] < 0.1:
            assert time.monotonic() < end
    finally:
        child.terminate()
        child.join()
    before = data_bench.cpu_seconds()
    sum(range(10**6))
    after = data_bench.cpu_seconds()
    assert child.pid not in before and after[os.getpid()] > before[os.getpid()]


def _busy() -> None:
    while True:
        pass


def test_a_tree_of_ones_own_and_what_is_wrong_with_it(tmp_path, capsys):
    with pytest.raises(SystemExit):
        data_bench.main(["--root", str(tmp_path / "nowhere")])
    assert "--root: no such folder" in capsys.readouterr().err
    data_bench.make_tree(tmp_path, 4)
    (tmp_path / "train/a/9.jpg").write_bytes(b"no image")
    with pytest.raises(SystemExit):
        data_bench.main(["--root", str(tmp_path), "--batch", "5", "--image-size", "32"])
    assert "9.jpg: not a readable image" in capsys.readouterr().err
