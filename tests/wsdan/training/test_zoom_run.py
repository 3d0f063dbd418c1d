"""Runs with --zoom: the objective, resuming, ranks, and every way to a prediction."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ranks import run_ranks
from runs import SMALL, acting_at, assert_same_end
from tape import mock_cuda_graphs
from training import new_model, settings

import wsdan.training.run
from wsdan.checkpoint import load_checkpoint
from wsdan.cli import main
from wsdan.config import Config
from wsdan.data.loaders import val_loader
from wsdan.data.zoom import packed
from wsdan.distributed import process_group
from wsdan.errors import UserError
from wsdan.inference.classifier import Classifier
from wsdan.inference.evaluate import evaluate, predict_views
from wsdan.inference.explaining.explain import explain
from wsdan.training.objective import training_views, wsdan_objective
from wsdan.training.optim import build_optimizer
from wsdan.training.step import build_step
from wsdan_kernels import attention_boxes, load_exported

CPU = torch.device("cpu")
SIZES = [(100, 80), (90, 34), (36, 120), (30, 20), (64, 64), (75, 99)]  # width, height


def photograph(seed: int, size: tuple[int, int]) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    for split in ("train", "val"):
        for label, name in enumerate("abc"):
            (root / split / name).mkdir(parents=True)
            for index, size in enumerate(SIZES):
                photograph(10 * label + index, size).save(root / split / name / f"{index}.png")
    return root


def command(tree, out, *options) -> list[str]:
    of_images = ["--backbone", "tiny", "--batch-size", "6", "--lr", "1e-4", "--workers", "0"]
    given = ["--zoom", "2.5", "--epochs", "2", "--refine-threshold", "0.6"]
    exact = ["--device", "cpu", "--precision", "fp32", "--out", str(out)]
    return [*SMALL, str(tree), *of_images, *given, *exact, *options]


@pytest.fixture(scope="module")
def trained(tree, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    assert main(command(tree, out)) == 0
    return out


def large_batch(count: int = 4, side: int = 48, zoom: int = 2):
    """Images of several sizes on canvases, labels and uniforms."""
    generator = torch.Generator().manual_seed(0)
    sides = [(side * zoom, side * zoom), (side, 70), (side, side), (80, side)]
    images = [
        torch.randint(256, (3, *sides[i % 4]), generator=generator, dtype=torch.uint8)
        for i in range(count)
    ]
    large = packed(images, (side * zoom, side * zoom))
    labels = torch.arange(count) % 3
    return large, labels, torch.rand((count, 4), generator=generator)


def test_the_objective_sees_crops_of_the_large_images():
    """The drop and the raw view are as without them."""
    large, labels, uniforms = large_batch()
    images = large.reduced((48, 48), torch.float32)
    model = new_model().train()
    plain = wsdan_objective(model, images, labels, uniforms=uniforms, move_centers=False)
    found = wsdan_objective(
        model, images, labels, uniforms=uniforms, large=large, move_centers=False
    )
    assert torch.equal(found["raw"], plain["raw"]) and torch.equal(found["drops"], plain["drops"])
    assert not torch.equal(found["crops"][0], plain["crops"][0])
    maps = torch.zeros(4, 1, 6, 6)
    maps[:, :, 1:4, 2:5] = 1
    crops, _ = training_views(images, maps, uniforms, large=large)
    thresholds = 0.4 + 0.2 * uniforms[:, 2]
    boxes = attention_boxes(maps[:, 0], (48, 48), threshold=thresholds, padding=0.1)
    assert torch.equal(crops, large.cut(boxes, (48, 48), torch.float32))
    found["loss"].backward()
    assert all(weight.grad is not None for weight in model.backbone.parameters())


def test_images_no_larger_than_the_input_train_as_without_a_zoom():
    """The crop of bytes, rounded, is that of floats to half a step of 1/255."""
    large, labels, uniforms = large_batch()
    small = packed([large.pixels[i, :, :48, :48] for i in range(4)], (96, 96))
    images = small.reduced((48, 48), torch.float32)
    model = new_model().train()
    losses = [
        wsdan_objective(model, images, labels, uniforms=uniforms, large=given, move_centers=False)
        for given in (None, small)
    ]
    for name in ("loss", "raw", "drop"):
        torch.testing.assert_close(losses[0][name], losses[1][name], rtol=1e-2, atol=1e-3)
    gap = (losses[0]["crops"] - losses[1]["crops"]).abs().max()
    assert float(gap) < 0.51 / 255 / 0.224


@pytest.mark.parametrize("graph", [False, True])
def test_a_step_takes_large_images(graph, monkeypatch):
    """In two parts, with --accumulate; as a CUDA graph, mocked, the same bits as without."""
    if graph:
        mock_cuda_graphs(monkeypatch)
    results = {}
    for mode in (False, graph):
        config = settings("sgd", cuda_graph=mode, accumulate=2, zoom=2.0)
        torch.manual_seed(0)
        model = new_model().train()
        step = build_step(model, build_optimizer(model, config), config)
        losses = []
        for _ in range(5 if graph else 1):
            large, labels, uniforms = large_batch(8)
            images = large.reduced((48, 48), torch.float32)
            found = step(images, labels, uniforms, **large._asdict())
            losses.append(float(found["loss"]))
        results[mode] = losses
    assert all(np.isfinite(results[graph])) and results[graph] == results[False]


def test_a_stopped_run_resumes_bit_for_bit(tree, trained, tmp_path, monkeypatch):
    """Also with its images kept in memory."""
    stop = 4  # the first step of the second epoch
    with monkeypatch.context() as patch:
        patch.setattr(wsdan.training.run, "build_step", acting_at(stop, _interrupt))
        assert main(command(tree, tmp_path, "--cache", "ram")) == 130
    assert main([*command(tree, tmp_path, "--cache", "ram"), "--resume"]) == 0
    assert_same_end(tmp_path, trained)
    assert load_checkpoint(tmp_path / "last.pt")["config"].zoom == 2.5


def _interrupt() -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGINT)


def test_another_zoom_is_another_run(tree, trained, capsys):
    assert main([*command(tree, trained, "--zoom", "2"), "--resume"]) == 2
    assert "--zoom was 2.5 there and is 2.0 now" in capsys.readouterr().err


def evaluate_and_step(rank: int, checkpoint: str, folder: str, world_size: int) -> None:
    """Batches of one image: rounding depends on a batch's size, and a box on rounding."""
    with process_group(CPU):
        classifier = Classifier(checkpoint, "cpu")
        config = replace(classifier.config, batch_size=1)
        batches = val_loader(config, classifier.classes)
        metrics = evaluate(classifier.model, batches, config, CPU).metrics
        Path(folder, f"rank{rank}.json").write_text(json.dumps(metrics))
        large, labels, uniforms = large_batch(8)
        images = large.reduced((48, 48), torch.float32)
        model = new_model().train()
        step = build_step(model, build_optimizer(model, settings()), settings())
        count = 8 // world_size
        part = slice(count * rank, count * rank + count)
        others = {name: value[part] for name, value in large._asdict().items()}
        step(images[part], labels[part], uniforms[part], **others)
        weights = torch.cat([item.detach().flatten() for item in model.parameters()])
        torch.save(weights, f"{folder}/rank{rank}.pt")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="no distributed package")
