"""WebDataset shards: their samples, and a one-line error for each mistake."""

import os
import shutil
import tarfile

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
        ({"a.png": PNG, "a.json": b"[" * 100_000}, "train.tar/a.json: holds no label"),
        ({"a.png": PNG, "a.json": b'{"label": ' + b"[" * 5000 + b"]" * 5000 + b"}"}, "a.json: "),
        ({"a.png": PNG, "a.json": b'{"label": ' + b"9" * 5000 + b"}"}, "a.json: holds no label"),
        (
            {"a.png": PNG, "a.json": b'{"label": ' + b"[" * 900 + b"]" * 900 + b"}"},
            "train.tar/a.json: ",
        ),
        ({"a.png": PNG, "a.json": b'{"label": {"a": 1}}'}, "a number or a name; got a dict"),
        ({"a.png": PNG, "a.json": b'{"label": 1e999}'}, "a number or a name; got inf"),
        ({"a.png": PNG, "a.json": b'{"label": "\\ud800"}'}, "a number or a name; got '\\ud800'"),
        ({"a.png": PNG, "a.cls": b"9" * 5000}, "... (5002 characters)"),
        (
            {"a.png": PNG, "a.cls": b"x" * (1 << 21)},
            "a.cls: 2097152 bytes are too many for a label",
        ),
        ({"a.png": PNG, "a.cls": b"one\ntwo"}, "a number or a name; got 'one\\ntwo'"),
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


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE, **fields) -> bytes:
    """One header, of any size, with the right checksum."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT if size < 0 or size >= 8**11 else tarfile.USTAR_FORMAT)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % tarfile.BLOCKSIZE)


def pax(**values: str) -> bytes:
    """An extended header."""
    records = b""
    for key, value in values.items():
        record = f" {key}={value}\n".encode()
        length = len(record) + len(str(len(record) + 2))
        records += str(length).encode() + record
    return header("pax", len(records), tarfile.XHDTYPE) + padded(records)


SAMPLES = 6
SAMPLE = 512 + len(padded(PNG)) + 1024  # bytes of a sample: an image and its label


def write_samples(path) -> bytearray:
    """A shard of SAMPLES samples N.png and N.cls, with the classes x and y."""
    members = {}
    for index in range(SAMPLES):
        members |= {f"{index}.png": PNG, f"{index}.cls": b"xy"[index % 2 : index % 2 + 1]}
    make_shard(path, members)
    return bytearray(path.read_bytes())


def damaged(tmp_path, content: bytes, capsys) -> tuple[str, list[str], str]:
    """The error of a damaged shard; with --skip-bad-images, the names left and the warning."""
    (tmp_path / "train.tar").write_bytes(content)
    error = error_of(config_of("webdataset", tmp_path))
    capsys.readouterr()
    samples, _ = open_split(config_of("webdataset", tmp_path, skip_bad_images=True), "train")
    return error, [sample.source.name for sample in samples], capsys.readouterr().err


@pytest.mark.parametrize("sample", [0, 1, SAMPLES - 1])
@pytest.mark.parametrize("label", [False, True], ids=["image", "label"])
def test_a_flipped_bit_in_a_header_is_damage(sample, label, tmp_path, capsys):
    """tarfile takes it for the end: the samples behind it would be lost in silence."""
    content = write_samples(tmp_path / "train.tar")
    offset = sample * SAMPLE + (SAMPLE - 1024 if label else 0)
    content[offset + 120] ^= 1
    error, left, warning = damaged(tmp_path, content, capsys)
    assert f"train.tar: not an uncompressed, whole tar file: at offset {offset}: bad check" in error
    assert error.endswith("(--skip-bad-images goes on with what is whole)")
    assert left == [f"{index}.png" for index in range(SAMPLES) if index != sample]
    assert "of at least 1 samples a part is lost, 5 are whole" in warning


@pytest.mark.parametrize("kept", [3 * SAMPLE, 3 * SAMPLE + 200, 3 * SAMPLE + 600, SAMPLES * SAMPLE])
def test_a_shard_without_its_end_is_damage(kept, tmp_path, capsys):
    """Cut at a member, in its header, in its content, and before the end marker."""
    content = write_samples(tmp_path / "train.tar")
    error, left, warning = damaged(tmp_path, content[:kept], capsys)
    assert (
        f"train.tar: not an uncompressed, whole tar file: at offset {kept // SAMPLE * SAMPLE}"
        in (error)
    )
    assert left == [f"{index}.png" for index in range(kept // SAMPLE)]
    assert "train.tar" in warning


def test_a_cut_in_the_last_padding_and_zeros_in_the_middle_are_damage(tmp_path, capsys):
    content = write_samples(tmp_path / "train.tar")
    end = SAMPLES * SAMPLE - 511
    error, left, _ = damaged(tmp_path, content[:end], capsys)
    assert f"at offset {end}: the file ends without the archive's end marker" in error
    assert len(left) == SAMPLES
    content[2 * SAMPLE : 2 * SAMPLE + 512] = bytes(512)
    error, left, _ = damaged(tmp_path, content, capsys)
    assert f"at offset {2 * SAMPLE}: a block of zeros, and data behind it" in error
    assert left == ["0.png", "1.png", "3.png", "4.png", "5.png"]


@pytest.mark.parametrize(
    "planted",
    [
        header("big.png", 2**87),
        header("big.png", 2**62),
        header("big.png", 10**9),
        header("negative.png", -1024),
        header("pax", 2**40, tarfile.XHDTYPE),
        header("long", 10**5, tarfile.GNUTYPE_LONGNAME) + bytes(10**5 + 352),
        pax(size=str(10**20)) + header("a.png", 0),
        pax(size="many") + header("a.png", 0),
        pax(size="-512") + header("a.png", 0),
        pax(size="9" * 5000) + header("a.png", 0),
        pax(**{"GNU.sparse.map": "0,a"}) + header("a.png", 0),
        pax(**{"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}) + header("a.png", 0),
        header("sparse.png", 0, tarfile.GNUTYPE_SPARSE),
        pax(comment="x") * 400,
    ],
    ids=range(14),
)
def test_impossible_sizes_and_extended_headers_are_damage(planted, tmp_path, capsys):
    content = write_samples(tmp_path / "train.tar")
    content[SAMPLE:SAMPLE] = planted
    error, left, _ = damaged(tmp_path, content, capsys)
    assert f"{tmp_path}/train.tar: not an uncompressed, whole tar file: at offset " in error
    assert len(error) < 400 + len(str(tmp_path))
    assert {"0.png", "2.png", "3.png", "4.png", "5.png"} <= set(left)


def test_pax_numbers_that_nothing_uses_do_no_harm(tmp_path):
    content = write_samples(tmp_path / "train.tar")
    content[SAMPLE:SAMPLE] = pax(uid=str(10**20), mtime="yesterday")
    (tmp_path / "train.tar").write_bytes(content)
    assert len(open_split(config_of("webdataset", tmp_path), "train").samples) == SAMPLES


@pytest.mark.parametrize("name", ["train-000.tar", "classes.txt"])
def test_a_fifo_among_shards_is_refused_at_once(name, tmp_path):
    trees.make_shards(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    assert error_of(config_of("webdataset", tmp_path)).endswith(
        f"{tmp_path / name}: is no regular file but a FIFO"
    )


def test_images_of_every_suffix_in_shards(tmp_path, capsys):
    kinds = {"jfif": "JPEG", "jp2": "JPEG2000", "gif": "GIF"}
    members = {}
    for index, (kind, name) in enumerate(kinds.items()):
        members |= {
            f"{index}.{kind}": encoded("red", name),
            f"{index}.cls": b"xy"[:1] * (1 + index),
        }
        members |= {f"{index}.txt": b"caption", f"{index}.heic": b"", f"README{index}": b""}
    make_shard(tmp_path / "train.tar", members)
    samples, _ = open_split(config_of("webdataset", tmp_path), "train")
    assert [sample.source.name for sample in samples] == ["0.jfif", "1.jp2", "2.gif"]
    assert [colour_of(sample) for sample in samples] == ["red"] * 3
    warning = capsys.readouterr().err
    assert "left out, which are no images for Pillow: 9, of which no suffix 3, .heic 3, .txt" in (
        warning
    )
    assert warning.endswith("; HEIC needs pip install pillow-heif\n")
