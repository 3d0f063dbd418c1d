"""The two views as one module, and the operators that stand for ours in ONNX."""

import dataclasses

import pytest
import torch
from training import new_model

from wsdan.config import Config
from wsdan.constants import NORMALIZATION
from wsdan.exporting.graph import TwoViews, to_pixels
from wsdan.exporting.standard_operators import DECOMPOSITIONS
from wsdan.inference.evaluate import predict_views
from wsdan_kernels import attention_boxes, bilinear_attention_pool, crop_resize

OPERATORS = torch.ops.wsdan
BOXES = DECOMPOSITIONS[OPERATORS.attention_boxes.default]
CROP = DECOMPOSITIONS[OPERATORS.crop_resize.default]
POOL = DECOMPOSITIONS[OPERATORS.bilinear_attention_pool.default]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("final", ["probabilities", "logits", "plain"])
def test_the_two_views_are_those_of_predict_views(final):
    method = "baseline" if final == "plain" else "wsdan"
    config = Config(
        refine_threshold=0.6, refine_padding=0.1, method=method,
        final="logits" if final == "logits" else "probabilities",
    ).resolved()  # fmt: skip
    model = new_model(method).eval()
    inputs = torch.randn((3, 3, 40, 48), generator=torch.Generator().manual_seed(1))
    expected = predict_views(model, inputs, config)
    images = to_pixels(inputs, torch.float32)
    with torch.no_grad():
        found = TwoViews(model, config).eval()(images)
    assert list(found) == (["raw"] if final == "plain" else ["raw", "refined", "mean", "boxes"])
    for name, value in found.items():
        torch.testing.assert_close(value, getattr(expected, name), rtol=0, atol=1e-6)


def test_uint8_images_are_those_of_the_transforms():
    images = (random(2, 3, 16, 16) * 255).to(torch.uint8)
    mean, std = (torch.tensor(values)[:, None, None] for values in NORMALIZATION[3])
    inputs = (images / 255 - mean) / std
    assert torch.equal(to_pixels(inputs, torch.uint8), images)
    views = TwoViews(new_model().eval(), Config().resolved()).eval()
    with torch.no_grad():
        found, expected = views(images), predict_views(views.model, inputs, Config().resolved())
    assert torch.equal(found["raw"], expected.raw)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("padding", [0.0, 0.07, 1.0])
def test_boxes_in_standard_operators(threshold, padding):
    maps = random(7, 5, 6) ** 3
    maps[3], maps[4, 1, 2], maps[5, 0, 0] = 0, torch.nan, torch.inf
    maps[6] = -maps[6]
    expected = attention_boxes(maps, (33, 47), threshold=threshold, padding=padding)
    thresholds = torch.full((7, 1), threshold)
    found = BOXES(maps, thresholds, 33, 47, padding, "paper", True, "cpu")
    assert found.dtype == torch.int32
    assert found[:, 0].tolist() == expected.tolist()


@pytest.mark.parametrize("size", [(31, 47), (1, 1), (64, 1)])
def test_crops_in_standard_operators(size):
    images = random(4, 3, 31, 47) * 4 - 2
    boxes = torch.tensor(
        [[0, 0, 47, 31], [5, 7, 6, 8], [46, 30, 47, 31], [3, 4, 30, 29]], dtype=torch.int32
    )
    expected = crop_resize(images, boxes, size)
    found = CROP(images, boxes, *size, True, "cpu")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    one = CROP(images[..., :1, :1], boxes.clamp(max=1), 2, 3, True, "cpu")
    assert torch.equal(one, images[..., :1, :1].expand(-1, -1, 2, 3))


@pytest.mark.parametrize("align_corners", [True, False])
def test_crops_of_bytes_in_standard_operators(align_corners):
    """Those of --zoom; a value on the edge between two bytes may be rounded to the other."""
    images = (random(3, 3, 31, 40) * 255).to(torch.uint8)
    boxes = torch.tensor([[0, 0, 40, 31], [5, 7, 17, 31], [11, 30, 12, 31]])
    found = CROP(images, boxes, 24, 26, align_corners, "cpu")
    expected = crop_resize(images, boxes, (24, 26), align_corners=align_corners)
    assert found.dtype == torch.uint8
    gap = (found.int() - expected.int()).abs()
    assert int(gap.max()) <= 1 and float(gap.float().mean()) < 0.01


@pytest.mark.parametrize("size", [(4, 5), (2, 3)])
def test_pooling_in_standard_operators(size):
    features, maps = random(3, 6, 4, 5) - 0.5, random(3, 2, *size, seed=1)
    maps[1] = 0
    expected = bilinear_attention_pool(features, maps, scale=100.0)
    found = POOL(features, maps, "mean", True, "all", 1, 1e-12, 100.0, "cpu")[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_maps_and_pooling_at_once_in_standard_operators():
    head = new_model().eval().attention
    features = random(2, 64, 4, 4)
    norm = (head[1].weight, head[1].bias, head[1].running_mean, head[1].running_var, head[1].eps)
    arguments = (features, head[0].weight.flatten(1), *norm, "mean", True, "all", 1e-12, 1.0, "cpu")
    found = DECOMPOSITIONS[OPERATORS.attend_and_pool.default](*arguments)
    with torch.no_grad():
        expected = OPERATORS.attend_and_pool(*arguments)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_what_a_model_never_does_is_refused():
    maps, images = random(1, 4, 4), random(1, 3, 8, 8)
    with pytest.raises(ValueError, match="rule"):
        BOXES(maps, torch.ones(1, 1), 8, 8, 0.1, "guyuc", True, "cpu")
    with pytest.raises(ValueError, match="pooling"):
        POOL(images, images, "max", True, "all", 1, 1e-12, 1.0, "cpu")


def test_the_thresholds_of_the_configuration_count():
    config, model = Config().resolved(), new_model().eval()
    images = random(2, 3, 40, 40)
    with torch.no_grad():
        loose, tight = (
            TwoViews(model, dataclasses.replace(config, refine_threshold=value)).eval()(images)
            for value in (0.1, 0.9)
        )
    assert not torch.equal(loose["boxes"], tight["boxes"])