def test_two_ranks_evaluate_as_one_and_train_equally(trained, tmp_path):
    found = {}
    for size in (1, 2):
        folder = tmp_path / str(size)
        folder.mkdir()
        run_ranks(evaluate_and_step, str(trained / "last.pt"), str(folder), size, world_size=size)
        found[size] = [json.loads((folder / f"rank{i}.json").read_text()) for i in range(size)]
    assert found[2][0] == found[2][1]
    assert torch.equal(*(torch.load(tmp_path / "2" / f"rank{i}.pt") for i in range(2)))
    assert found[2][0]["images"] == found[1][0]["images"] == 18
    for name in ("raw", "refined", "mean", "refined_area"):
        assert found[2][0][name] == pytest.approx(found[1][0][name], abs=1e-4)


def test_every_way_to_a_prediction_gives_the_same(tree, trained, tmp_path, capsys):
    """A call, a stream of files, the validation loader, serving's jobs, and an exported program."""
    from wsdan.data.zoom import joined
    from wsdan.exporting.comparison import ours

    classifier = Classifier(trained / "last.pt", "cpu")
    paths = sorted((tree / "val").rglob("*.png"))
    expected = classifier([str(path) for path in paths])
    assert len({result.top[0]["refined"] for result in expected}) > 3
    capsys.readouterr()
    arguments = ["predict", "--checkpoint", str(trained / "last.pt"), "--json", "--device", "cpu"]
    assert main([*arguments, "--workers", "0", *map(str, paths)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for line, result in zip(lines, expected, strict=True):
        assert line["box"] == result.box
        assert line["top"][0]["refined"] == pytest.approx(result.top[0]["refined"], abs=1e-5)
    originals = [classifier.read(path) for path in paths]
    inputs = joined([classifier.prepared([original]) for original in originals])
    assert torch.equal(inputs.images, classifier.inputs(originals))
    found = classifier.predict(*inputs)
    for row, result in zip(found.refined.tolist(), expected, strict=True):
        assert max(row) == pytest.approx(max(top["refined"] for top in result.top), abs=1e-5)
    rows = []
    for batch in val_loader(classifier.config, classifier.classes):
        given = batch.inputs(classifier.config, CPU)
        rows.append(predict_views(classifier.model, given.images, classifier.config, given.large))
    refined = torch.cat([row.refined for row in rows])
    torch.testing.assert_close(refined, found.refined, rtol=0, atol=1e-5)
    without = classifier.predict(inputs.images)  # cut from the inputs
    assert torch.equal(without.raw, found.raw)
    assert float((without.refined - found.refined).abs().max()) > 1e-3
    torch.testing.assert_close(ours(classifier, inputs)["mean"], found.mean, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("pixels", ["uint8", "float"])
@pytest.mark.parametrize("kind", ["torch"])
def test_an_exported_program_equals_the_checkpoint(kind, pixels, tree, trained, tmp_path):
    from wsdan.exporting.comparison import ours
    from wsdan.exporting.graph import INPUTS, given

    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    out = tmp_path / ("a.pt2" if kind == "torch" else "a.onnx")
    arguments = ["export", "--checkpoint", str(trained / "last.pt"), "--out", str(out)]
    assert main([*arguments, "--format", kind, "--input", pixels, "--root", str(tree)]) == 0
    classifier = Classifier(trained / "last.pt", "cpu")
    inputs = classifier.prepared([photograph(7, size) for size in SIZES])
    expected = ours(classifier, inputs)
    if kind == "torch":
        model = load_exported(out)
        assert model.preprocessing["canvas"] == [80, 80] and model.preprocessing["zoom"] == 2.5
        with pytest.raises(ValueError, match=r"extents must be \(6, 2\), but got None"):
            model(given(inputs, INPUTS[pixels])["images"])
    else:
        from wsdan.exporting.onnx_files import OnnxModel

        model = OnnxModel(out)
    found = model(*given(inputs, INPUTS[pixels]).values())
    assert torch.equal(found["boxes"], expected["boxes"])
    for name in ("raw", "refined", "mean"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=2e-3)


def test_explain_erases_from_the_large_image_too(trained):
    classifier = Classifier(trained / "last.pt", "cpu")
    explanation = explain(classifier, photograph(3, (100, 80)))
    inputs = classifier.prepared([photograph(3, (100, 80))])
    plain = classifier.predict(inputs.images)
    assert explanation.result.top[0]["raw"] == pytest.approx(float(plain.raw.max()), abs=1e-6)
    from wsdan.inference.explaining.parts import erased

    region = torch.zeros(1, 32, 32, dtype=torch.bool)
    region[:, 8:16, 16:24] = True
    images, large = erased(inputs, region)
    assert images[0, :, 8:16, 16:24].abs().max() == 0
    height, width = large.extents[0].tolist()
    again = large.reduced((32, 32), torch.float32)
    assert float(again[0, :, 9:15, 17:23].abs().max()) < 0.01
    assert torch.equal(large.pixels[:, :, : height // 5], inputs.large.pixels[:, :, : height // 5])
    assert (height, width) == (69, 80)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zoom": 0.5}, "--zoom must be at least 1.0; got 0.5"),
        ({"zoom": float("nan")}, "--zoom must be a finite number"),
        ({"zoom": 9.0}, "--zoom times --image-size must be at most 1024 for --data synthetic"),
        ({"zoom": 20.0, "data": "folder", "root": "x"}, "must be at most 8192; got 20 times 448"),
        ({"zoom": 2.0, "method": "baseline"}, "--zoom is for --method wsdan"),
    ],
)
def test_a_zoom_out_of_range_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        Config(**options).resolved()


def test_old_settings_have_no_zoom():
    assert Config().resolved().zoom == 1.0
