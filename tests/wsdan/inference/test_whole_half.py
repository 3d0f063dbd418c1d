"""Models of half precision as a whole, `model.half()` and `model.bfloat16()`: as under autocast."""

import dataclasses

import pytest
import torch
from batches import make_batch
from PIL import Image

from wsdan.checkpoint import save_checkpoint
from wsdan.config import Config
from wsdan.inference.classifier import Classifier
from wsdan.inference.evaluate import evaluate, predict_views
from wsdan.inference.explaining.explain import explain
from wsdan.networks.model import WSDAN, build_model
from wsdan.training.objective import wsdan_objective
from wsdan_kernels import FeatureCenters
from wsdan_kernels.testing import TOLERANCES

HALVES = [torch.bfloat16, torch.float16]
LABELS = torch.tensor([0, 1, 2, 1])
OPTIONS = [{}, {"attention": "slice"}]


def new_model(**options) -> WSDAN:
    torch.manual_seed(0)
    return WSDAN("tiny", num_classes=3, num_attentions=4, **options)


def random_images() -> torch.Tensor:
    return torch.randn((4, 3, 64, 64), generator=torch.Generator().manual_seed(1))


def assert_close(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    """Within the rounding of a network's layers: four of the operators' tolerances."""
    error = (found.float() - expected.float()).abs().max() / expected.float().abs().max()
    assert float(error) < 4 * TOLERANCES[dtype], float(error)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", HALVES)
def test_training_is_that_of_autocast(dtype, options):
    models = new_model(**options).to(dtype), new_model(**options)
    images = random_images()
    uniforms = torch.rand((4, 4), generator=torch.Generator().manual_seed(3))
    losses = []
    for model, inputs in zip(models, (images.to(dtype), images), strict=True):
        with torch.autocast("cpu", dtype, enabled=model is models[1]):
            losses.append(
                wsdan_objective(
                    model, inputs, LABELS, uniforms=uniforms, counterfactual=1.0,
                    generator=torch.Generator().manual_seed(2),
                )
            )  # fmt: skip
        losses[-1]["loss"].backward()
    found, expected = losses
    assert found["logits"].dtype == dtype
    for name in ("logits", "pooled", "raw", "center"):
        assert_close(found[name].detach(), expected[name].detach(), dtype)
    for weight in models[0].parameters():
        assert weight.grad.dtype == dtype and bool(weight.grad.isfinite().all())
    centers = [model.centers.centers for model in models]
    assert centers[0].dtype == torch.float32 and bool(centers[0].any())
    assert_close(*centers, dtype)


@pytest.mark.parametrize("dtype", HALVES)
def test_evaluation_is_that_of_autocast(dtype):
    config = Config(image_size=64).resolved()
    name = "bf16" if dtype == torch.bfloat16 else "fp16"
    expected = predict_views(
        new_model().eval(), random_images(), dataclasses.replace(config, precision=name)
    )
    found = predict_views(new_model().to(dtype).eval(), random_images().to(dtype), config)
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=1)
    for view in ("raw", "refined", "mean"):
        assert_close(getattr(found, view), getattr(expected, view), dtype)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_classifier_and_an_evaluation_take_images_as_they_are_read(dtype, tmp_path):
    config = Config(image_size=64, num_attentions=4, tta=True, ema=0.0).resolved()
    model = build_model(config, 3)
    save_checkpoint(tmp_path / "a.pt", config, ["a", "b", "c"], {"model": model.state_dict()})
    Image.effect_noise((80, 60), 90).convert("RGB").save(tmp_path / "a.png")
    classifier = Classifier(tmp_path / "a.pt")
    before = classifier(tmp_path / "a.png", top=3).to_dict()
    classifier.model.to(dtype)
    result = classifier(tmp_path / "a.png", top=3).to_dict()
    assert explain(classifier, tmp_path / "a.png", top=3).result.to_dict() == result
    scores = [{item["class"]: item["mean"] for item in found["top"]} for found in (before, result)]
    assert scores[1] == pytest.approx(scores[0], abs=0.02)

    batch = make_batch(random_images(), LABELS)
    metrics = evaluate(classifier.model, [batch], config, torch.device("cpu")).metrics
    assert metrics["images"] == 4


def test_centers_stay_exact():
    """Whatever casts them, and under a default dtype of half precision; float64 is kept."""
    centers = FeatureCenters(3, 8)
    centers.centers.fill_(1 / 3)
    exact = centers.centers.clone()
    for cast in (centers.half, centers.bfloat16, lambda: centers.to("cpu", torch.float16)):
        assert torch.equal(cast().centers, exact)
    centers.update_(torch.ones((2, 8), dtype=torch.bfloat16), torch.tensor([0, 1]))
    assert not torch.equal(centers.centers, exact)
    assert centers.double().centers.dtype == torch.float64
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert FeatureCenters(3, 8).centers.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
