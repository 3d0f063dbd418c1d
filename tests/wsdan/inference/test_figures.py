"""Grids of the views: cells, box, attention overlay, and that they are deterministic."""

import pytest
import torch
from torch import nn

from wsdan.config import Config
from wsdan.constants import IMAGENET_MEAN, IMAGENET_STD
from wsdan.inference.figures import BOX_COLOUR, CELL, GAP, view_grid
from wsdan.networks.backbones import build_backbone
from wsdan.networks.model import WSDAN, Output, PlainClassifier

GREY, WHITE = 0.25, 1.0


class AttentionToWhite(nn.Module):
    """A stub model: its second map is 1 on white pixels, its first is nearly 0."""

    def forward(self, images):
        white = (images.mean(dim=1, keepdim=True) > 1).float()
        return Output(
            images[:, 0, 0],
            images.flatten(1),
            torch.cat((white.new_full(white.shape, 0.01), white), dim=1),
        )


def image(size: int = 64) -> torch.Tensor:
    """A white square in grey, normalized (1,3,size,size)."""
    pixels = torch.full((1, 3, size, size), GREY)
    pixels[:, :, size // 4 : size // 2, size // 4 : size // 2] = WHITE
    return (pixels - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[
        :, None, None
    ]


def cells(grid: torch.Tensor, size: int, row: int = 0) -> list[torch.Tensor]:
    """The five cells (3,size,size) of a row, in [0, 1]."""
    top = row * (size + GAP)
    lefts = [column * (size + GAP) for column in range(5)]
    return [grid[:, top : top + size, left : left + size] / 255 for left in lefts]


def settings(**options) -> Config:
    return Config(
        refine_threshold=0.5, refine_smoothing=1, refine_padding=0.0625, **options
    ).resolved()


def test_the_five_cells_of_a_row():
    grid = view_grid(AttentionToWhite().eval(), image(), settings())
    assert grid.dtype == torch.uint8
    assert grid.shape == (3, 64, 5 * 64 + 4 * GAP)
    boxed, overlaid, crop, drop, refined = cells(grid, 64)
    grey = torch.full((3,), GREY)
    # The box outline is one pixel wide, four pixels outside of the square, which spans 16 to 31.
    box = torch.tensor(BOX_COLOUR)
    torch.testing.assert_close(boxed[:, 12, 20], box, atol=3e-3, rtol=0)
    torch.testing.assert_close(boxed[:, 20, 12], box, atol=3e-3, rtol=0)
    torch.testing.assert_close(boxed[:, 11, 20], grey, atol=3e-3, rtol=0)
    torch.testing.assert_close(boxed[:, 13, 20], grey, atol=3e-3, rtol=0)
    assert (boxed[:, 20, 20] == WHITE).all()
    # Red where the attention is high, bluish elsewhere, blended with the image.
    assert overlaid[0, 24, 24] > 0.8
    assert overlaid[2, 24, 24] < 0.4
    assert overlaid[2, 60, 60] > overlaid[0, 60, 60]
    assert (crop == WHITE).float().mean() > 2 * (boxed == WHITE).float().mean()
    assert (refined == WHITE).float().mean() > (crop == WHITE).float().mean()
    # Dropped pixels have the mean colour, 0 in the network's input.
    torch.testing.assert_close(drop[:, 24, 24], torch.tensor(IMAGENET_MEAN), atol=3e-3, rtol=0)
    torch.testing.assert_close(drop[:, 60, 60], grey, atol=3e-3, rtol=0)


def test_one_row_per_image_downsized_to_a_cell():
    images = torch.cat([image(2 * CELL), image(2 * CELL).flip(3)])
    grid = view_grid(AttentionToWhite().eval(), images, settings(image_size=2 * CELL))
    assert grid.shape == (3, 2 * CELL + GAP, 5 * CELL + 4 * GAP)
    assert (grid[:, CELL : CELL + GAP] == 255).all()
    first, second = cells(grid, CELL, 0), cells(grid, CELL, 1)
    assert (first[0][:, CELL * 3 // 8, CELL * 3 // 8] == WHITE).all()
    assert (second[0][:, CELL * 3 // 8, CELL * 5 // 8] == WHITE).all()


@pytest.mark.parametrize("training", [True, False])
def test_it_is_deterministic_and_changes_no_state(training):
    """Two calls give the same figure, and change no mode, weight, statistic or generator."""
    torch.manual_seed(0)
    model = WSDAN("tiny", num_classes=3, num_attentions=4).train(training)
    images = torch.randn(2, 3, 64, 64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    grids = [view_grid(model, images, settings(image_size=64)) for _ in range(2)]
    assert torch.equal(*grids)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training is training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_plain_classifier_has_the_image_only():
    model = PlainClassifier(build_backbone("tiny"), 3).eval()
    grid = view_grid(model, image(), settings(method="baseline"))
    assert grid.shape == (3, 64, 64)
    torch.testing.assert_close(grid[:, 0, 0] / 255, torch.full((3,), GREY), atol=3e-3, rtol=0)


@pytest.mark.parametrize("value", [0.0, torch.nan])
def test_dead_maps_and_nan_maps(value):
    """The whole image in the lowest colour."""

    class Dead(AttentionToWhite):
        def forward(self, images):
            return super().forward(images)._replace(attentions=torch.full((1, 2, 8, 8), value))

    overlaid = cells(view_grid(Dead().eval(), image(), settings()), 64)[1]
    assert (overlaid[2] >= overlaid[0]).all()


def test_half_precision():
    torch.manual_seed(0)
    model = WSDAN("tiny", num_classes=3, num_attentions=4).eval()
    grid = view_grid(model, image(), settings(precision="bf16"))
    assert grid.shape == (3, 64, 5 * 64 + 4 * GAP)
