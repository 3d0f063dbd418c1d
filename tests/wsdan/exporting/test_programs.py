"""Programs of torch.export and AOTInductor, loaded without wsdan."""

import json
import subprocess
import sys

import pytest
import torch
from exports import CLASSES, SIDE, export, make_checkpoint
from runs import environment
from trees import make_tree

from wsdan.cli import main
from wsdan.errors import UserError
from wsdan.exporting.comparison import compare
from wsdan.exporting.export import export as export_file
from wsdan.inference.classifier import Classifier
from wsdan_kernels import load_exported

SCRIPT = """
import sys, torch
from wsdan_kernels import load_exported
model = load_exported(sys.argv[1])
torch.save(model(torch.load(sys.argv[2])), sys.argv[3])
assert not {"wsdan", "torchvision", "PIL", "timm"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "best.pt")


@pytest.fixture(scope="module")
def program(checkpoint):
    return export(checkpoint, "torch", checkpoint.with_name("a.pt2"))


def test_a_program_needs_torch_and_the_kernels_only(program, tmp_path):
    images = torch.randint(256, (5, 3, SIDE, SIDE), dtype=torch.uint8)
    torch.save(images, tmp_path / "images.pt")
    arguments = [str(program), str(tmp_path / "images.pt"), str(tmp_path / "outputs.pt")]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, *arguments],
        env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found, expected = torch.load(tmp_path / "outputs.pt"), load_exported(program)(images)
    assert list(found) == ["raw", "refined", "mean", "boxes"]
    for name, value in expected.items():
        assert torch.equal(found[name], value)
        assert not value.requires_grad


def test_a_program_tells_its_classes_and_input(program):
    model = load_exported(program)
    assert model.classes == CLASSES
    about = model.preprocessing
    assert (about["resize"], about["center_crop"]) == ([55, 55], [SIDE, SIDE])
    assert (about["dtype"], about["range"], about["mode"]) == ("uint8", [0, 255], "RGB")
    assert model.metadata["prediction"]["refine_threshold"] == 0.6
    for images in (torch.zeros(1, 3, SIDE, SIDE), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"images must be \(B, 3, 48, 48\) of torch.uint8"):
            model(images)


@pytest.mark.parametrize("content", [b"", b"x" * 99, None])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "a.pt2"
    if content is None:
        torch.save({"x": torch.ones(1)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="was not written by wsdan export"):
        load_exported(path)
    with pytest.raises(FileNotFoundError):
        load_exported(tmp_path / "gone.pt2")


@pytest.mark.slow
def test_a_plain_classifier_of_float_images_and_its_accuracy(tmp_path, capsys):
    root = make_tree(tmp_path / "data", per_class=2)
    classes = sorted(path.name for path in (root / "val").iterdir())
    path = make_checkpoint(
        tmp_path / "a.pt", classes, method="baseline", in_channels=1, root=str(root)
    )
    options = ("--input", "float", "--root", str(root))
    model = load_exported(export(path, "torch", tmp_path / "a.pt2", *options))
    said = capsys.readouterr().out
    assert f"takes images (B, 1, {SIDE}, {SIDE}) float32 of 0 to 1, gives raw" in said
    assert "on 4 random images: probabilities within" in said
    assert list(model(torch.rand(4, 1, SIDE, SIDE))) == ["raw"]
    assert compare(Classifier(path, "cpu"), model, torch.float32).probability < 1e-5
    rows = {line.split()[0]: line.split()[1] for line in said.splitlines() if line.endswith("%")}
    assert main(["eval", "--checkpoint", str(path), "--json"]) == 0
    accuracy = json.loads(capsys.readouterr().out)["raw"]
    assert rows == {"checkpoint": f"{accuracy:.2f}", "file": f"{accuracy:.2f}"}


def test_a_file_that_differs_is_not_written(tmp_path, monkeypatch):
    def wrong(images):
        return {"raw": torch.full((len(images), len(CLASSES)), 0.9)}

    monkeypatch.setattr("wsdan.exporting.export._write", lambda *_: None)
    monkeypatch.setattr("wsdan.exporting.export.traced", lambda *_: None)
    monkeypatch.setattr("wsdan.exporting.export._runner", lambda *_: wrong)
    plain = make_checkpoint(tmp_path / "a.pt", method="baseline")
    with pytest.raises(UserError, match="probabilities differ by 0.* was not written"):
        export_file(Classifier(plain, "cpu"), "torch", tmp_path / "a.pt2")
    assert not (tmp_path / "a.pt2").exists()


@pytest.mark.slow
def test_a_transformer_of_a_fixed_size_whose_input_is_scaled(tmp_path):
    pytest.importorskip("timm")
    path = make_checkpoint(tmp_path / "a.pt", backbone="timm/test_vit:1", image_size=160)
    model = load_exported(export(path, "torch", tmp_path / "a.pt2"))
    difference = compare(Classifier(path, "cpu"), model, torch.uint8)
    assert difference.probability < 1e-5
    assert difference.boxes == 0


@pytest.mark.slow
def test_compiled_code_gives_the_same(checkpoint, capsys):
    out = export(checkpoint, "aoti", checkpoint.with_name("compiled.pt2"))
    assert "load_exported" in capsys.readouterr().out
    model = load_exported(out)
    assert model.classes == CLASSES
    difference = compare(Classifier(checkpoint, "cpu"), model, torch.uint8)
    assert difference.probability < 1e-5
    assert difference.boxes == 0
