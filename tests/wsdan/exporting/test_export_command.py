"""wsdan export: what it refuses, and safetensors."""

import json

import pytest
import torch
from exports import export, make_checkpoint, make_photographs
from runs import refused

from wsdan.checkpoint import load_checkpoint
from wsdan.cli import main
from wsdan.errors import UserError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "best.pt")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--format=tflite", "--out=a.onnx"], "--format: invalid choice: 'tflite'"),
        (["--format=onnx", "--out=a.pt2"], "must end in .onnx; got a.pt2"),
        (["--format=torch", "--out=.pt2"], "must end in .pt2"),
        (["--format=onnx", "--out=gone/a.onnx"], "there is no folder"),
        (["--format=onnx", "--out=old.onnx"], "old.onnx exists; --overwrite replaces it"),
        (["--format=torch", "--out=a.pt2", "--int8"], "--int8 is for --format onnx"),
        (["--format=onnx", "--out=a.onnx", "--int8"], "--int8 needs --calibration"),
        (["--format=onnx", "--out=a.onnx", "--calibration=."], "--calibration is for --int8"),
        (["--format=onnx", "--out=a.onnx", "--calibration-images=3"], "images is for --int8"),
        (
            ["--format=onnx", "--out=a.onnx", "--int8", "--calibration=no"],
            "--calibration: no such folder",
        ),
        (
            [
                "--format=onnx",
                "--out=a.onnx",
                "--int8",
                "--calibration=.",
                "--calibration-images=0",
            ],
            "--calibration-images must be in",
        ),
        (["--format=onnx", "--out=a.onnx", "--device=cuda"], "--device cuda is for"),
        (["--format=safetensors", "--out=a.safetensors", "--input=float"], "--input is for"),
        (["--format=safetensors", "--out=a.safetensors", "--root=."], "--root is for"),
        (["--format=onnx", "--out=a.onnx", "--refine-threshold=2"], "must be in [0, 1]"),
        (["--format=onnx", "--out=a.onnx", "--tta"], "there is no option --tta"),
    ],
)
def test_mistakes(capsys, checkpoint, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.onnx").write_text("old")
    assert said in refused(capsys, "export", f"--checkpoint={checkpoint}", *options)
    assert [path.name for path in tmp_path.iterdir()] == ["old.onnx"]
    assert (tmp_path / "old.onnx").read_text() == "old"


@pytest.mark.parametrize(
    ("kind", "missing"), [("onnx", "onnxruntime"), ("safetensors", "safetensors")]
)
def test_a_missing_package_is_named(capsys, checkpoint, tmp_path, monkeypatch, kind, missing):
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == missing else object()
    )
    arguments = ["export", f"--checkpoint={checkpoint}", f"--format={kind}"]
    message = refused(capsys, *arguments, f"--out={tmp_path}/a.{kind}")
    assert message.endswith(f"needs {missing}; pip install 'wsdan[export]'\n")


def test_compiled_code_needs_a_compiler(capsys, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    arguments = ["export", f"--checkpoint={checkpoint}", "--format=aoti"]
    assert "needs a C++ compiler" in refused(capsys, *arguments, f"--out={tmp_path}/a.pt2")


def test_safetensors_are_a_checkpoint(capsys, checkpoint, tmp_path):
    pytest.importorskip("safetensors")
    options = ("--refine-threshold", "0.25", "--final", "logits")
    out = export(checkpoint, "safetensors", tmp_path / "a.safetensors", *options)
    assert f"wsdan predict --checkpoint {out} IMAGE" in capsys.readouterr().out
    found, expected = load_checkpoint(out), load_checkpoint(checkpoint)
    assert found["classes"] == expected["classes"]
    assert found["config"].refine_threshold == 0.25
    assert found["config"].final == "logits"
    assert found["model"].keys() == expected["model"].keys()
    for name, value in expected["model"].items():
        assert torch.equal(found["model"][name], value)
    (image,) = make_photographs(tmp_path / "images", 1)
    scores = []
    for path, extra in ((out, ()), (checkpoint, options[:2])):
        assert main(["predict", f"--checkpoint={path}", *extra, str(image), "--json"]) == 0
        scores.append(json.loads(capsys.readouterr().out)["top"][0]["refined"])
    assert scores[0] == scores[1]


def test_safetensors_take_the_averaged_weights(tmp_path):
    pytest.importorskip("safetensors")
    path = make_checkpoint(tmp_path / "best.pt")
    state = torch.load(path, weights_only=True)
    state["ema"] = {name: value + 1 for name, value in state["model"].items()}
    torch.save(state | {"ema_steps": 1}, path)
    for options, wanted in (((), "ema"), (("--raw-weights", "--overwrite"), "model")):
        out = export(path, "safetensors", tmp_path / "a.safetensors", *options)
        weight = load_checkpoint(out)["model"]["classifier.weight"]
        assert torch.equal(weight, state[wanted]["classifier.weight"])


@pytest.mark.parametrize("content", [b"", b"x" * 100, None])
def test_foreign_safetensors_are_refused(tmp_path, content):
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors.save({"x": torch.ones(2)}) if content is None else content)
    said = "was not written by wsdan" if content is None else "truncated or not ours"
    with pytest.raises(UserError, match=f"^checkpoint {path}: {said}"):
        load_checkpoint(path)
