"""Resuming after images were added, removed or relabelled; folders looked up from anywhere."""

import os
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from runs import acting_at, metrics_of, refused
from trees import make_tree

import wsdan.training.run
from wsdan.checkpoint import load_checkpoint
from wsdan.cli import main
from wsdan.data.fingerprint import difference, fingerprint
from wsdan.data.samples import Sample, TarMember

COMMAND = [
    "train", "--data", "folder", "--backbone", "tiny", "--image-size", "32", "--batch-size", "4",
    "--num-attentions", "4", "--workers", "0", "--log-images", "0", "--no-pretrained",
    "--no-plots",
]  # fmt: skip


def train(folder: Path, *options: str) -> int:
    arguments = ["--root", str(folder / "data"), "--out", str(folder / "run"), *options]
    return main([*COMMAND, *arguments])


@pytest.fixture(scope="module")
def began(tmp_path_factory):
    """A folder with data/, and run/ stopped after the second of three steps of the epoch."""
    folder = tmp_path_factory.mktemp("began")
    make_tree(folder / "data")
    stop = partial(os.kill, os.getpid(), signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wsdan.training.run, "build_step", acting_at(2, stop))
        assert train(folder, "--epochs", "2") == 143
    return folder


def add(train: Path) -> None:
    for name in ("x.png", "y.png"):
        shutil.copy(train / "red/0.png", train / "blue" / name)


def relabel(train: Path) -> None:
    (train / "red/0.png").rename(train / "blue/0_.png")


CHANGES = {
    "2 added": add,
    "1 removed": lambda train: (train / "red/1.png").unlink(),
    "1 added, 1 removed": relabel,
}


@pytest.mark.parametrize("text", CHANGES)
def test_other_images_within_an_epoch_are_refused(text, began, tmp_path, capsys):
    shutil.copytree(began, tmp_path, dirs_exist_ok=True)
    CHANGES[text](tmp_path / "data/train")
    options = ["--epochs", "2", "--resume"]
    arguments = ["--root", tmp_path / "data", "--out", tmp_path / "run", *options]
    error = refused(capsys, *COMMAND, *arguments)
    assert f"are not those of the run: {text}, and epoch 1 is not at its end" in error
    assert "--allow-changed-data goes on" in error
    assert train(tmp_path, *options, "--allow-changed-data") == 0
    assert f"warning: the train images of {tmp_path / 'data'} are not" in capsys.readouterr().err
    assert [record["epoch"] for record in metrics_of(tmp_path / "run")] == [0, 1]


def test_other_images_between_epochs_are_told(began, tmp_path, capsys):
    shutil.copytree(began, tmp_path, dirs_exist_ok=True)
    assert train(tmp_path, "--epochs", "2", "--resume") == 0
    assert "warning" not in capsys.readouterr().err
    CHANGES["1 removed"](tmp_path / "data/train")
    add(tmp_path / "data/val")
    assert train(tmp_path, "--epochs", "3", "--resume") == 0
    error = capsys.readouterr().err
    assert "the train images of" in error and "run: 1 removed" in error
    assert "the val images of" in error and "run: 2 added" in error
    assert train(tmp_path, "--epochs", "4", "--resume") == 0  # last.pt knows the new ones
    assert "warning" not in capsys.readouterr().err
    schedule = load_checkpoint(tmp_path / "run/last.pt")["lr_scheduler"]
    assert schedule["last_epoch"] == 4 * 2  # of the two steps that 11 images make


def test_the_same_images_elsewhere_and_a_checkpoint_without_a_fingerprint(began, tmp_path, capsys):
    shutil.copytree(began, tmp_path, dirs_exist_ok=True)
    (tmp_path / "data").rename(tmp_path / "moved")
    arguments = ["--root", str(tmp_path / "moved"), "--out", str(tmp_path / "run")]
    assert main([*COMMAND, *arguments, "--epochs", "2", "--resume"]) == 0
    shutil.copy(began / "run/last.pt", tmp_path / "run")
    content = torch.load(tmp_path / "run/last.pt", weights_only=True)
    del content["data"]
    torch.save(content, tmp_path / "run/last.pt")
    add(tmp_path / "moved/train")
    assert main([*COMMAND, *arguments, "--epochs", "2", "--resume"]) == 0
    assert "warning" not in capsys.readouterr().err


def test_a_relative_root_is_looked_up_from_where_it_was_given(began, tmp_path, monkeypatch, capsys):
    shutil.copytree(began / "data", tmp_path / "here/data")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    arguments = ["--root", "data", "--out", "run", "--epochs", "1"]
    assert main([*COMMAND, *arguments]) == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["eval", "--checkpoint", "../here/run/best.pt"]) == 0
    assert "on 12 images" in capsys.readouterr().out
    assert load_checkpoint("../here/run/last.pt")["config"].root == str(tmp_path / "here/data")
    assert str(tmp_path / "here/data") in Path("../here/run/config.yaml").read_text()


def test_fingerprints():
    """By name below the root, label and order; no file is opened; quick for many images."""
    samples = [Sample(Path(f"/a/train/{i}.jpg"), i % 3, None) for i in range(6)]
    samples.append(Sample(TarMember(Path("/a/train-0.tar"), "x/é\udcff.jpg", 512, 10), 2, None))
    old = fingerprint(samples, "/a")
    moved = [item._replace(source=Path(str(item.source).replace("/a", "/b"))) for item in samples]
    assert torch.equal(fingerprint(moved[:6], "/b/"), old[:6])
    assert difference(old, fingerprint(samples, Path("/a"))) is None
    relabelled = [samples[0]._replace(label=1), *samples[1:]]
    assert difference(old, fingerprint(relabelled, "/a")) == "1 of another class"
    assert difference(old, fingerprint(samples[::-1], "/a")) == "listed in another order"
    assert difference(old, fingerprint(samples[2:], "/a")) == "2 removed"
    assert fingerprint([], "/a").shape == (0, 2)
    assert old.nbytes == 16 * len(samples)
