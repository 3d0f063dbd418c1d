"""`--refine-threshold auto`: where it is set, computed, overridden, kept and exported."""

import dataclasses
import json

import pytest
import torch
from exports import make_checkpoint, make_photographs
from runs import refused
from training import new_model

from wsdan.checkpoint import load_checkpoint
from wsdan.cli import main
from wsdan.commands._training import settings_of_run
from wsdan.config import Config, from_dict
from wsdan.data import loaders
from wsdan.exporting.graph import TwoViews, to_pixels
from wsdan.inference.classifier import Classifier
from wsdan.inference.evaluate import predict_views
from wsdan.inference.figures import view_grid
from wsdan.inference.refinement import object_maps
from wsdan_kernels import attention_boxes, attention_refine, otsu_thresholds


def random_images(count: int = 4) -> torch.Tensor:
    blots = torch.randn((count, 3, 6, 6), generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(blots, (48, 48), mode="bilinear")


@pytest.fixture
def model():
    return new_model().eval()


def config(threshold, **options) -> Config:
    options = {"refine_smoothing": 1, "refine_padding": 0.05, **options}
    return Config(refine_threshold=threshold, **options).resolved()


def test_each_image_has_a_threshold_of_its_own(model):
    images = random_images()
    found = predict_views(model, images, config("auto"))
    thresholds = otsu_thresholds(found.attentions.mean(1))
    assert len(set(thresholds.tolist())) == len(images)
    views, boxes = attention_refine(images, found.attentions, threshold=thresholds, padding=0.05)
    assert torch.equal(found.boxes, boxes)
    with torch.no_grad():
        torch.testing.assert_close(found.refined, model(views).logits.softmax(1))
    alone = [predict_views(model, image[None], config("auto")).boxes for image in images]
    assert torch.equal(torch.cat(alone), boxes)


def test_tighter_crops_add_to_it(model):
    images = random_images()
    tta = predict_views(model, images, config("auto", tta=True)).tta
    scores = []
    with torch.no_grad():
        for inputs in (images, images.flip(3)):
            raw = model(inputs)
            scores.append(raw.logits.softmax(1))
            base = otsu_thresholds(raw.attentions.mean(1))
            for extra, padding in ((0.0, 0.05), (0.1, 0.1), (0.2, 0.1)):
                threshold = (base + extra).clamp(max=1)
                views, _ = attention_refine(
                    inputs, raw.attentions, threshold=threshold, padding=padding
                )
                scores.append(model(views).logits.softmax(1))
    torch.testing.assert_close(tta, torch.stack(scores).mean(0))


def test_the_exported_graph_and_the_figures_have_the_same_boxes(model):
    images, auto = random_images(), config("auto")
    expected = predict_views(model, images, auto)
    with torch.no_grad():
        found = TwoViews(model, auto).eval()(to_pixels(images, torch.float32))
    assert torch.equal(found["boxes"], expected.boxes)
    by_hand = otsu_thresholds(expected.attentions.mean(1))
    for index in range(len(images)):  # one image alone has a number for its threshold
        number = dataclasses.replace(auto, refine_threshold=float(by_hand[index]))
        one = images[index : index + 1]
        assert torch.equal(view_grid(model, one, auto), view_grid(model, one, number))


def test_a_number_or_auto_and_nothing_else(tmp_path, capsys):
    assert from_dict({"refine_threshold": "auto"}, "a.yaml").refine_threshold == "auto"
    assert from_dict({"refine_threshold": "0.5"}, "a.yaml").refine_threshold == 0.5
    assert from_dict({"refine_threshold": 1}, "a.yaml").refine_threshold == 1.0
    assert "invalid threshold value: 'otsu'" in refused(capsys, "train", "--refine-threshold=otsu")
    path = tmp_path / "a.yaml"
    path.write_text("refine_threshold: otsu\n")
    message = refused(capsys, "train", "--config", path)
    assert "refine_threshold must be a number or auto, got 'otsu'" in message
    assert "must be in [0, 1]; got 2.0" in refused(capsys, "train", "--refine-threshold=2")


def test_a_run_keeps_it_and_a_number_overrides_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 8)
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 6)
    run = tmp_path / "run"
    command = ["train", "--image-size=32", "--epochs=1", "--batch-size=4", "--num-attentions=2"]
    options = ["--refine-threshold=auto", "--no-plots", "--log-images=0", "--attention-bias=1"]
    assert main([*command, *options, f"--out={run}"]) == 0
    assert "refine_threshold: auto" in (run / "config.yaml").read_text()
    assert load_checkpoint(run / "last.pt")["config"].refine_threshold == "auto"
    areas = []
    for given in ((), ("--refine-threshold=auto",), ("--refine-threshold=1",)):
        capsys.readouterr()
        assert main(["eval", f"--checkpoint={run / 'last.pt'}", "--json", *given]) == 0
        areas.append(json.loads(capsys.readouterr().out)["refined_area"])
    assert areas[0] == areas[1] > areas[2]


