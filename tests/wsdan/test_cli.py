"""The command line end to end on small data: files, resume, and a line for every mistake."""

import json
import os
import subprocess
import sys

import pytest
import torch
import yaml
from PIL import Image
from runs import environment, refused
from trees import make_tree

from wsdan.checkpoint import load_checkpoint
from wsdan.cli import main
from wsdan.config import Config
from wsdan.data import loaders
from wsdan.errors import UserError
from wsdan.training.launch import pick_device


@pytest.fixture
def small(monkeypatch):
    """Few embedded images, so that a run takes a second."""
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 48)
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 32)
    return ["train", "--no-plots", "--batch-size", "16", "--image-size", "48", "--epochs", "2"]


def metrics_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_train_eval_predict_on_embedded_images(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("001", "002"):
        assert main(small) == 0
        folder = tmp_path / "runs" / name
        files = {path.name for path in folder.iterdir()}
        assert {"config.yaml", "metrics.jsonl", "last.pt", "best.pt"} <= files
        assert any(file.startswith("events.out.tfevents") for file in files)
    printed = capsys.readouterr().out
    assert "refined view" in printed
    assert "writing to runs/002" in printed
    first, second = metrics_of(tmp_path / "runs/001"), metrics_of(tmp_path / "runs/002")
    assert [record["epoch"] for record in first] == [0, 1]
    assert {"loss", "raw", "center", "accuracy", "lr"} <= set(first[0])
    assert {"crop", "val_raw", "val_refined", "val_mean"} <= set(first[1])
    for one, two in zip(first, second, strict=True):  # the same seed gives the same run
        assert {k: v for k, v in one.items() if k != "seconds"} == {
            k: v for k, v in two.items() if k != "seconds"
        }
    settings = yaml.safe_load((tmp_path / "runs/001/config.yaml").read_text())
    assert settings["image_size"] == 48

    checkpoint = str(tmp_path / "runs/001/last.pt")
    assert main(["eval", "--checkpoint", checkpoint]) == 0
    line = f"refined view  {first[1]['val_refined']:5.1f} %"
    assert line in capsys.readouterr().out

    Image.new("L", (90, 60), 120).save(tmp_path / "grey.png")
    assert main(["predict", "--checkpoint", checkpoint, "grey.png", "grey.png", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 2
    assert lines[0]["size"] == [90, 60]
    assert len(lines[0]["top"]) == 5
    means = [entry["mean"] for entry in lines[0]["top"]]
    assert means == sorted(means, reverse=True)
    x1, y1, x2, y2 = lines[0]["box"]
    assert 0 <= x1 < x2 <= 90
    assert 0 <= y1 < y2 <= 60
    assert main(["predict", "--checkpoint", checkpoint, "grey.png"]) == 0
    text = capsys.readouterr().out
    assert lines[0]["top"][0]["class"] in text
    assert "object: x " in text


def test_baseline(small, tmp_path, capsys):
    out = tmp_path / "plain"
    assert main([*small, "--method", "baseline", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "raw view" in printed
    assert "refined view" not in printed
    Image.new("RGB", (60, 60)).save(tmp_path / "a.png")
    arguments = ["predict", "--checkpoint", str(out / "best.pt"), str(tmp_path / "a.png"), "--json"]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["box"] is None
    assert set(result["top"][0]) == {"class", "raw"}


def test_a_baseline_of_given_epochs_has_these():
    assert Config(method="baseline", epochs=4).resolved().epochs == 4


@pytest.mark.slow
def test_train_on_a_folder(tmp_path, capsys):
    tree, out = make_tree(tmp_path / "tree", per_class=6), tmp_path / "out"
    (tree / "train/red/broken.png").write_text("no image")
    command = ["train", "--data", "folder", "--root", str(tree), "--backbone", "resnet18"]
    command += ["--no-plots"]
    command += ["--no-pretrained"]
    command += ["--image-size", "64", "--epochs", "1", "--batch-size", "6", "--workers", "1"]
    command += ["--num-attentions", "4", "--out", str(out)]
    error = refused(capsys, *command)
    assert "broken.png: not a readable image" in error
    assert "--skip-bad-images" in error
    assert main([*command, "--skip-bad-images", "--overwrite"]) == 0
    assert metrics_of(out)[0]["bad"] == 1
    assert "1 unreadable images skipped" in capsys.readouterr().out
    checkpoint = str(out / "best.pt")
    assert main(["eval", "--checkpoint", checkpoint]) == 0
    assert main(["eval", "--checkpoint", checkpoint, "--root", str(tree)]) == 0
    assert "on 18 images" in capsys.readouterr().out
    assert main(["predict", "--checkpoint", checkpoint, str(tree / "val/red/0.png"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {entry["class"] for entry in result["top"]} == {"blue", "green", "red"}
    assert main(["predict", "--checkpoint", checkpoint, str(tree / "train/red/broken.png")]) == 1
    assert "broken.png: not a readable image" in capsys.readouterr().err
    assert "no such folder" in refused(
        capsys, "eval", "--checkpoint", checkpoint, "--root", tmp_path / "nowhere"
    )
    assert "--data synthetic: the model was trained on other classes" in refused(
        capsys, "eval", "--checkpoint", checkpoint, "--data", "synthetic"
    )


def test_a_folder_that_holds_a_run_is_refused(small, tmp_path, capsys):
    out = tmp_path / "out"
    small[-1] = "1"
    assert "holds no last.pt" in refused(capsys, *small, "--out", out, "--resume")
    assert main([*small, "--out", str(out)]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    error = refused(capsys, *small, "--out", out)
    assert "already holds a run; pass --resume or --overwrite" in error
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert main([*small, "--out", str(out), "--overwrite"]) == 0
    assert len(list(out.glob("events.out.tfevents.*"))) == 1


def test_config_file(small, tmp_path, capsys):
    path = tmp_path / "settings.yaml"
    path.write_text("batch-size: 8\nlr: 1e-3\nepochs: 9\nseed: 4\n")
    assert main([*small, "--config", str(path), "--out", str(tmp_path / "out")]) == 0
    settings = yaml.safe_load((tmp_path / "out/config.yaml").read_text())
    assert settings["lr"] == 1e-3
    assert settings["seed"] == 4
    assert (settings["batch_size"], settings["epochs"]) == (16, 2)  # options override the file
    assert not {"out", "resume", "overwrite"} & set(settings)
    again = ["train", "--config", str(tmp_path / "out/config.yaml"), "--out", str(tmp_path / "two")]
    assert main(again) == 0
    assert metrics_of(tmp_path / "two")[1]["loss"] == metrics_of(tmp_path / "out")[1]["loss"]
    path.write_text("batch: 8\n")
    assert "settings.yaml: unknown setting 'batch'" in refused(capsys, "train", "--config", path)
    path.write_text("epochs: many\n")
    assert "epochs must be of type int, got 'many'" in refused(capsys, "train", "--config", path)
    path.write_text("- 1\n")
    assert "expected `name: value` lines" in refused(capsys, "train", "--config", path)
    path.write_text("a: ]\n")
    assert "is not YAML" in refused(capsys, "train", "--config", path)
    assert "no such file" in refused(capsys, "train", "--config", tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["train", "--data", "folder"], "--data folder needs --root"),
        (["train", "--data", "folder", "--root", "/nowhere"], "no such folder: /nowhere"),
        (["train", "--root", "x"], "--root: no such folder: x"),
        (["train", "x"], "--root: no such folder: x"),
        (["train", ".", "--root", "."], "DIR and --root are the same"),
        (["train", ".", "--data", "synthetic"], "--root is for images of your own"),
        (["train", "--data", "cub200"], "invalid choice: 'cub200'"),
        (["train", "--num-attentions", "0"], "--num-attentions must be at least 1; got 0"),
        (
            ["train", "--image-size", "16"],
            "--image-size must be at least 32 for --data synthetic; got 16",
        ),
        (["train", "--epochs", "0"], "--epochs must be at least 1; got 0"),
        (["train", "--epochs", "two"], "invalid int value: 'two'"),
        (["train", "--lr", "-1"], "--lr must be at least 0.0; got -1.0"),
        (["train", "--beta", "2"], "--beta must be in [0, 1]; got 2.0"),
        (["train", "--backbone", "resnet0"], "torchvision has no model 'resnet0'; the closest are"),
        (["train", "--pretrained"], "the tiny backbone has no published weights"),
        (["train", "--resume"], "--resume and --overwrite need --out"),
        (
            ["train", "--batchsize", "3"],
            "there is no option --batchsize; did you mean --batch-size?",
        ),
        (["predict", "--checkpoint", "/nowhere.pt", "a.png"], "/nowhere.pt: no such file"),
        (["fly"], "invalid choice: 'fly'"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_a_mistake_is_one_line(arguments, text, small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert text in refused(capsys, *arguments)
    assert not (tmp_path / "runs").exists()


def test_the_tests_of_the_program_see_no_gpu():
    """Neither here nor in the processes that they start."""
    assert pick_device("auto") == torch.device("cpu")
    assert environment()["CUDA_VISIBLE_DEVICES"] == ""


def test_a_missing_gpu_is_one_line(small, capsys):
    assert "sees no CUDA device" in refused(capsys, *small, "--device", "cuda")


def test_wrong_checkpoints(tmp_path, capsys):
    path = tmp_path / "a.pt"
    for content in (b"", b"PK not a checkpoint"):
        path.write_bytes(content)
        assert "truncated or not ours" in refused(capsys, "eval", "--checkpoint", path)
    torch.save({"model": {}}, path)
    assert "was not written by wsdan train" in refused(capsys, "eval", "--checkpoint", path)
    torch.save(torch.nn.Linear(1, 1), path)
    error = refused(capsys, "eval", "--checkpoint", path)
    assert "holds a torch.nn.modules.linear.Linear; only tensors, numbers and text" in error
    assert "weights_only" not in error
    error = refused(capsys, "eval", "--checkpoint", tmp_path)
    assert "is a folder; name the file in it, such as best.pt" in error


class Hostile:
    def __reduce__(self):
        return os.system, ("echo harm",)


def test_a_hostile_checkpoint_runs_nothing(tmp_path, capfd):
    torch.save({"format": "wsdan-checkpoint", "x": Hostile()}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="truncated or not ours"):
        load_checkpoint(tmp_path / "a.pt")
    assert "harm" not in capfd.readouterr().out


def test_a_truncated_checkpoint(small, tmp_path, capsys):
    assert main([*small, "--epochs", "1", "--out", str(tmp_path / "out")]) == 0
    data = (tmp_path / "out/last.pt").read_bytes()
    (tmp_path / "out/last.pt").write_bytes(data[: len(data) // 2])
    capsys.readouterr()
    assert "truncated" in refused(capsys, "eval", "--checkpoint", tmp_path / "out/last.pt")
    (tmp_path / "out/best.pt").unlink()
    assert "truncated" in refused(capsys, *small, "--out", tmp_path / "out", "--resume")


@pytest.mark.slow
def test_info_and_the_module_are_the_same_program(capsys):
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert f"torch {torch.__version__}" in printed
    assert "reference: can run" in printed
    result = subprocess.run(
        [sys.executable, "-m", "wsdan", "info"], capture_output=True, text=True, check=True
    )
    assert result.stdout == printed


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_who_leaves_is_no_error(unbuffered):
    """As in `wsdan info | head -1`, whenever the output is written."""
    code = "import sys, wsdan.cli; sys.exit(wsdan.cli.main(['info']))"
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    command, pipe = [sys.executable, "-c", code], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=environment) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 141)


def test_another_broken_pipe_is_an_error(monkeypatch, capsys):
    def fail(_):
        raise BrokenPipeError("a worker's")

    monkeypatch.setattr("wsdan.commands.info.run", fail)
    with pytest.raises(BrokenPipeError, match="a worker's"):
        main(["info"])
