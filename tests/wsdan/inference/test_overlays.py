"""An attention map lies on the photograph where the network saw it."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from wsdan.data.transforms import box_in_original, eval_transform
from wsdan.inference.explaining.overlays import map_in_original, overlaid, shown_size


def reached(heat: np.ndarray) -> list[int]:
    """x1 y1 x2 y2, half-open, of where a map is above a half."""
    y, x = np.nonzero(np.nan_to_num(heat) > 0.5)
    return [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_a_map_of_the_whole_image_is_resized_as_in_the_kernels():
    maps = torch.rand(1, 1, 5, 3, generator=torch.Generator().manual_seed(0))
    found = map_in_original(maps[0, 0].numpy(), (64, 64), 64, whole=True, longest=64)
    expected = F.interpolate(maps, (64, 64), mode="bilinear", align_corners=True)[0, 0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("size", [(300, 200), (80, 320)])
@pytest.mark.parametrize("image_size", [56, (84, 56)])
def test_a_map_is_nan_outside_of_the_center_crop(size, image_size):
    heat = map_in_original(np.ones((4, 4)), size, image_size, longest=max(size))
    assert heat.shape == (size[1], size[0])
    height, width = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    seen = box_in_original([0, 0, width, height], size, image_size)
    assert np.abs(np.array(reached(heat)) - seen).max() <= 1
    assert np.isnan(heat[0]).all() and np.isnan(heat[:, -1]).all()


def test_a_map_lies_on_what_it_was_computed_of():
    """A white square in a wide photograph; the map is the network's input itself."""
    pixels = np.zeros((200, 400, 3), dtype=np.uint8)
    pixels[60:100, 220:300] = 255
    seen = eval_transform(112)(Image.fromarray(pixels))[0].numpy()
    heat = map_in_original((seen - seen.min()) / np.ptp(seen), (400, 200), 112, longest=400)
    assert np.abs(np.array(reached(heat)) - [220, 60, 300, 100]).max() <= 2


@pytest.mark.parametrize(
    ("size", "expected"),
    [((40, 30), (512, 384)), ((1000, 4000), (128, 512)), ((1, 9999), (2, 512))],
)
def test_shown_size(size, expected):
    assert shown_size(size) == expected


def test_more_attention_is_lighter_in_greyscale_whatever_the_photograph():
    noise = np.random.default_rng(0).integers(0, 255, (8, 32, 3)).astype(np.uint8)
    heat = np.tile(np.repeat([0.0, 1.0], 16), (8, 1))
    grey = np.asarray(overlaid(Image.fromarray(noise), heat).convert("L"))
    assert grey[:, :16].max() < grey[:, 16:].min()


def test_what_the_network_did_not_see_stays_as_it_is():
    photograph = Image.new("RGB", (20, 10), (200, 100, 50))
    heat = np.full((10, 20), np.nan)
    heat[:, :5] = 0.5
    shown = np.asarray(overlaid(photograph, heat))
    assert (shown[:, 5:] == photograph.convert("L").getpixel((0, 0))).all()
    assert (shown[:, :5] != shown[:, 5:6]).any()