def test_prediction_saved_folders_and_weights_keep_it(tmp_path, capsys):
    pytest.importorskip("safetensors")
    checkpoint = make_checkpoint(tmp_path / "best.pt", refine_threshold="auto")
    (image,) = make_photographs(tmp_path / "images", 1)
    Classifier(checkpoint, "cpu").save_pretrained(tmp_path / "saved")
    assert Classifier(tmp_path / "saved", "cpu").config.refine_threshold == "auto"
    weights = tmp_path / "a.safetensors"
    export = ["export", f"--checkpoint={checkpoint}", "--format=safetensors", f"--out={weights}"]
    assert main(export) == 0
    found = []
    for source, given in (
        (checkpoint, ()), (tmp_path / "saved", ()), (weights, ()),
        (checkpoint, ("--refine-threshold=0.95",)),
    ):  # fmt: skip
        capsys.readouterr()
        assert main(["predict", f"--checkpoint={source}", *given, str(image), "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["box"])
    assert found[0] == found[1] == found[2] != found[3]


def test_the_map_is_averaged_over_its_cells(model):
    """By hand: at a corner over the four cells that are there."""
    attentions = torch.zeros(1, 2, 5, 6)
    attentions[0, 0, 0, 0], attentions[0, 1, 3, 3] = 4.0, 18.0
    maps, threshold = object_maps(attentions, config(0.5, refine_smoothing=3))
    expected = torch.zeros(5, 6)
    expected[0, 0], expected[0, 1], expected[1, 0], expected[1, 1] = 2 / 4, 2 / 6, 2 / 6, 2 / 9
    expected[2:5, 2:5] = 9 / torch.tensor([[9.0], [9.0], [6.0]])
    torch.testing.assert_close(maps[0], expected)
    assert threshold == 0.5
    maps, _ = object_maps(attentions, config(0.5, refine_smoothing=1))
    assert torch.equal(maps, attentions.mean(1))
    maps, thresholds = object_maps(attentions, config("auto", refine_smoothing=255))
    assert maps.shape == (1, 5, 6)  # far larger than the map, it is its mean
    torch.testing.assert_close(maps, torch.full_like(maps, 11 / 30))
    assert otsu_thresholds(maps).tolist() == thresholds.tolist()


@pytest.mark.parametrize("views", ["all", "raw"])
def test_prediction_graph_and_figures_use_the_smoothed_map(model, views):
    images, smooth = random_images(), config(0.6, refine_smoothing=3, views=views)
    found = predict_views(model, images, smooth)
    maps, _ = object_maps(found.attentions, smooth)
    expected = attention_boxes(maps, (48, 48), threshold=0.6, padding=0.05)
    assert torch.equal(found.boxes, expected)
    plain = config(0.6, refine_smoothing=1)
    assert not torch.equal(predict_views(model, images, plain).boxes, expected)
    with torch.no_grad():
        graph = TwoViews(model, smooth).eval()(to_pixels(images, torch.float32))
    assert torch.equal(graph["boxes"], expected)
    assert not torch.equal(view_grid(model, images, smooth), view_grid(model, images, plain))


def test_smoothing_is_an_odd_number(capsys):
    assert "must be odd; got 2" in refused(capsys, "train", "--refine-smoothing=2")
    assert "must be at least 1; got -1" in refused(capsys, "train", "--refine-smoothing=-1")
    assert "must be at most 255" in refused(capsys, "train", "--refine-smoothing=257")


def test_a_checkpoint_from_before_smoothing_means_none(tmp_path):
    path = make_checkpoint(tmp_path / "best.pt", refine_smoothing=5)
    assert load_checkpoint(path)["config"].refine_smoothing == 5
    state = torch.load(path, weights_only=True)
    del state["config"]["refine_smoothing"]
    torch.save(state, path)
    assert load_checkpoint(path)["config"].refine_smoothing == 1
    (tmp_path / "config.yaml").write_text("refine_threshold: 0.4\nrefine_padding: 0.1\n")
    assert settings_of_run(tmp_path)["refine_smoothing"] == 1  # of a run that is resumed
    (tmp_path / "config.yaml").write_text("refine_smoothing: 5\n")
    assert settings_of_run(tmp_path)["refine_smoothing"] == 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_exported_files_have_it(tmp_path, kind):
    """`wsdan export` compares a file with the checkpoint, boxes included, before it is written."""
    for package in ("onnx", "onnxscript", "onnxruntime") if kind == "onnx" else ():
        pytest.importorskip(package)
    checkpoint = make_checkpoint(tmp_path / "best.pt")
    out = tmp_path / {"onnx": "a.onnx", "torch": "a.pt2"}[kind]
    command = ["export", f"--checkpoint={checkpoint}", f"--format={kind}", f"--out={out}"]
    assert main([*command, "--refine-threshold=auto", "--refine-smoothing=3"]) == 0
