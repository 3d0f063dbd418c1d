"""`wsdan eval` and `wsdan predict` on a run of a second."""

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trees import make_tree

from wsdan.checkpoint import load_checkpoint
from wsdan.cli import main
from wsdan.data import loaders
from wsdan.inference.classifier import Classifier
from wsdan.inference.figures import GAP


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 48)
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 35)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    """last.pt of a run with averaged weights, test-time views and the counterfactual term."""
    folder = tmp_path_factory.mktemp("run")
    command = ["train", "--out", str(folder), "--batch-size", "16", "--image-size", "48"]
    command += ["--epochs", "2", "--ema", "0.9", "--tta", "--counterfactual", "1", "--no-plots"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaders, "SYNTHETIC_TRAIN", 48)
        patch.setattr(loaders, "SYNTHETIC_VAL", 35)
        assert main(command) == 0
    return str(folder / "last.pt")


def printed(capsys, *arguments) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def refused(capsys, *arguments) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    return captured.err


def test_json_holds_what_training_found(checkpoint, capsys):
    numbers = json.loads(printed(capsys, "eval", "--checkpoint", checkpoint, "--json"))
    lines = Path(checkpoint).with_name("metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    views = ("raw", "refined", "mean", "tta")
    for name in (*views, *(f"{view}_top5" for view in views), "boxes", "localised"):
        assert numbers[name] == last[f"val_{name}"], name
    assert last["counterfactual"] > 0
    assert numbers["images"] == numbers["boxes"] == sum(numbers["images_per_class"]) == 35
    confusion = torch.tensor(numbers["confusion"])
    assert 100 * confusion.diagonal().sum() / 35 == pytest.approx(numbers["mean"])
    assert len(numbers["classes"]) == len(numbers["per_class"]) == 16


def test_tensorboard_shows_the_views(checkpoint):
    events = EventAccumulator(str(Path(checkpoint).parent)).Reload()
    (image,) = events.Images("views")
    assert image.width == 5 * 48 + 4 * GAP
    assert image.height == 4 * 48 + 3 * GAP


def test_options(checkpoint, tmp_path, capsys):
    path = tmp_path / "confusion.csv"
    text = printed(
        capsys, "eval", "--checkpoint", checkpoint, "--final", "logits", "--no-tta",
        "--per-class", "--confusion", path, "--batch-size", "8", "--workers", "1",
        "--precision", "bf16",
    )  # fmt: skip
    assert "mean of both" in text
    assert "test-time views" not in text
    assert "known boxes" in text
    assert "most often taken for" in text
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 17
    assert sum(int(cell) for row in rows[1:] for cell in row[1:]) == 35
    assert "test-time views" in printed(capsys, "eval", "--checkpoint", checkpoint)


def test_averaged_weights_are_taken_unless_asked(checkpoint):
    state = load_checkpoint(checkpoint)
    name = "classifier.weight"
    assert not torch.equal(state["model"][name], state["ema"][name])
    averaged, raw = Classifier(checkpoint), Classifier(checkpoint, raw_weights=True)
    assert torch.equal(averaged.model.state_dict()[name], state["ema"][name])
    assert torch.equal(raw.model.state_dict()[name], state["model"][name])


def test_nan_scores_are_null_in_json(checkpoint, tmp_path, capsys):
    state = torch.load(checkpoint, weights_only=True)
    state["ema"]["classifier.bias"][:] = torch.nan
    torch.save(state, tmp_path / "broken.pt")
    Image.new("RGB", (90, 60)).save(tmp_path / "a.png")
    line = printed(
        capsys, "predict", "--checkpoint", tmp_path / "broken.pt", tmp_path / "a.png", "--json"
    )
    assert "NaN" not in line  # which is not JSON, although Python reads it
    entry = json.loads(line)["top"][0]
    assert [entry[view] for view in ("raw", "refined", "mean", "tta")] == [None] * 4


def test_the_limit_on_pixels_is_an_option_of_predict_and_eval(checkpoint, tmp_path, capsys):
    path = tmp_path / "a.JPE"
    Image.new("RGB", (90, 60)).save(path, "JPEG")
    command = ["predict", "--checkpoint", checkpoint, path, "--max-pixels"]
    assert f"{path} (90 x 60)" in printed(capsys, *command, 5400)
    assert main([str(item) for item in (*command, 5399)]) == 1
    assert "its 90 x 60 pixels are more than --max-pixels 5399" in capsys.readouterr().err
    assert "--max-pixels must be at least 1; got 0" in refused(capsys, *command, 0)
    root = make_tree(tmp_path / "tree")  # of 40 x 40 pixels, and of other classes
    command = ["eval", "--checkpoint", checkpoint, "--data", "folder", "--root", root]
    assert "is not among the training classes" in refused(capsys, *command, "--max-pixels", 1600)
    assert "--max-pixels must be at least 1" in refused(capsys, *command, "--max-pixels", -1)


def test_mistakes(checkpoint, tmp_path, capsys):
    error = refused(capsys, "eval", "--checkpoint", checkpoint, "--batch-size", "0")
    assert "--batch-size must be at least 1; got 0" in error
    error = refused(
        capsys, "eval", "--checkpoint", checkpoint, "--confusion", tmp_path / "no" / "a.csv"
    )
    assert "--confusion: cannot write" in error
    assert "there is no folder" in error


def test_another_image_size(checkpoint, tmp_path, capsys):
    """As if the checkpoint had been trained at that size."""
    content = torch.load(checkpoint, weights_only=True)
    content["config"]["image_size"] = 64
    torch.save(content, tmp_path / "other.pt")
    size = ("--image-size", "64", "--json")
    results = [
        json.loads(printed(capsys, "eval", "--checkpoint", path, *options))
        for path, options in [
            (checkpoint, size), (tmp_path / "other.pt", size[2:]), (checkpoint, size[2:])
        ]
    ]  # fmt: skip
    assert results[0] == results[1] != results[2]
    error = refused(capsys, "eval", "--checkpoint", checkpoint, "--image-size", "16")
    assert "--image-size must be at least 32 for --data synthetic; got 16" in error
    folder = ("--data", "folder", "--root", tmp_path, "--image-size", "4")
    error = refused(capsys, "eval", "--checkpoint", checkpoint, *folder)
    assert "--image-size 4 does not suit the model: " in error
