"""What other libraries have for crop_resize's work: cut boxes out of images and resize them.

Each samples where crop_resize does, bilinear with align_corners=True, and takes the same images
(B,C,H,W) and boxes (B,4) int32, x1 y1 x2 y2. Positions in an image of 448 pixels are exact to 3e-5
in float32 and every library rounds them in its own way, so values differ by up to TOLERANCES.
"""

import importlib.util
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

TOLERANCES = {"grid_sample": 1e-4, "roi_align": 1e-4, "kornia": 1e-3}  # it solves for the map


def grid_sample(images: Tensor, boxes: Tensor) -> Tensor:
    """torch's: the boxes as an affine map of [-1,1]^2, the grid of all positions, the samples."""
    height, width = images.shape[2:]
    x1, y1, x2, y2 = boxes.unbind(1)
    zero = torch.zeros_like(x1)
    row = ((x2 - x1 - 1) / (width - 1), zero, (x1 + x2 - 1) / (width - 1) - 1)
    column = (zero, (y2 - y1 - 1) / (height - 1), (y1 + y2 - 1) / (height - 1) - 1)
    theta = torch.stack((*row, *column), dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=True)


def roi_align(images: Tensor, boxes: Tensor) -> Tensor:
    """torchvision's, one sample in the middle of each bin.

    A box of L pixels is to be sampled at j (L-1)/(S-1) for j < S: its region is S times that step
    wide, and begins half a step before the first pixel's middle.
    """
    height, width = images.shape[2:]
    x1, y1, x2, y2 = boxes.unbind(1)
    step_x, step_y = (x2 - x1 - 1) / (width - 1), (y2 - y1 - 1) / (height - 1)
    left, top = x1 + 0.5 - 0.5 * step_x, y1 + 0.5 - 0.5 * step_y
    index = torch.arange(len(boxes), device=images.device)
    regions = (index, left, top, left + width * step_x, top + height * step_y)
    return torchvision.ops.roi_align(
        images, torch.stack(regions, dim=1), (height, width), sampling_ratio=1, aligned=True
    )


def kornia(images: Tensor, boxes: Tensor) -> Tensor:
    """kornia's: a box is its four corners, the last pixel included."""
    from kornia.geometry.transform import crop_and_resize

    x1, y1, x2, y2 = boxes.float().unbind(1)
    right, bottom = x2 - 1, y2 - 1
    corners = torch.stack((x1, y1, right, y1, right, bottom, x1, bottom), dim=1).view(-1, 4, 2)
    return crop_and_resize(images, corners, tuple(images.shape[2:]), align_corners=True)


def crops(dtype: torch.dtype) -> tuple[dict[str, Callable], list[str]]:
    """The functions by name that do the work for images of this dtype, and a line on the others."""
    if dtype != torch.float32:
        kind = str(dtype).removeprefix("torch.")
        return {}, [f"grid_sample, roi_align, kornia left out: positions in {kind}, or no kernel"]
    found = {"grid_sample": grid_sample, "roi_align": roi_align}
    if importlib.util.find_spec("kornia") is None:
        return found, ["kornia left out: it is not installed"]
    return {**found, "kornia": kornia}, []
