"""What the report gathers: counts and a few examples of the images, and the run's history."""

import json

import pytest
import torch
from batches import make_batch

from wsdan.config import Config
from wsdan.inference.evaluate import Prediction
from wsdan.inference.metrics import Evaluation
from wsdan.reporting import observe as observing
from wsdan.reporting.charts import curves
from wsdan.reporting.content import class_rows, confused_pairs, interval
from wsdan.reporting.history import MOST_EPOCHS, history
from wsdan.reporting.observe import WORST, Observed, observe


@pytest.fixture
def observed(monkeypatch):
    """What is kept of 40 batches of random scores of three classes; raw and final scores, labels"""
    generator = torch.Generator().manual_seed(0)
    kept = []

    def predict(model, images, config, large):
        raw, refined = (torch.randn(8, 3, generator=generator).softmax(1) for _ in range(2))
        boxes = torch.tensor([[0, 0, 16, 16], [0, 0, 8, 16]] * 4, dtype=torch.int32)
        kept.append((raw, (raw + refined) / 2))
        return Prediction(raw, refined, kept[-1][1], None, boxes, None)

    monkeypatch.setattr(observing, "predict_views", predict)
    batches, labels = [], torch.randint(3, (40, 8), generator=generator)
    for number, part in enumerate(labels):
        known = torch.full((8, 4), torch.nan)
        known[:2] = torch.tensor([0.0, 0, 16, 16])
        batch = make_batch(torch.zeros(8, 3, 16, 16), part, known)
        batch.indices = [8 * number + i for i in range(8)]
        batches.append(batch)
    model = torch.nn.Sequential(torch.nn.Linear(1, 1))
    found = observe(model, batches, Config().resolved(), torch.device("cpu"), 3)
    raw, final = (torch.cat(parts) for parts in zip(*kept, strict=True))
    return found, raw, final, labels.flatten()


def test_it_keeps_the_worst_errors_and_one_example_of_each_cell(observed):
    found, _, final, labels = observed
    scores, predicted = final.max(dim=1)
    wrong = (predicted != labels).nonzero().flatten().tolist()
    expected = sorted(wrong, key=lambda i: -scores[i])[:WORST]
    assert [example.index for example in found.worst] == expected
    assert len(found.pairs) == 6 and len(found.recognised) == 3
    kept = {cell: part[0].index for cell, part in found.pairs.items() if len(part) == 1}
    kept |= {(label, label): example.index for label, example in found.recognised.items()}
    assert len(kept) == 9
    for (truth, prediction), index in kept.items():
        cell = ((labels == truth) & (predicted == prediction)).nonzero().flatten()
        assert index == cell[scores[cell].argmax()]


def test_it_counts_what_refinement_changes(observed):
    found, raw, final, labels = observed
    before, after = raw.argmax(1) == labels, final.argmax(1) == labels
    changed = int((after & ~before).sum()), int((before & ~after).sum())
    assert (found.corrected, found.spoiled) == changed and changed[0] != changed[1]
    assert found.raw_correct.tolist() == torch.bincount(labels[before], minlength=3).tolist()
    assert found.areas.tolist() == [0, 0, 0, 0, 0, 160, 0, 0, 0, 160]
    assert found.overlaps.tolist() == [0, 0, 0, 0, 0, 40, 0, 0, 0, 40]
    assert found.overlap == pytest.approx(60)


def test_scores_that_are_not_finite_are_no_examples():
    found = Observed(2)
    scores = torch.tensor([[torch.nan, 0.5], [0.9, 0.1]])
    batch = make_batch(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]))
    observing._add_scores(found, Prediction(scores, None, None, None, None, None), batch)
    assert [example.index for example in found.worst] == [1]
    assert found.recognised == {}


def made(confusion: list[list[int]]) -> Observed:
    """Observed with a confusion matrix, and as many images."""
    found, table = Observed(len(confusion)), torch.tensor(confusion)
    right = 100 * int(table.trace()) / int(table.sum())
    metrics = {"raw": right, "raw_top5": 100.0, "images": int(table.sum()), "bad": 0}
    found.evaluation = Evaluation(metrics, table, table.sum(dim=1), torch.zeros(15, 3))
    return found


def test_pairs_are_counted_in_both_directions():
    pairs = confused_pairs(made([[5, 1, 0], [4, 3, 0], [2, 0, 9]]))
    assert [pair.mistakes for pair in pairs] == [5, 2]
    assert [side.label for side in pairs[0].sides] == [1, 0]  # the one mistaken more often first
    assert [side.mistakes for side in pairs[0].sides] == [4, 1]
    assert confused_pairs(made([[1, 0], [0, 1]])) == []


def test_class_rows_are_worst_first_and_empty_ones_last():
    rows = class_rows(made([[5, 1, 0, 0], [4, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 2]]))
    assert [row.label for row in rows] == [1, 0, 3, 2]
    assert (rows[0].accuracy, rows[0].precision, rows[0].mistakes) == (50.0, 80.0, 4)
    assert (rows[0].other, rows[0].taken) == (0, 4)
    assert rows[-1].accuracy is rows[-1].precision is rows[-1].other is None


def test_the_interval_is_wilsons():
    low, high = interval(made([[5, 5], [0, 0]]).evaluation)  # 50 % of 10 images
    assert (low, high) == (pytest.approx(23.66, abs=0.01), pytest.approx(76.34, abs=0.01))


def test_history_reads_what_is_whole(tmp_path):
    lines = ['{"epoch": 1, "loss": 2.0}', "[1]", '{"epoch": "x"}', '{"epoch": 0, "loss": NaN}', "{"]
    file = tmp_path / "metrics.jsonl"
    file.write_text("\n".join([*lines, '{"epoch": 1, "loss": 1.0}']))
    assert history(tmp_path / "best.pt") == [{"epoch": 0}, {"epoch": 1, "loss": 1.0}]
    assert history(tmp_path / "gone" / "best.pt") == []
    file.write_text("\n".join(json.dumps({"epoch": i}) for i in range(3 * MOST_EPOCHS + 1)))
    found = history(tmp_path / "best.pt")
    assert len(found) <= MOST_EPOCHS and found[-1]["epoch"] == 3 * MOST_EPOCHS


def test_a_curve_has_the_ticks_of_its_values():
    records = [{"epoch": i, "lr": 3e-4 - 1e-4 * i} for i in range(3)]
    chart = curves(records, {"lr": "learning rate", "other": "not there"}, "learning rate")
    assert [tick.text for tick in chart.y_ticks] == ["1e-4", "1.5e-4", "2e-4", "2.5e-4", "3e-4"]
    assert [tick.text for tick in chart.x_ticks] == ["1", "2", "3"]
    (line,) = chart.lines
    xs, ys = zip(*[map(float, point.split(",")) for point in line.points.split()], strict=True)
    assert xs == (chart.left, (chart.left + chart.right) / 2, chart.right)
    assert ys == (chart.top, (chart.top + chart.bottom) / 2, chart.bottom)
    assert curves(records, {"other": "not there"}, "none") is None
