"""`--precision auto`: what it stands for, who says so, and what a resumed run keeps."""

import pytest
import torch
import yaml
from exports import SIDE, make_checkpoint
from PIL import Image

from wsdan.checkpoint import load_checkpoint
from wsdan.cli import main
from wsdan.config import Config
from wsdan.data import loaders
from wsdan.inference.classifier import Classifier
from wsdan.precision import autocast, pick_precision
from wsdan.recipes import NAMES
from wsdan.training.launch import with_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def has_amx(monkeypatch, amx: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx})


@pytest.mark.parametrize(
    ("capability", "precision"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")]
)
def test_of_gpus(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert pick_precision("auto", CUDA) == precision
    assert pick_precision("fp16", CUDA) == "fp16"
    assert pick_precision("auto", CUDA, compiled=True) == precision


def test_of_cpus(monkeypatch):
    for amx, precision in ((True, "bf16"), (False, "fp32")):
        has_amx(monkeypatch, amx)
        assert pick_precision("auto", CPU) == precision
        with autocast(Config(precision="auto").resolved(), CPU):
            assert torch.is_autocast_enabled("cpu") == amx
    has_amx(monkeypatch, True)
    assert pick_precision("auto", CPU, compiled=True) == "fp32"  # its gradients would be NaN
    compiled = Config(precision="auto", compile=True).resolved()
    assert with_precision(compiled, CPU).precision == "fp32"
    assert pick_precision("bf16", CPU, compiled=True) == "bf16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)  # of another architecture
    assert pick_precision("auto", CPU) == "fp32"


def test_auto_is_the_default_on_photographs():
    """As what it stands for is measured in docs/evidence.md; the embedded dataset keeps fp32."""
    photographs = {"data": "folder", "root": ".", "pretrained": False}
    for recipe in NAMES:
        assert Config(**photographs, recipe=recipe).resolved().precision == "auto"
    assert Config().resolved().precision == "fp32"


@pytest.mark.parametrize(
    ("saved", "amx", "runs"),
    [
        ("fp32", True, None),
        ("bf16", True, torch.bfloat16),
        ("bf16", False, None),
        ("fp16", False, None),
        (None, True, None),
    ],
)
def test_a_checkpoint_runs_in_half_precision_where_that_is_fast(
    tmp_path, monkeypatch, saved, amx, runs
):
    """None: from before precision was a setting; it means float32."""
    checkpoint = make_checkpoint(tmp_path / "a.pt", precision=saved or "fp32")
    if saved is None:
        content = torch.load(checkpoint, weights_only=False)
        del content["config"]["precision"]
        torch.save(content, checkpoint)
    has_amx(monkeypatch, amx)
    classifier, seen = Classifier(checkpoint, "cpu"), []

    def see(module, inputs, output):
        on = torch.is_autocast_enabled("cpu")
        seen.append(torch.get_autocast_dtype("cpu") if on else None)

    classifier.model.register_forward_hook(see)
    classifier(torch.zeros(3, SIDE, SIDE))
    assert set(seen) == {runs}


@pytest.mark.slow
def test_a_run_keeps_what_it_took(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 16)
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 8)
    command = ["train", "--out", str(tmp_path / "run"), "--batch-size", "8", "--image-size", "32"]
    command += ["--num-attentions", "4", "--log-images", "0", "--precision", "auto"]
    has_amx(monkeypatch, True)
    assert main([*command, "--epochs", "1"]) == 0
    assert "--precision auto: bf16 on cpu" in capsys.readouterr().out
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["precision"] == "bf16"
    has_amx(monkeypatch, False)
    assert main([*command, "--epochs", "2", "--resume"]) == 0
    last = tmp_path / "run" / "last.pt"
    assert load_checkpoint(last)["config"].precision == "bf16"
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    for arguments in (["eval"], ["predict", str(tmp_path / "a.png")]):
        capsys.readouterr()
        options = ["--checkpoint", str(last), "--precision", "auto", "--json"]
        assert main([*arguments, *options]) == 0
        captured = capsys.readouterr()
        assert captured.err == "wsdan: --precision auto: fp32\n"
        assert captured.out.startswith("{")
