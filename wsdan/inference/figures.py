"""Figures of the attention views: those of training and of evaluation, side by side."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsdan.config import Config
from wsdan.constants import (
    CROP_PADDING,
    CROP_THRESHOLD,
    DROP_THRESHOLD,
    NORMALIZATION,
)
from wsdan.data.zoom import Large, crop, crop_and_drop
from wsdan.inference.refinement import object_maps
from wsdan.precision import autocast

CELL = 224  # pixels; larger views are downsized to it
GAP = 4  # white pixels between views
BOX_COLOUR = (1.0, 0.2, 0.1)
# Colour map of the attention at 0, 1/4, ... 1: dark blue, blue, teal, yellow, red.
COLOUR_MAP = (
    (0.05, 0.03, 0.30),
    (0.12, 0.30, 0.85),
    (0.10, 0.75, 0.65),
    (1.00, 0.85, 0.15),
    (0.85, 0.05, 0.05),
)


@torch.no_grad()
def view_grid(
    model: nn.Module, images: Tensor, config: Config, large: Large | None = None
) -> Tensor:
    """One row per image: with its box, with the mean attention map, crop, drop and refined view.

    Deterministic: the crop and the drop view use the attention map with the largest mean, and the
    middle of the threshold ranges of training. For a plain classifier, the image only.

    Args:
        model: its mode is restored. images: (B,C,H,W), C 1, 3 or 4, normalized, on the
            model's device; B >= 1. large: what the views are cut from, if not the images.

    Returns:
        (3,h,w) uint8 on the CPU.
    """
    was_training = model.training
    model.eval()
    with autocast(config, images.device):
        attentions = model(images).attentions
    model.train(was_training)
    image = _cell(images)
    if attentions is None:
        return _grid([image])
    attentions = attentions.float()
    largest = attentions.mean(dim=(2, 3)).argmax(dim=1)
    strongest = attentions[torch.arange(len(images), device=images.device), largest]
    crops, drops = crop_and_drop(
        images,
        strongest,
        strongest,
        crop_threshold=sum(CROP_THRESHOLD) / 2,
        drop_threshold=sum(DROP_THRESHOLD) / 2,
        padding=CROP_PADDING,
        large=large,
    )
    maps, threshold = object_maps(attentions, config)
    box = {"threshold": threshold, "padding": config.refine_padding}
    refined, boxes = crop(images, maps, **box, large=large)
    boxed = _with_box(image, boxes, images.shape[2:])
    overlaid = _with_attention(image, attentions.mean(dim=1))
    return _grid([boxed, overlaid, _cell(crops), _cell(drops), _cell(refined)])


def _cell(images: Tensor) -> Tensor:
    """Undo the normalization of inputs (B,C,H,W): RGB (B,3,h,w) float32 in [0, 1], at most CELL
    pixels wide. Grey is grey; a fourth channel is left out."""
    statistics = NORMALIZATION[images.shape[1]]
    mean, std = (images.new_tensor(value)[:, None, None] for value in statistics)
    cells = (images * std + mean).float()[:, :3].expand(-1, 3, -1, -1)
    height, width = images.shape[2:]
    shrink = max(height, width) / CELL
    if shrink > 1:
        size = (max(round(height / shrink), 1), max(round(width / shrink), 1))
        cells = F.interpolate(cells, size, mode="bilinear", antialias=True)
    return cells.clamp(0, 1)


def _with_attention(cells: Tensor, maps: Tensor) -> Tensor:
    """Blend cells (B,3,h,w) with the colour map of maps (B,h',w'), scaled to each map's maximum.

    Stronger attention is more opaque.
    """
    maps = F.interpolate(maps[:, None], cells.shape[2:], mode="bilinear", align_corners=True)
    heat = (maps / maps.amax(dim=(2, 3), keepdim=True).clamp(min=1e-12)).nan_to_num().clamp(0, 1)
    colours = heat.new_tensor(COLOUR_MAP)
    position = heat[:, 0] * (len(COLOUR_MAP) - 1)
    low = position.long().clamp(max=len(COLOUR_MAP) - 2)
    part = (position - low)[..., None]
    painted = torch.lerp(colours[low], colours[low + 1], part).permute(0, 3, 1, 2)
    return torch.lerp(cells, painted, 0.3 + 0.5 * heat)


def _with_box(cells: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Draw outlines of boxes (B,4), x1 y1 x2 y2 in inputs of `size` (H,W), on cells (B,3,h,w)."""
    height, width = cells.shape[2:]
    scale = boxes.new_tensor([width / size[1], height / size[0]] * 2, dtype=torch.float32)
    edges = (boxes * scale).round()[:, :, None, None]
    line = max(1, width // 100)
    y = torch.arange(height, device=cells.device)[:, None]
    x = torch.arange(width, device=cells.device)[None, :]

    def inside(margin: int) -> Tensor:
        x1, y1, x2, y2 = edges.unbind(dim=1)
        return (x >= x1 + margin) & (x < x2 - margin) & (y >= y1 + margin) & (y < y2 - margin)

    outline = (inside(0) & ~inside(line))[:, None]
    colour = cells.new_tensor(BOX_COLOUR)[:, None, None]
    return torch.where(outline, colour, cells)


def _grid(columns: list[Tensor]) -> Tensor:
    """Join columns of cells (B,3,h,w) to one image (3,H,W) uint8 on the CPU, with white gaps."""
    padded = [F.pad(cells, (0, GAP, 0, GAP), value=1.0) for cells in columns]
    rows = torch.cat(padded, dim=3)  # (B,3,h,W)
    grid = rows.permute(1, 0, 2, 3).flatten(1, 2)[:, :-GAP, :-GAP]
    return (grid * 255).round().to(torch.uint8).cpu()
