"""The figures of a run and of an evaluation: what they show, and that each is drawn and whole."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from wsdan.config import Config
from wsdan.inference.metrics import ClassificationMetrics, Evaluation
from wsdan.inference.plots.accuracy import class_accuracies, draw_per_class, draw_reliability
from wsdan.inference.plots.confusion import clustered, confusion_table, draw_confusion
from wsdan.inference.plots.curves import best_epoch, draw_curves, read_records
from wsdan.inference.plots.mistakes import Mistake, attention_in_photograph, draw_mistakes
from wsdan.inference.plots.style import save_figure, short_names
from wsdan.inference.results import Result

CPU = torch.device("cpu")
PHOTOGRAPHS = Config(data="folder", root=".", image_size=64).resolved()


def evaluation(confusion: list[list[int]], undecided: int = 0) -> Evaluation:
    """An evaluation with these counts, of sure predictions, and undecided images of class 0."""
    metrics = ClassificationMetrics(["raw"], len(confusion), CPU)
    cells = [
        (truth, label)
        for truth, row in enumerate(confusion)
        for label, count in enumerate(row)
        for _ in range(count)
    ]
    truths = torch.tensor([truth for truth, _ in cells] + [0] * undecided)
    scores = torch.full((len(truths), len(confusion)), 0.1)
    for place, (_, label) in enumerate(cells):
        scores[place, label] = 0.9
    scores[len(cells) :] = torch.nan
    metrics.update({"raw": scores}, scores, truths)
    return metrics.compute()


def texts(figure) -> str:
    """All text of a figure."""
    found = [figure.get_suptitle()]
    for axes in figure.axes:
        found += [axes.get_title(), axes.get_title(loc="left"), *(x.get_text() for x in axes.texts)]
        labels = [*axes.get_xticklabels(), *axes.get_yticklabels()]
        found += [label.get_text() for label in labels]
    return "\n".join(found)


def test_classes_that_are_taken_for_each_other_are_neighbours():
    """Two pairs and a triple of look-alikes, far apart in label order."""
    groups = ((0, 5), (2, 7), (1, 4, 8))
    counts = np.diag(np.full(9, 10))
    for group in groups:
        for label in group:
            for other in group:
                counts[label, other] += 3
    order = clustered(counts, counts.sum(axis=1)).tolist()
    assert sorted(order) == list(range(9))
    for group in groups:
        places = sorted(order.index(label) for label in group)
        assert places == list(range(places[0], places[0] + len(group)))
    assert clustered(np.diag([1, 2]), np.array([1, 2])).tolist() == [0, 1]
    assert clustered(np.diag([4] * 6), np.array([4] * 6)).tolist() in (
        list(range(6)), list(range(6))[::-1]
    )  # fmt: skip


def test_the_worst_classes_of_many_are_shown():
    confusion = np.diag(np.full(6, 5)).tolist()
    confusion[3][0], confusion[3][5] = 2, 4
    confusion[2] = [0] * 6  # no image
    result = evaluation(confusion)
    assert sorted(confusion_table(result).labels) == [0, 1, 3, 4, 5]
    table = confusion_table(result, most=2)  # 6 mistakes and 4
    assert sorted(table.labels) == [3, 5]
    of_3 = table.labels.index(3)
    assert table.counts[of_3].sum() == 9 and table.others.tolist() == [
        2 * (i == of_3) for i in (0, 1)
    ]
    figure = draw_confusion(result, list("abcdef"), most=2)
    assert "Confusion matrix of 5 classes, 31 images, 80.6 % correct" in texts(figure)
    assert "the 2 classes with most mistakes" in texts(figure)
    assert "other class" in texts(figure) and "9\n" not in texts(figure)


def test_undecided_images_have_a_column():
    figure = draw_confusion(evaluation([[3, 1], [0, 4]], undecided=2), ["a", "b"])
    assert "none" in texts(figure)
    assert "2\n33 %" in texts(figure) and "3\n50 %" in texts(figure)
    assert "none" not in texts(draw_confusion(evaluation([[3, 1], [0, 4]]), ["a", "b"]))


def test_per_class_rows_are_worst_first():
    result = evaluation([[3, 1, 0], [0, 4, 0], [3, 2, 1]])
    rows = [tuple(row) for row in class_accuracies(result)]
    assert rows == [
        (2, 6, 1, pytest.approx(100 / 6), 0, 3), (0, 4, 3, 75.0, 1, 1), (1, 4, 4, 100.0, None, 0)
    ]  # fmt: skip
    found = texts(draw_per_class(result, ["ash", "beech", "$cedar$"]))
    assert "3 as ash" in found and "1 of 6" in found and "17 %" in found
    assert "Accuracy of 3 classes; mean over the classes 63.9 %" in found
    found = texts(draw_per_class(result, ["ash", "beech", "cedar"], most=2))
    assert "Accuracy of the 2 worst of 3 classes" in found and "of all 3" in found
    assert "4 of 4" not in found


def test_reliability_says_the_error_and_its_direction():
    scores = torch.tensor([[0.9, 0.1]] * 10)
    for right, text in ((6, "over-confident by 30.0 points"), (10, "under-confident by 10.0")):
        metrics = ClassificationMetrics(["raw"], 2, CPU)
        metrics.update({"raw": scores}, scores, (torch.arange(10) >= right).long())
        found = texts(draw_reliability(metrics.compute().calibration))
        assert text in found and f"(ECE) {abs(90 - 10 * right)}.0 %" in found
    nothing = torch.tensor([[0.0, math.nan, math.nan]] * 15)
    assert "no image has a finite score" in texts(draw_reliability(nothing))


RECORDS = [
    {"epoch": 0, "loss": 3.0, "raw": 2.0, "accuracy": 20.0, "lr": 0.1, "val_raw": 30.0},
    {"epoch": 1, "loss": math.nan, "raw": 1.0, "accuracy": 40.0, "lr": 0.05},
    {"epoch": 2, "loss": 1.0, "raw": 0.5, "accuracy": 60.0, "lr": 0.01, "val_raw": 50.0,
     "val_mean": 55.0, "val_ece": 4.0},
    {"epoch": 3, "loss": 0.9, "raw": 0.4, "accuracy": 61.0, "lr": 0.0, "val_raw": 58.0,
     "val_mean": 55.0},
]  # fmt: skip


def test_curves_hold_the_epochs_that_are_numbers(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps(record) for record in RECORDS]
    path.write_text("\n".join([lines[0], "{broken", "3", *lines[1:], lines[2]]) + "\n")
    records = read_records(path)
    assert [record["epoch"] for record in records] == [0, 1, 2, 3]
    assert best_epoch(records)["epoch"] == 2  # the first of two that are equal, as best.pt
    assert best_epoch([RECORDS[1]]) is None
    loss, accuracy, rate, other = draw_curves(records).axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in loss.lines}
    assert lines["sum of all"] == [[1, 3.0], [3, 1.0], [4, 0.9]]
    assert "best 55.0 in epoch 3" in accuracy.get_title()
    assert rate.lines[0].get_xydata()[:, 1].tolist() == [0.1, 0.05, 0.01, 0.0]
    assert other.get_title() == "Validation in %: calibration error (ECE)"
    assert draw_curves([RECORDS[1]]).axes[3].get_title() == ""


def test_names_are_cut_in_their_middle_and_stay_apart():
    names = ["Yoghurt-Natural-Low-Fat", "Yoghurt-Natural-Mild", "a\nb", "$x$"]
    assert short_names(names, 30)[:2] == names[:2]
    assert short_names(names, 30)[2:] == ["a\\nb", "$x$"]
    assert short_names(names, 11)[:2] == ["Yoghu…w-Fat", "Yoghu…-Mild"]
    alike = [f"Yoghurt-{i}-Fat-Milk" for i in range(12)]
    short = short_names(alike, 9)
    assert len(set(short)) == 12 and all(len(name) <= 9 for name in short)


def mistake(
    name: str, attention: np.ndarray | None, size=(90, 60), own: float | None = 0.2
) -> Mistake:
    top = [{"class": "wolf", "raw": 0.5, "mean": 0.7}]
    top += [] if own is None else [{"class": "dog", "raw": 0.3, "mean": own}]
    box = None if attention is None else [10, 10, 80, 60]
    return Mistake(Result(name, size, top, box, attention), "dog", 0)


def test_mistakes_are_shown_with_their_attention():
    peak = np.zeros((4, 4), np.float32)
    peak[1, 2] = 2.0
    photograph = Image.new("RGB", (90, 60), "green")
    found = [mistake("val/dog/a.jpg", peak), mistake("b.jpg", np.zeros((4, 4)), own=None)]
    figure = draw_mistakes(found, [photograph] * 2, PHOTOGRAPHS)
    assert "is dog, 20.0 %\ntaken for wolf, 70.0 %\ndog/a.jpg" in texts(figure)
    assert "is dog, not in the top 5" in texts(figure)
    first, second = (axes.images[0].get_array() for axes in figure.axes[:2])
    assert first.shape == (320, 648, 3)
    middle = first[120:200, 340:]
    assert int(middle.max()) - int(middle.min()) > 100 and middle.std() > 5
    assert (second[160, 330:] == 255).all()  # no attention to show
    (only,) = [x.images[0] for x in draw_mistakes(
        [mistake("c", None)], [photograph], PHOTOGRAPHS).axes if x.images]  # fmt: skip
    assert only.get_array().shape == (320, 320, 3)
    assert "No image was classified wrongly" in texts(draw_mistakes([], [], PHOTOGRAPHS))


def test_attention_lies_where_the_network_saw_the_photograph():
    """A center crop of the squashed image: nothing is known of the rim."""
    result = mistake("a", np.ones((4, 4), np.float32)).result
    heat = attention_in_photograph(result, PHOTOGRAPHS, 90)
    assert heat.shape == (60, 90)
    assert np.isnan(heat[:3]).all() and np.isnan(heat[:, :4]).all()
    assert np.allclose(heat[8:-8, 10:-10], 1)


@pytest.mark.parametrize("count", [2, pytest.param(200, marks=pytest.mark.slow)])
def test_figures_are_a_thousand_pixels_wide_and_hold_their_text(count, tmp_path):
    """Of two classes, of many, and of more than are shown, all with long names."""
    generator = torch.Generator().manual_seed(0)
    confusion = torch.diag(torch.full((count,), 7)) + (
        torch.rand((count, count), generator=generator) < 0.01)  # fmt: skip
    result = evaluation(confusion.tolist())
    classes = [f"{i:03}.Northern_Rough_winged_Swallow_of_the_{i}th_kind" for i in range(count)]
    for name, draw in (("a", draw_confusion), ("b", draw_per_class)):
        save_figure(draw(result, classes), tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as image:
            pixels = np.asarray(image.convert("L"))
        assert pixels.shape[1] == 1000 and pixels.shape[0] < 1400
        rim = np.concatenate([pixels[:2].ravel(), pixels[-2:].ravel(), pixels[:, 0], pixels[:, -1]])
        assert (rim > 200).all()  # no text is cut off
