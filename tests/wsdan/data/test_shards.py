"""WebDataset shards: their samples, and a one-line error for each mistake."""

import shutil

import pytest
import trees
from trees import COLOURS, colour_of, config_of, encoded, error_of, make_shard, write

from wsdan.data.loaders import train_loader
from wsdan.data.splits import open_split

PNG = encoded("red")


def test_labels_of_shards_as_indices(tmp_path):
    write(tmp_path / "classes.txt", ["blue", "green", "red", "unseen"])
    kinds = {"jpg": "JPEG", "PNG": "PNG", "webp": "WEBP"}
    members = {}
    for index, (kind, name) in enumerate(kinds.items()):
        members[f"{index}.{kind}"] = encoded(list(COLOURS)[index], name)
        label = b"blue" if index == 0 else b'{"label": 1}' if index == 1 else b"2"
        members[f"{index}.{'json' if index == 1 else 'cls'}"] = label
    make_shard(tmp_path / "train.tar", members)
    samples, classes = open_split(config_of("webdataset", tmp_path), "train")
    assert classes == ["blue", "green", "red", "unseen"]
    assert [sample.label for sample in samples] == [0, 1, 2]
    assert [colour_of(sample) for sample in samples] == list(COLOURS)


@pytest.mark.parametrize("first", ["a.json", "a.cls"])
def test_a_label_file_takes_precedence_over_json_and_other_images_are_ignored(first, tmp_path):
    labels = {"a.json": b'{"width": 30}', "a.cls": b"x"}
    members = {first: labels.pop(first), "a.png": PNG, **labels, "a.mask.png": PNG}
    make_shard(tmp_path / "train.tar", {**members, "b.png": PNG, "b.cls": b"y"})
    write(tmp_path / "train.tar.md5", ["0"])
    samples, classes = open_split(config_of("webdataset", tmp_path), "train")
    assert classes == ["x", "y"]
    assert [sample.source.name for sample in samples] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("members", "text"),
    [
        (
            {"a.png": PNG, "a.cls": b"3"},
            "train.tar/a: the label must be in 0..2 or a name of class",
        ),
        ({"a.png": PNG, "a.cls": b"-1"}, "must be in 0..2 or a name of classes.txt; got -1"),
        ({"a.png": PNG, "a.cls": b" "}, "train.tar/a.cls: the label must be a number or a name"),
        ({"a.png": PNG, "a.cls": b"\xff"}, "train.tar/a.cls: holds no label"),
        ({"a.png": PNG, "a.json": b"[]"}, "train.tar/a.json: holds no label"),
        ({"a.png": PNG, "a.json": b'{"label": 1.5}'}, "a number or a name; got 1.5"),
        ({"a.png": PNG}, "train.tar/a: the sample has no label (.cls or .json)"),
        ({"a.cls": b"1"}, "train.tar/a: the sample has no image"),
        ({"a.png": PNG, "a.jpg": PNG, "a.cls": b"1"}, "train.tar/a: a sample must have one image"),
        ({"a.txt": b""}, "train of {root}: holds no image"),
        (
            {"a.png": PNG, "a.cls": b"1", "img.2.JPG": PNG, "img.2.cls": b"2"},
            "train.tar/img.2.JPG: a key ends at the first dot of the name, and the sample 'img'",
        ),
    ],
)
def test_wrong_samples_of_shards(members, text, tmp_path):
    write(tmp_path / "classes.txt", list(COLOURS))
    make_shard(tmp_path / "train.tar", members)
    assert text.format(root=tmp_path) in error_of(config_of("webdataset", tmp_path))


def test_wrong_shards(tmp_path):
    trees.make_shards(tmp_path)
    config = config_of("webdataset", tmp_path)
    whole = (tmp_path / "train-001.tar").read_bytes()
    # Cut in a header, in an image, and before the end of the last file.
    for size in (100, 700, len(whole.rstrip(b"\0")) - 3):
        (tmp_path / "train-001.tar").write_bytes(whole[:size])
        assert "train-001.tar: not an uncompressed, whole tar file" in error_of(config)
    (tmp_path / "train-001.tar").rename(tmp_path / "train-001.tar.gz")
    assert "must be uncompressed .tar files; got " in error_of(config)
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    assert f"{tmp_path} has no train*.tar" in error_of(config)
    assert f"{tmp_path} has no val*.tar or test*.tar" in error_of(config, "val", ["a", "b"])


def test_a_damaged_image_of_a_shard_is_named(tmp_path):
    members = {"a.png": PNG, "a.cls": b"x", "b.png": PNG[: len(PNG) // 2], "b.cls": b"y"}
    make_shard(tmp_path / "train.tar", members)
    (batch,) = train_loader(config_of("webdataset", tmp_path))[0]
    assert len(batch.labels) == 1
    assert batch.bad[0].startswith(f"{tmp_path}/train.tar/b.png: not a readable image: ")
