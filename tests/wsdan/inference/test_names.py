"""Names that are not UTF-8, or hold control characters, on any terminal; files are whole."""

import contextlib
import csv
import dataclasses
import io
import json
import os

import pytest
import torch
from PIL import Image

from wsdan.checkpoint import save_checkpoint
from wsdan.cli import main
from wsdan.config import Config
from wsdan.files import written_whole
from wsdan.networks.model import build_model

CLASSES = ["a\x1b[31m\nb", "caf\udce9", "m\xf6we"]  # the second is Latin-1, not UTF-8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An image folder of these classes, and an untrained checkpoint of them."""
    root = tmp_path_factory.mktemp("caf\udce9")
    for label, name in enumerate(CLASSES):
        (root / "val" / name).mkdir(parents=True)
        Image.new("RGB", (40, 30), (80 * label, 60, 90)).save(root / "val" / name / "\udcff.png")
    torch.manual_seed(0)
    config = Config(
        data="folder", root=str(root), backbone="tiny", image_size=32, num_attentions=4, workers=0
    ).resolved()
    state = {"model": build_model(config, len(CLASSES)).state_dict()}
    save_checkpoint(root / "a.pt", config, CLASSES, state)
    return root


def on_terminal(encoding: str, *commands: list[str]) -> str:
    """What the commands print on a terminal of this encoding, strict as Python opens it."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    with contextlib.redirect_stdout(stream):
        assert [main(command) for command in commands] == [0] * len(commands)
    return stream.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_every_report_is_escaped(encoding, folder):
    checkpoint, image = str(folder / "a.pt"), str(folder / "val" / CLASSES[1] / "\udcff.png")
    table, figures = folder / "\udce9.csv", folder / "figures\udce9"
    text = on_terminal(
        encoding,
        ["eval", "--checkpoint", checkpoint, "--per-class", "--confusion", str(table)],
        ["predict", "--checkpoint", checkpoint, image],
        ["explain", "--checkpoint", checkpoint, "--out", str(figures), "--overwrite", image],
    )
    assert r"caf\udce9" in text
    assert "\x1b" not in text
    assert r"a\x1b[31m\nb" in text
    assert ("m\xf6we" if encoding != "ascii" else r"m\xf6we") in text
    assert (figures / "\udcff.png").stat().st_size > 0
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows] == ["class", CLASSES[0], r"caf\udce9", CLASSES[2]]
    result = json.loads(
        on_terminal(encoding, ["predict", "--checkpoint", checkpoint, "--json", image])
    )
    assert result["image"] == image
    assert {entry["class"] for entry in result["top"]} == set(CLASSES)


def test_a_run_of_such_names_trains(folder, tmp_path):
    (folder / "train").symlink_to(folder / "val")
    out = tmp_path / "caf\udce9"
    command = [
        "train", str(folder), "--backbone", "tiny", "--image-size", "32", "--epochs", "1",
        "--batch-size", "3", "--num-attentions", "4", "--workers", "0", "--out", str(out),
    ]  # fmt: skip
    again = ["train", "--config", str(out / "config.yaml"), "--out", str(tmp_path / "b")]
    evaluation = ["eval", "--checkpoint", str(tmp_path / "b" / "last.pt")]
    assert r"caf\udce9" in on_terminal("ascii", command, again, evaluation)


def test_the_wrong_images_are_listed(folder, tmp_path, capsys):
    """As many as the confusion matrix has beside its diagonal; each with its probabilities."""
    table = tmp_path / "wrong.csv"
    command = ["eval", "--checkpoint", str(folder / "a.pt"), "--batch-size", "2", "--json"]
    assert main([*command, "--errors", str(table)]) == 0
    confusion = torch.tensor(json.loads(capsys.readouterr().out)["confusion"])
    with open(table, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    escaped = [CLASSES[0], r"caf\udce9", CLASSES[2]]
    assert header == ["path", "truth", "prediction", *escaped]
    assert len(rows) == 3 - int(confusion.diagonal().sum()) > 0
    for path, truth, prediction, *scores in rows:
        assert truth != prediction
        assert confusion[escaped.index(truth), escaped.index(prediction)] == 1
        assert path == str(folder / "val" / CLASSES[escaped.index(truth)] / r"\udcff.png").replace(
            "\udce9", r"\udce9"
        )
        values = [float(score) for score in scores]
        assert max(values) == values[escaped.index(prediction)]
        assert sum(values) == pytest.approx(1, abs=1e-4)
    content = torch.load(folder / "a.pt", weights_only=True)
    content["model"]["classifier.bias"][1] = torch.nan
    torch.save(content, tmp_path / "nan.pt")
    assert main([*command, "--checkpoint", str(tmp_path / "nan.pt"), "--errors", str(table)]) == 0
    with open(table, newline="", encoding="utf-8") as file:
        assert [row[2] for row in csv.reader(file)] == ["prediction", "", "", ""]


def test_a_failed_table_leaves_the_old_one(folder, tmp_path, monkeypatch, capsys):
    table = tmp_path / "a.csv"
    table.write_text("old")
    command = ["eval", "--checkpoint", str(folder / "a.pt"), "--confusion", str(table)]

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert main(command) == 2
    assert "--confusion: cannot write" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
    assert table.read_text() == "old"
    (tmp_path / "link.csv").symlink_to(table)
    command[-1] = str(tmp_path / "link.csv")
    assert main(command) == 0
    assert (tmp_path / "link.csv").is_symlink()
    assert table.read_text().startswith("class,")


def test_a_device_is_written_to_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with written_whole(tmp_path / "pipe") as file:
        file.write("text")
    assert os.read(reader, 10) == b"text"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(OSError, match="No such device"), written_whole(tmp_path / "pipe"):
        pass  # nobody reads it any more


@pytest.mark.parametrize("option", ["--confusion", "--errors"])
def test_an_unwritable_file_is_said_before_the_evaluation(
    option, folder, tmp_path, monkeypatch, capsys
):
    for path, reason in (
        (tmp_path, "it is a folder"),
        (tmp_path / "no" / "a.csv", "there is no folder"),
        (tmp_path / ("a" * 300), "File name too long"),
        ("a\0b", "holds a character"),
        ("\ud800", "holds a character"),
    ):
        monkeypatch.setattr("wsdan.inference.classifier.Classifier", None)  # not reached
        command = ["eval", "--checkpoint", str(folder / "a.pt"), option, str(path)]
        assert main(command) == 2
        assert reason in capsys.readouterr().err


def test_the_refined_view_says_what_it_did(folder, capsys):
    """Of an untrained network: with threshold 0 the box is the image, with 1 a spot of it."""
    checkpoint, lines = str(folder / "a.pt"), []
    for threshold, padding in ((0, 0.1), (1, 0), (1, 1)):
        options = [f"--refine-threshold={threshold}", f"--refine-padding={padding}"]
        assert main(["eval", "--checkpoint", checkpoint, *options]) == 0
        (line,) = [x for x in capsys.readouterr().out.splitlines() if "box covers" in x]
        lines.append(line)
    hint = "; try a larger --refine-threshold"
    assert lines[0] == (
        "refined view: box covers the whole image in 3 of 3, 100 % of its area on average" + hint
    )
    assert "in 0 of 3" in lines[1] and hint not in lines[1]
    assert "in 3 of 3" in lines[2]
    image = str(folder / "val" / CLASSES[0] / "\udcff.png")
    command = ["predict", "--checkpoint", checkpoint, "--json", image]
    boxes = []
    for threshold in ("0", "1"):
        assert main([*command, "--refine-threshold", threshold, "--refine-padding", "0"]) == 0
        boxes.append(json.loads(capsys.readouterr().out)["box"])
    assert boxes[0] != boxes[1]
    for option in ("--refine-threshold=2", "--refine-padding=nan", "--refine-padding=-1"):
        assert main([*command, option]) == 2
        assert option.partition("=")[0] in capsys.readouterr().err


def test_whole_boxes_are_counted_over_batches(folder, capsys):
    command = ["eval", "--checkpoint", str(folder / "a.pt"), "--batch-size", "2", "--json"]
    assert main([*command, "--refine-threshold", "0"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert (numbers["refined_whole"], numbers["refined_area"]) == (3, 100)
    assert dataclasses.asdict(Config())["refine_threshold"] is None
