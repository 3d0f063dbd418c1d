"""Files that are none: a FIFO, on which an open waits for ever, a socket, a device, a loop."""

import os
import socket

import pytest
import trees

from wsdan.cli import main
from wsdan.validation import file_fault


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A folder with one of each."""
    monkeypatch.chdir(tmp_path)  # the path of a socket has at most 107 bytes
    os.mkfifo("fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    for name, target in {"device": "/dev/zero", "loop": "loop", "broken": "nowhere"}.items():
        os.symlink(target, name)
    os.symlink("fifo", "link")
    os.mkdir("folder")
    (tmp_path / "file").write_text("text")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("file", None),
        ("fifo", "is no regular file but a FIFO"),
        ("link", "is no regular file but a FIFO"),
        ("socket", "is no regular file but a socket"),
        ("device", "is no regular file but a device"),
        ("loop", "Too many levels of symbolic links"),
        ("broken", "no such file"),
        ("file/below", "no such file"),
        ("folder", "is a folder"),
        ("x" * 5000, "File name too long"),
        ("nul\0", "embedded null byte"),
    ],
    ids=lambda value: str(value)[:9],
)
def test_what_a_path_is_instead_of_a_file(name, fault, places):
    assert file_fault(name) == fault


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--config", "PLACE"],
        ["train", "--data", "folder", "--root", "folder", "--weights", "PLACE"],
        ["eval", "--checkpoint", "PLACE"],
        ["predict", "--checkpoint", "PLACE", "file"],
        ["predict", "--checkpoint", "file", "PLACE"],
        ["convert", "PLACE", "--out", "new.pt"],
        ["convert", "file", "--classes", "PLACE", "--out", "new.pt"],
    ],
    ids=lambda command: " ".join(command[:3]),
)
@pytest.mark.parametrize("place", ["fifo", "device", "socket"])
def test_every_command_refuses_it_at_once(command, place, places, capsys):
    kind = {"fifo": "FIFO"}.get(place, place)
    assert main([place if word == "PLACE" else word for word in command]) == 2
    error = capsys.readouterr().err
    assert f"{place}: " in error and error.count("\n") == 1
    assert f"is no regular file but a {kind}" in error


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("cub", "CUB_200_2011/images.txt"),
        ("cub", "CUB_200_2011/bounding_boxes.txt"),
        ("aircraft", "fgvc-aircraft-2013b/data/variants.txt"),
        ("aircraft", "fgvc-aircraft-2013b/data/images_variant_trainval.txt"),
        ("cars", "stanford_cars/devkit/cars_train_annos.mat"),
        ("dogs", "train_list.mat"),
    ],
)
def test_readers_refuse_a_fifo(data, name, tmp_path):
    trees.LAYOUTS[data][0](tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    error = trees.error_of(trees.config_of(data, tmp_path))
    assert f"--data {data}: {tmp_path / name}: is no regular file but a FIFO" in error


def test_a_fifo_is_no_table(tmp_path):
    trees.make_table(tmp_path)
    (tmp_path / "train.csv").unlink()
    os.mkfifo(tmp_path / "train.csv")
    assert "has no train.csv" in trees.error_of(trees.config_of("csv", tmp_path))
