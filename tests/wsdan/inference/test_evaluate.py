"""Evaluation: metrics checked by hand, both published means, test-time views, two ranks."""

import csv
import json
import math

import pytest
import torch
from batches import make_batch, unreadable
from ranks import run_ranks
from tape import NoWaiting
from torch import nn

from wsdan.config import Config
from wsdan.distributed import process_group
from wsdan.errors import UserError
from wsdan.inference.evaluate import VIEWS, accuracy_table, evaluate, final_accuracy, predict_views
from wsdan.inference.metrics import ClassificationMetrics, iou
from wsdan.inference.reports import evaluation_json, per_class_table, write_confusion
from wsdan.networks.backbones import build_backbone
from wsdan.networks.model import WSDAN, Output, PlainClassifier
from wsdan_kernels import attention_refine

CPU = torch.device("cpu")
NAN, INF = math.nan, math.inf


def random_images(count=4, size=64):
    """Blots of many colours, so that crops differ from the whole."""
    blots = torch.randn((count, 3, 8, 8), generator=torch.Generator().manual_seed(1))
    return 2 * nn.functional.interpolate(blots, (size, size), mode="bilinear")


def new_model() -> WSDAN:
    """Untrained, but with batch statistics of the images, and predictions of several classes."""
    torch.manual_seed(0)
    model = WSDAN("tiny", num_classes=3, num_attentions=4)
    nn.init.normal_(model.classifier.weight, std=0.1)
    with torch.no_grad():
        for _ in range(30):
            model(random_images(16))
        model.classifier.bias -= model.eval()(random_images(16)).logits.mean(dim=0)
    return model.train()


@pytest.fixture
def model():
    return new_model()


