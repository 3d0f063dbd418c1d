"""What `explain` finds in an image, and what its figure says."""

import pickle

import matplotlib.text
import numpy as np
import pytest
import torch
from PIL import Image

from wsdan.checkpoint import save_checkpoint
from wsdan.config import Config
from wsdan.constants import IMAGENET_MEAN
from wsdan.errors import UserError
from wsdan.inference.classifier import Classifier
from wsdan.inference.explaining.explain import draw, explain
from wsdan.inference.explaining.fonts import fitting, text_style
from wsdan.inference.explaining.parts import part_regions, strongest_maps
from wsdan.networks.model import build_model

CLASSES = ["a$x^{2$b", "日本語 " * 30, "\x1b[31mred\n\udcff", "d" * 300, "e"]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Classifier:
    path = tmp_path_factory.mktemp("explain") / "a.pt"
    torch.manual_seed(0)
    config = Config(data="folder", root="x", backbone="tiny", image_size=32, num_attentions=6)
    config = config.resolved()
    save_checkpoint(path, config, CLASSES, {"model": build_model(config, 5).state_dict()})
    return Classifier(path)


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (12, 20, 3)).astype(np.uint8)
    return Image.fromarray(pixels).resize((200, 120))


def maps(*boxes: tuple[int, int, int, int]) -> torch.Tensor:
    """Maps (M,16,16) that are 1 in boxes x1 y1 x2 y2, and 0 elsewhere."""
    found = torch.zeros(len(boxes), 16, 16)
    for attention, (x1, y1, x2, y2) in zip(found, boxes, strict=True):
        attention[y1:y2, x1:x2] = 1
    return found


def test_the_strongest_maps_come_first_and_duplicates_of_a_part_count_once():
    small, large, other = (0, 0, 4, 4), (8, 8, 16, 16), (8, 0, 14, 6)
    assert strongest_maps(maps(small, large, other), (16, 16)) == [1, 2, 0]
    attentions = maps(large, other, large, (9, 8, 16, 16), small)
    attentions[2] *= 3  # the same part, and the strongest
    assert strongest_maps(attentions, (16, 16)) == [2, 1, 4]
    halves = maps((0, 0, 16, 8), (0, 4, 16, 12))  # an overlap of a third
    assert strongest_maps(halves, (16, 16)) == [0, 1]
    assert strongest_maps(maps(*[(x, 0, x + 2, 2) for x in range(0, 16, 3)]), (16, 16)) == [
        0, 1, 2, 3,
    ]  # fmt: skip


@pytest.mark.parametrize("value", [0.0, -1.0, torch.nan, torch.inf])
def test_a_map_without_a_peak_is_no_part(value):
    attentions = maps((0, 0, 4, 4), (8, 8, 12, 12))
    attentions[0] = value
    assert strongest_maps(attentions, (16, 16)) == [1]
    assert strongest_maps(attentions[:1], (16, 16)) == []


def test_what_a_part_is_worth_is_measured_by_erasing_it(classifier, photograph):
    explanation = explain(classifier, photograph, CLASSES[0])
    inputs = classifier.inputs([photograph])
    prediction = classifier.predict(inputs)
    label = int(prediction.final.argmax())
    regions = part_regions(prediction.attentions[0], (32, 32))
    assert len(explanation.parts) >= 2
    for part in explanation.parts:
        without = inputs * ~regions[part.map]
        score = float(classifier.predict(without).final[0, label])
        assert part.score == pytest.approx(score, abs=1e-5)
        assert part.fall == pytest.approx(float(prediction.final[0, label]) - score, abs=1e-5)
    union = torch.stack([regions[part.map] for part in explanation.parts]).any(dim=0)
    together = float(classifier.predict(inputs * ~union).final[0, label])
    assert explanation.together == pytest.approx(together, abs=1e-5)
    assert max(abs(part.fall) for part in explanation.parts) > 1e-4
    assert explanation.truth_score == pytest.approx(float(prediction.final[0, 0]))
    found = explanation.to_dict()
    assert [part["number"] for part in found["parts"]] == [1, 2, 3, 4][: len(found["parts"])]
    assert found["erased"] == explanation.together and found["truth"] == CLASSES[0]


def test_views_are_cut_from_the_photograph(classifier, photograph):
    explanation = explain(classifier, photograph.resize((1600, 960)))
    box = explanation.result.box
    width, height = explanation.refined.size
    assert width / height == pytest.approx((box[2] - box[0]) / (box[3] - box[1]), rel=0.02)
    sharp = photograph.resize((1600, 960)).crop(box).resize((width, height))
    difference = np.abs(np.asarray(explanation.refined, float) - np.asarray(sharp, float))
    assert difference.mean() < 5  # the network's input of 32 pixels is off by 30
    assert explanation.image.size == (512, 307)
    erased = (np.asarray(explanation.drop) == np.round(np.array(IMAGENET_MEAN) * 255)).all(axis=2)
    part = np.nan_to_num(explanation.parts[0].heat)
    assert erased[part > 0.4].all() and not erased[part < 0.3].any()


