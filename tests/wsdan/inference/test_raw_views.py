"""--views raw: the network runs once for each image, and all outputs do without a refined view."""

import csv
import json
from dataclasses import replace

import pytest
import torch
from exports import export as exported
from exports import make_checkpoint, make_photographs
from runs import SMALL

from wsdan.cli import main
from wsdan.constants import FIGURES, PREDICTIONS
from wsdan.data import loaders
from wsdan.data.synthetic import CLASSES as DRAWN
from wsdan.exporting.graph import TwoViews, outputs_of
from wsdan.inference.classifier import Classifier
from wsdan.inference.evaluate import predict_views
from wsdan.networks.model import WSDAN


@pytest.fixture
def checkpoint(tmp_path):
    """Of the embedded dataset."""
    return make_checkpoint(
        tmp_path / "a.pt", list(DRAWN), data="synthetic", root=None, image_size=32, batch_size=4
    )


@pytest.fixture
def passes(monkeypatch):
    """The number of images in each pass through the network."""
    counts, forward = [], WSDAN.forward

    def counted(self, images, *arguments):
        counts.append(len(images))
        return forward(self, images, *arguments)

    monkeypatch.setattr(WSDAN, "forward", counted)
    return counts


@pytest.mark.parametrize("tta", [False, True])
def test_the_network_runs_once(checkpoint, passes, tta):
    classifier = Classifier(checkpoint, "cpu")
    inputs = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found, config = {}, classifier.config
    for views in ("raw", "all"):
        passes.clear()
        classifier.config = replace(config, views=views, tta=tta)
        found[views] = predict_views(classifier.model, inputs, classifier.config)
        assert len(passes) == {"raw": 1, "all": 2}[views] + tta * {"raw": 1, "all": 6}[views]
    raw, both = found["raw"], found["all"]
    assert raw.refined is None and raw.mean is None and both.mean is not None
    assert raw.final is raw.raw
    assert torch.equal(raw.raw, both.raw) and torch.equal(raw.boxes, both.boxes)
    assert torch.equal(raw.attentions, both.attentions)
    if tta:
        flipped = classifier.model(inputs.flip(3)).logits.softmax(1)
        torch.testing.assert_close(raw.tta, (raw.raw + flipped) / 2)


def test_wsdan_eval(checkpoint, monkeypatch, capsys, passes):
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 6)
    command = ["eval", "--checkpoint", str(checkpoint)]
    assert main([*command, "--json"]) == 0
    both = json.loads(capsys.readouterr().out)
    passes.clear()
    assert main([*command, "--views", "raw", "--json"]) == 0
    raw = json.loads(capsys.readouterr().out)
    assert [count for count in passes if count > 1] == [4, 2]  # others are checks at the start
    assert raw["raw"] == both["raw"] and raw["localised"] == both["localised"]
    assert "refined" in both and not {"refined", "mean"} & set(raw)
    assert main([*command, "--views", "raw"]) == 0
    text = capsys.readouterr().out
    assert "raw view" in text and "object found" in text
    assert "refined" not in text and "mean of" not in text


@pytest.mark.slow
def test_figures_of_an_evaluation(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 6)
    folder = tmp_path / "plots"
    command = ["eval", "--checkpoint", str(checkpoint), "--views", "raw", "--plots", str(folder)]
    assert main(command) == 0
    rows = list(csv.DictReader((folder / PREDICTIONS).open()))
    assert {row["mean_1"] for row in rows} == {""} and all(row["x1"] for row in rows)
    assert all((folder / name).is_file() for name in FIGURES)


def test_a_run_with_the_raw_view_is_judged_by_it(tmp_path, monkeypatch, capsys):
    for name in ("SYNTHETIC_TRAIN", "SYNTHETIC_VAL"):
        monkeypatch.setattr(loaders, name, 8)
    out = tmp_path / "out"
    assert main([*SMALL, "--epochs", "1", "--views", "raw", "--out", str(out)]) == 0
    (record,) = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    assert "val_raw" in record and not {"val_refined", "val_mean"} & set(record)
    assert Classifier(out / "best.pt", "cpu").config.views == "raw"


def test_wsdan_predict(checkpoint, tmp_path, capsys):
    (photograph,) = make_photographs(tmp_path / "images", 1)
    command = ["predict", "--checkpoint", str(checkpoint), str(photograph)]
    found = {}
    for views in ("all", "raw"):
        assert main([*command, "--views", views, "--json"]) == 0
        found[views] = json.loads(capsys.readouterr().out)
    scores = {entry["class"]: entry["raw"] for entry in found["all"]["top"]}
    best = found["raw"]["top"][0]
    assert set(best) == {"class", "raw"} and found["raw"]["score"] == best["raw"]
    assert scores.get(best["class"], best["raw"]) == best["raw"]
    assert found["raw"]["box"] == found["all"]["box"]
    assert main([*command, "--views", "raw", "--save-crops", str(tmp_path / "crops")]) == 0
    assert "refined" not in capsys.readouterr().out


@pytest.mark.slow
def test_wsdan_report_and_explain(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 4)
    page = tmp_path / "report.html"
    command = ["report", "--checkpoint", str(checkpoint), "--views", "raw", "--out", str(page)]
    assert main(command) == 0
    text = page.read_text()
    assert "The box is what the mean attention shows; the dashed one is known" in text
    assert "Refinement corrects" not in text and "mean of both" not in text
    assert "mean area of the box" in text
    (photograph,) = make_photographs(tmp_path / "images", 1)
    command = ["explain", "--checkpoint", str(checkpoint), "--views", "raw", str(photograph)]
    assert main([*command, "--out", str(tmp_path / "figures")]) == 0
    assert len(list((tmp_path / "figures").iterdir())) == 1


def test_an_exported_program_is_one_pass(checkpoint, passes):
    classifier = Classifier(checkpoint, "cpu")
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    outputs = {}
    for views, count in (("all", 2), ("raw", 1)):
        config, before = replace(classifier.config, views=views), len(passes)
        outputs[views] = TwoViews(classifier.model, config)(images)
        assert len(passes) == before + count
        assert outputs_of(config) == tuple(outputs[views])
    assert list(outputs["raw"]) == ["raw", "boxes"]
    assert all(torch.equal(outputs["raw"][name], outputs["all"][name]) for name in outputs["raw"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_wsdan_export(kind, tmp_path, capsys):
    """The command compares the file with the checkpoint itself."""
    if kind == "onnx":
        pytest.importorskip("onnxscript")
    suffix = {"torch": ".pt2", "onnx": ".onnx"}[kind]
    checkpoint = make_checkpoint(tmp_path / "a.pt")
    exported(checkpoint, kind, tmp_path / f"a{suffix}", "--views", "raw")
    text = capsys.readouterr().out
    assert "gives raw, boxes" in text and "boxes equal" in text


def test_old_checkpoints_see_both_views(tmp_path):
    config = Classifier(make_checkpoint(tmp_path / "a.pt"), "cpu").config
    assert config.views == "all"
