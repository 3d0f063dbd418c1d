"""The trade-off's table: passes, accuracies and speeds of each way to classify."""

import json
from dataclasses import replace

import pytest
import torch
import tradeoff
from exports import make_checkpoint

from wsdan.data import loaders
from wsdan.data.synthetic import CLASSES
from wsdan.inference.classifier import Classifier
from wsdan.inference.evaluate import evaluate
from wsdan.networks.model import WSDAN

PASSES = {"raw": 1, "raw, flipped": 2, "refined": 2, "mean": 2, "tta": 8}


@pytest.fixture
def checkpoint(tmp_path, monkeypatch, request):
    """Its --zoom is 1 unless a test is parametrized with another."""
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 10)
    settings = {"data": "synthetic", "root": None, "image_size": 32, "batch_size": 4}
    settings["zoom"] = getattr(request, "param", 1.0)
    return make_checkpoint(tmp_path / "a.pt", list(CLASSES), **settings)


@pytest.mark.parametrize("checkpoint", [1.0, 2.0], indirect=True)
def test_each_way_has_its_passes_and_the_accuracy_of_wsdan_eval(
    checkpoint, tmp_path, monkeypatch, capsys
):
    sizes, forward, out = [], WSDAN.forward, tmp_path / "a.json"

    def counted(self, images, *arguments):
        sizes.append(len(images))
        return forward(self, images, *arguments)

    monkeypatch.setattr(WSDAN, "forward", counted)
    tradeoff.main(["--checkpoint", str(checkpoint), "--batch", "4", "--json", str(out)])
    passes = [size for size in sizes if size > 1]  # others are a check of the size
    assert passes == [4] * 15 + [4] * 15 + [2] * 15  # 1 + 2 + 2 + 2 + 8 on each of three batches
    content = json.loads(out.read_text())
    found = {row["way"]: row for row in content["rows"]}
    assert {name: row["passes"] for name, row in found.items()} == PASSES
    classifier = Classifier(checkpoint, "cpu")
    config = replace(classifier.config, tta=True)
    batches = loaders.val_loader(config, classifier.classes)
    metrics = evaluate(classifier.model, batches, config, torch.device("cpu")).metrics
    for view in ("raw", "refined", "mean", "tta"):
        assert found[view]["accuracy"] == pytest.approx(metrics[view])
        assert found[view]["images_per_s"] == pytest.approx(1e3 / found[view]["ms"])
    assert content["images"] == 10
    text = capsys.readouterr().out
    tradeoff.main(["--checkpoint", str(checkpoint), "--batch", "4", "--refine-threshold", "auto"])
    assert "refine threshold auto" in capsys.readouterr().out
    assert "| raw | 1 |" in text and "| 1.00 |" in text and "batches of 4, 10 images" in text


def test_speeds_are_medians_of_full_batches_less_the_first(checkpoint, monkeypatch):
    seconds = iter([9.0] * 5 + [2.0, 4.0, 6.0, 8.0, 16.0] + [99.0] * 5)
    timed = tradeoff._timed
    monkeypatch.setattr(tradeoff, "_timed", lambda *given: (next(seconds), timed(*given)[1]))
    classifier = Classifier(checkpoint, "cpu")
    batches = loaders.val_loader(classifier.config, classifier.classes)
    found = tradeoff.rows(*tradeoff.measure(classifier, batches, classifier.config))
    assert [row["ms"] for row in found] == [500, 1000, 1500, 2000, 4000]


@pytest.mark.parametrize("batch", ["10", "8"])
def test_too_few_batches_and_a_plain_classifier_are_refused(batch, checkpoint, tmp_path):
    with pytest.raises(SystemExit, match="two full batches"):
        tradeoff.main(["--checkpoint", str(checkpoint), "--batch", batch])
    plain = make_checkpoint(tmp_path / "plain.pt", method="baseline")
    with pytest.raises(SystemExit, match="a plain classifier"):
        tradeoff.main(["--checkpoint", str(plain)])


@pytest.mark.slow
def test_the_plot(tmp_path):
    pytest.importorskip("matplotlib")
    table = [
        {"way": name, "accuracy": 70 + 2 * count, "error": 1.1, "images_per_s": 300 / count}
        for name, count in PASSES.items()
    ]
    tradeoff.plot(table, "a title", str(tmp_path / "a.png"))
    assert (tmp_path / "a.png").stat().st_size > 5000