def test_the_figure_says_what_was_found(classifier, photograph):
    best = explain(classifier, photograph).result.label
    for truth in (None, best, CLASSES[CLASSES.index(best) - 1]):
        explanation = explain(classifier, photograph, truth)
        figure = draw(explanation)
        figure.draw_without_rendering()
        texts = [
            text
            for text in figure.findobj(matplotlib.text.Text)
            if text.get_text().strip() and text.get_visible()
        ]
        said = "\n".join(text.get_text() for text in texts)
        assert f"Prediction: {fitting(best, 48)}, {100 * explanation.result.score:.1f} %" in said
        assert ("Right" in said, "Wrong: it is " in said) == (
            truth == best, truth not in (None, best)
        )  # fmt: skip
        for part in explanation.parts:
            assert any(text.get_text() == str(part.number) for text in texts)
            change = f"{-100 * part.fall:+.1f} points".replace("-", "\N{MINUS SIGN}")
            assert change in said
        assert figure.get_size_inches()[0] == 10
        assert min(text.get_fontsize() for text in texts) >= 10
        for text in texts:  # nothing is cut off
            box = text.get_window_extent().transformed(figure.transFigure.inverted())
            assert 0 <= box.x0 <= box.x1 <= 1 and 0 <= box.y0 <= box.y1 <= 1, text


@pytest.mark.parametrize("size", [(1024, 256), (256, 1024), (40, 30), (1, 1), (3000, 2)])
def test_images_of_any_shape_have_a_figure(classifier, size):
    figure = draw(explain(classifier, Image.new("RGB", size, (90, 120, 30)), top=2))
    figure.draw_without_rendering()
    assert 5 < figure.get_size_inches()[1] < 14


def test_an_image_without_attention_and_scores_that_are_not_finite(tmp_path, photograph):
    config = Config(data="folder", root="x", backbone="tiny", image_size=32, num_attentions=2)
    config = config.resolved()
    model = build_model(config, 2)
    model.attention[1].bias.data.fill_(-1e6)
    model.classifier.bias.data.fill_(torch.nan)
    save_checkpoint(tmp_path / "a.pt", config, ["a", "b"], {"model": model.state_dict()})
    explanation = explain(Classifier(tmp_path / "a.pt"), photograph)
    assert explanation.parts == [] and explanation.together is None
    assert explanation.to_dict()["score"] is None
    figure = draw(explanation)
    said = [text.get_text() for text in figure.findobj(matplotlib.text.Text)]
    assert "No map is above zero: there is no part to show" in said
    assert any("not finite" in text for text in said)


def test_a_result_is_plotted_from_what_the_call_was_given(classifier, photograph, tmp_path):
    photograph.save(tmp_path / "a.png")
    given = [tmp_path / "a.png", photograph, np.asarray(photograph)]
    for image, result in zip(given, classifier(given, top=1), strict=True):
        said = [text.get_text() for text in result.plot().findobj(matplotlib.text.Text)]
        best = fitting(result.label, 48)
        assert f"Prediction: {best}, {100 * result.score:.1f} %" in said, image
        assert ("a.png, 200 x 120 pixels" in said) == (image is given[0])
    assert "Right" in "".join(
        text.get_text() for text in result.plot(result.label).findobj(matplotlib.text.Text)
    )
    unpickled = pickle.loads(pickle.dumps(result))
    assert unpickled.to_dict() == result.to_dict()
    with pytest.raises(ValueError, match="only a result of a Classifier's call"):
        unpickled.plot()
    result = classifier(tmp_path / "a.png")
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match="no such file"):
        result.plot()


def test_mistakes(classifier, photograph, tmp_path):
    with pytest.raises(UserError, match="the truth 'cat' is no class"):
        explain(classifier, photograph, "cat")
    config = Config(data="folder", root="x", backbone="tiny", image_size=32, method="baseline")
    config = config.resolved()
    model = build_model(config, 2)
    save_checkpoint(tmp_path / "a.pt", config, ["a", "b"], {"model": model.state_dict()})
    with pytest.raises(UserError, match="plain classifier has no attention"):
        explain(Classifier(tmp_path / "a.pt"), photograph)


def test_names_are_drawn_as_they_are_or_escaped():
    assert fitting("Ünïcödé кошка", 40) == "Ünïcödé кошка"
    assert fitting("a\nb\x1b", 40) == r"a\nb\x1b"
    unassigned = "\U000e0fff"  # in no font
    assert fitting(unassigned, 40) == r"\U000e0fff"
    assert fitting("a" * 30 + "b" * 30, 11) == "aaaaa…bbbbb"
    assert text_style("$a$")["parse_math"] is False
    assert text_style("a")["fontfamily"] == ["DejaVu Sans"]