class LogitsFromPixels(nn.Module):
    """A stub model whose logits are the first row of pixels of its images (B,3,1,N)."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.classifier = nn.Linear(1, num_classes)

    def forward(self, images):
        return Output(images[:, 0, 0], images.flatten(1), None)


def logit_batches(logits, labels, **options):
    """Batches of one to three images for LogitsFromPixels."""
    images = torch.tensor(logits)[:, None, None].expand(-1, 3, 1, -1).clone()
    labels = torch.tensor(labels)
    ends = [(0, 1), (1, 4), (4, len(labels))]
    return [make_batch(images[a:b], labels[a:b], **options) for a, b in ends if a < len(labels)]


LOGITS = [
    [2.0, 1.0, 0.0],  # 0, correct
    [0.0, 3.0, 1.0],  # 0, predicted as 1
    [0.0, 3.0, 1.0],  # 1, correct
    [0.0, 1.0, 3.0],  # 1, predicted as 2
    [NAN, NAN, NAN],  # 0, undecided: wrong although a sort puts class 0 first
    [0.0, NAN, 5.0],  # 2, undecided although the largest finite logit is correct
    [INF, 0.0, 0.0],  # 0, undecided
]
TRUTH = [0, 0, 1, 1, 0, 2, 0]


def test_confusion_by_hand():
    result = evaluate(LogitsFromPixels(3), logit_batches(LOGITS, TRUTH), Config().resolved(), CPU)
    assert result.confusion.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert result.images.tolist() == [4, 2, 1]
    assert result.per_class.tolist() == [25.0, 50.0, 0.0]
    a, b = (1 / sum(math.exp(x - max(row)) for x in row) for row in LOGITS[:2])
    assert result.metrics == {
        "raw": pytest.approx(200 / 7),
        "raw_top5": pytest.approx(400 / 7),
        "images": 7,
        "bad": 0,
        "undecided": 3,
        # Of the four decided images: one score of a, correct, and three of b, of which one is.
        "confidence": pytest.approx(25 * (a + 3 * b), abs=1e-4),
        "ece": pytest.approx(25 * ((1 - a) + (3 * b - 1)), abs=1e-4),
    }
    assert final_accuracy(result.metrics) == result.metrics["raw"]
    assert "on 7 images; the scores of 3 are not finite" in accuracy_table(result.metrics)


def test_top_five_of_seven_classes():
    ranks = torch.arange(7.0)
    logits = [ranks.tolist()] * 7
    result = evaluate(
        LogitsFromPixels(7), logit_batches(logits, list(range(7))), Config().resolved(), CPU
    )
    assert result.metrics["raw"] == pytest.approx(100 / 7)
    assert result.metrics["raw_top5"] == pytest.approx(500 / 7)  # all but the two lowest


def test_accuracy_of_each_view(model):
    """Recomputed image by image; batches of unequal size."""
    config = Config(
        refine_threshold=0.4, refine_smoothing=1, refine_padding=0.05, skip_bad_images=True
    ).resolved()
    images, labels = random_images(7), torch.tensor([0, 1, 2, 1, 0, 0, 2])
    batches = [
        make_batch(images[:4], labels[:4]),
        unreadable("a.png: unreadable"),
        make_batch(images[4:], labels[4:]),
    ]
    result = evaluate(model, batches, config, CPU)
    assert model.training
    model.eval()
    counts = {"raw": 0, "refined": 0, "mean": 0}
    confusion = torch.zeros(3, 3, dtype=torch.int64)
    with torch.no_grad():
        for image, label in zip(images, labels, strict=True):
            raw = model(image[None])
            view, _ = attention_refine(image[None], raw.attentions, threshold=0.4, padding=0.05)
            scores = {"raw": raw.logits.softmax(1), "refined": model(view).logits.softmax(1)}
            scores["mean"] = scores["raw"] + scores["refined"]
            for name, value in scores.items():
                counts[name] += int(value.argmax() == label)
            confusion[label, scores["mean"].argmax()] += 1
    metrics = result.metrics
    for name, count in counts.items():
        assert metrics[name] == pytest.approx(100 * count / 7)
        assert metrics[f"{name}_top5"] == 100.0
    assert torch.equal(result.confusion, confusion)
    assert (metrics["images"], metrics["bad"]) == (7, 1)
    assert not {"tta", "boxes", "localised", "undecided"} & set(metrics)
    table = accuracy_table(metrics)
    assert "refined view" in table
    assert "on 7 images, 1 unreadable skipped" in table


def test_evaluation_of_nothing_is_refused(model):
    with pytest.raises(UserError, match=r"a.png: not an image \(--skip-bad-images"):
        evaluate(model, [unreadable("a.png: not an image")], Config().resolved(), CPU)
    with pytest.raises(UserError, match="no readable image"):
        evaluate(model, [], Config().resolved(), CPU)


@pytest.mark.parametrize("final", ["probabilities", "logits"])
def test_both_published_means(model, final):
    """They differ where one view is confident and the other is not."""
    config = Config(
        final=final, refine_threshold=0.4, refine_smoothing=1, refine_padding=0.05
    ).resolved()
    model.eval()
    with torch.no_grad():
        raw = model(random_images())
        view, boxes = attention_refine(random_images(), raw.attentions, threshold=0.4, padding=0.05)
        refined = model(view)
    logits = ((raw.logits + refined.logits) / 2).softmax(1)
    probabilities = (raw.logits.softmax(1) + refined.logits.softmax(1)) / 2
    assert (logits - probabilities).abs().max() > 0.05
    prediction = predict_views(model, random_images(), config)
    expected = logits if final == "logits" else probabilities
    torch.testing.assert_close(prediction.mean, expected)
    torch.testing.assert_close(prediction.raw, raw.logits.softmax(1))
    torch.testing.assert_close(prediction.refined, refined.logits.softmax(1))
    assert torch.equal(prediction.boxes, boxes)
    assert prediction.tta is None


@pytest.mark.parametrize("final", ["probabilities", "logits"])
def test_test_time_views_are_those_of_cal(model, final):
    """The image and its crops at 0.1, 0.2 and 0.3, and of the horizontally flipped image."""
    config = Config(
        final=final, tta=True, refine_threshold=0.1, refine_smoothing=1, refine_padding=0.05
    ).resolved()
    model.eval()
    logits = []
    with torch.no_grad():
        for images in (random_images(), random_images().flip(3)):
            raw = model(images)
            logits.append(raw.logits)
            for threshold, padding in ((0.1, 0.05), (0.2, 0.1), (0.3, 0.1)):
                view, _ = attention_refine(
                    images, raw.attentions, threshold=threshold, padding=padding
                )
                logits.append(model(view).logits)
    stacked = torch.stack(logits)
    mean = stacked.mean(0).softmax(1) if final == "logits" else stacked.softmax(2).mean(0)
    torch.testing.assert_close(predict_views(model, random_images(), config).tta, mean)
    labels = mean.argmax(1)
    metrics = evaluate(model, [make_batch(random_images(), labels)], config, CPU).metrics
    assert metrics["tta"] == 100.0
    assert "test-time views 100.0 %  100.0 %" in accuracy_table(metrics)


def test_test_time_views_of_a_plain_classifier():
    model = PlainClassifier(build_backbone("tiny"), 3).eval()
    config = Config(method="baseline", tta=True, final="logits").resolved()
    with torch.no_grad():
        both = model(random_images()).logits + model(random_images().flip(3)).logits
    prediction = predict_views(model, random_images(), config)
    torch.testing.assert_close(prediction.tta, (both / 2).softmax(1))
    assert prediction.mean is None
    batch = make_batch(random_images(), torch.tensor([0, 1, 2, 1]), torch.ones(4, 4))
    metrics = evaluate(model, [batch], config, CPU).metrics
    assert set(metrics) == {
        "raw",
        "raw_top5",
        "tta",
        "tta_top5",
        "images",
        "bad",
        "ece",
        "confidence",
    }


def test_a_threshold_near_one_stays_one(model):
    config = Config(tta=True, refine_threshold=0.95, refine_smoothing=1).resolved()
    assert predict_views(model.eval(), random_images(), config).tta.isfinite().all()


def test_iou_by_hand():
    first = torch.tensor([[0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 2, 2], [1, 1, 3, 5]])
    second = torch.tensor(
        [[0, 0, 4, 4], [0, 0, 4, 2], [2, 2, 6, 6], [2, 0, 4, 2], [0, 0, 4, 4]], dtype=torch.float
    )
    expected = torch.tensor([1.0, 8 / 16, 4 / 28, 0.0, 6 / 18])
    torch.testing.assert_close(iou(first, second), expected)
    assert iou(first[:1], torch.full((1, 4), NAN)).isnan().all()
    assert iou(first[:1], torch.tensor([[9.0, 9.0, 9.0, 9.0]])) == 0


class AttentionFromPixels(LogitsFromPixels):
    """A stub model whose one attention map is the first channel of its images (B,3,8,8)."""

    def forward(self, images):
        logits = images.new_zeros(len(images), self.classifier.out_features)
        return Output(logits, images.flatten(1), images[:, :1])


def test_localisation_by_hand():
    """Objects of 4x4 pixels; three of the five known boxes have an IoU of at least 0.5."""
    images = torch.zeros(6, 3, 8, 8)
    images[:, :, 2:6, 2:6] = 1.0
    config = Config(refine_threshold=0.9, refine_smoothing=1, refine_padding=0.125).resolved()
    found = predict_views(AttentionFromPixels(2), images, config).boxes[0].tolist()
    assert found == [1, 1, 6, 6]  # rows 2 to 5, one pixel of padding, the end as in the paper
    boxes = torch.tensor(
        [
            [1.0, 1, 6, 6],
            [1, 1, 6, 3.5],  # half of it
            [1, 1, 6, 3.4],  # less
            [1, 3, 6, 6],
            [6, 6, 8, 8],
            [NAN, NAN, NAN, NAN],
        ]
    )
    labels = torch.zeros(6, dtype=torch.int64)
    batches = [
        make_batch(images[:4], labels[:4], boxes[:4]),
        make_batch(images[4:], labels[4:], boxes[4:]),
    ]
    metrics = evaluate(AttentionFromPixels(2), batches, config, CPU).metrics
    assert (metrics["boxes"], metrics["localised"]) == (5, 60.0)
    assert "object found (IoU >= 0.5): 60.0 % of 5 known boxes" in accuracy_table(metrics)


def test_no_batch_waits_for_the_device(model):
    config = Config(tta=True).resolved()
    metrics = ClassificationMetrics(VIEWS, 3, CPU)
    images, labels, boxes = random_images(), torch.tensor([0, 1, 2, 1]), torch.full((4, 4), NAN)
    model.eval()
    with NoWaiting():
        prediction = predict_views(model, images, config)
        scores = {view: getattr(prediction, view) for view in VIEWS}
        metrics.update(scores, prediction.final, labels)
        metrics.update_boxes(prediction.boxes, boxes, images.shape[2:])
    assert metrics.compute().metrics["images"] == 4


def test_half_precision(model):
    """The passes run in bfloat16, the scores are float32 and near those of float32."""
    dtypes = []
    nn.init.normal_(model.eval().classifier.weight, std=0.02)
    exact = predict_views(model, random_images(), Config(tta=True).resolved())
    model.backbone.register_forward_hook(lambda *hook: dtypes.append(hook[2].dtype))
    half = predict_views(model, random_images(), Config(tta=True, precision="bf16").resolved())
    assert dtypes == [torch.bfloat16] * 8
    assert half.raw.dtype == half.mean.dtype == half.tta.dtype == torch.float32
    torch.testing.assert_close(half.raw, exact.raw, atol=0.03, rtol=0)


def in_two_ranks(rank: int, folder: str) -> None:
    """Evaluate shards of seven images, and of one image, of which the second rank has none."""
    with process_group(CPU):
        results = [evaluate(*shards(rank, 2, count)) for count in (7, 1)]
    torch.save([tuple(result) for result in results], f"{folder}/{rank}.pt")


def shards(rank: int, world: int, count: int):
    """The arguments of `evaluate` for one rank's share of `count` images."""
    images, labels = random_images(7, 48), torch.tensor([0, 1, 2, 1, 0, 0, 2])
    boxes = torch.tensor([[4.0, 4, 40, 40]]).repeat(7, 1)
    boxes[3] = NAN
    mine = range(rank, count, world)
    batches = [
        make_batch(images[index][None], labels[index][None], boxes[index][None]) for index in mine
    ]
    if rank == world - 1:
        batches.append(unreadable("a.png: unreadable"))
    return new_model(), batches, Config(tta=True, skip_bad_images=True).resolved(), CPU


