"""A checkpoint of version 2, from the middle of an epoch, loads, evaluates and resumes.

tests/golden/checkpoint-v2.json holds what the code that wrote it got from it, in its own words.
"""

import json
import shutil

import pytest
import torch
from paths import ROOT
from runs import metrics_of

from wsdan.checkpoint import VERSION, load_checkpoint
from wsdan.cli import main
from wsdan.data import loaders
from wsdan.inference.classifier import Classifier
from wsdan.inference.evaluate import evaluate

CHECKPOINT = ROOT / "tests" / "golden" / "checkpoint-v2.pt"
RECORDED = json.loads(CHECKPOINT.with_suffix(".json").read_text())
COMMAND = [
    "train", "--device", "cpu", "--image-size", "32", "--num-attentions", "4",
    "--batch-size", "8", "--optimizer", "sgd", "--lr", "1e-3", "--epochs", "2",
    "--eval-every", "1", "--save-every", "1", "--no-plots", "--refine-threshold", "0.4",
    "--refine-smoothing", "1", "--refine-padding", "0.1", "--train-views", "crop+drop",
    "--views-after", "0",
]  # fmt: skip


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    """The images that it was trained and evaluated on."""
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 32)
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 17)


def renamed(values: dict) -> dict:
    """Recorded metrics under the names of today."""
    return {name.replace("pictures", "images"): value for name, value in values.items()}


def test_its_names_are_those_of_today():
    old, state = torch.load(CHECKPOINT, weights_only=True), load_checkpoint(CHECKPOINT)
    assert old["version"] == 2 < VERSION
    assert state["config"].log_images == old["config"]["pictures"] == 2
    totals, old_totals = (item["ranks"][0]["progress"]["totals"] for item in (state, old))
    assert totals == renamed(old_totals)
    assert totals["images"] == 16
    assert state["lr_scheduler"] == old["schedule"]


def test_its_model_gives_the_recorded_logits_and_metrics():
    classifier = Classifier(CHECKPOINT)
    images = torch.linspace(-2, 2, 2 * 3 * 32 * 32).view(2, 3, 32, 32)
    with torch.no_grad():
        logits = classifier.model(images).logits
    expected = torch.tensor(RECORDED["logits"])
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    batches = loaders.val_loader(classifier.config, classifier.classes)
    result = evaluate(classifier.model, batches, classifier.config, classifier.device)
    expected = renamed(RECORDED["evaluation"])
    assert {name: result.metrics[name] for name in expected} == expected


def test_its_run_resumes_to_the_recorded_end(tmp_path):
    shutil.copy(CHECKPOINT, tmp_path / "last.pt")
    assert main([*COMMAND, "--out", str(tmp_path), "--resume"]) == 0
    (record,) = metrics_of(tmp_path)
    expected = renamed(RECORDED["resumed"][1])
    assert {name: record[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert load_checkpoint(tmp_path / "last.pt")["ranks"][0]["progress"]["epoch"] == 2