@pytest.mark.slow
def test_two_ranks_give_the_metrics_of_one(tmp_path):
    run_ranks(in_two_ranks, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for index, count in enumerate((7, 1)):
        expected = evaluate(*shards(0, 1, count))
        for metrics, confusion, counted, calibration in (first[index], second[index]):
            assert metrics == expected.metrics
            assert torch.equal(confusion, expected.confusion)
            assert torch.equal(counted, expected.images)
            assert torch.equal(calibration.nan_to_num(), expected.calibration.nan_to_num())
        assert (metrics["images"], metrics["bad"]) == (count, 1)
    assert (first[0][1].sum(dim=0) > 0).sum() > 1  # predictions of several classes


def test_reports(tmp_path):
    """By class, as csv and as JSON; a class without an image has no accuracy."""
    logits = [[2.0, 1, 0, 0], [0.0, 3, 1, 0], [0.0, 3, 1, 0], [0.0, 1, 3, 0], [0.0, 0, 9, 0]]
    result = evaluate(
        LogitsFromPixels(4), logit_batches(logits, [0, 0, 1, 1, 1]), Config().resolved(), CPU
    )
    names = ["ash", "beech, red", "cedar", "fir"]
    table = per_class_table(result, names).splitlines()
    assert [line.split("  ")[0].strip() for line in table[1:3]] == ["beech, red", "ash"]
    assert table[1].endswith("33.3 %         3  cedar (2)")
    assert table[2].endswith("50.0 %         2  beech, red (1)")
    assert table[3] == "no image of 2 other classes"
    write_confusion(tmp_path / "a.csv", result, names)
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["class", *names]
    assert rows[2] == ["beech, red", "0", "1", "2", "0"]
    numbers = json.loads(evaluation_json(result, names))
    assert numbers["per_class"] == [50.0, pytest.approx(100 / 3), None, None]
    assert numbers["images_per_class"] == [2, 3, 0, 0]
    assert numbers["raw"] == pytest.approx(40.0)
    assert numbers["confusion"][1] == [0, 1, 2, 0]
    with pytest.raises(UserError, match="--confusion: cannot write .*: No such file or directory"):
        write_confusion(tmp_path / "none" / "a.csv", result, names)
