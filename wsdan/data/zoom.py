"""Images larger than the network's input (--zoom), from which its views are cut.

A batch is one tensor of bytes: canvases, each with an image in its upper left corner. The input is
the image reduced, and a box that was found in the input is scaled to the image.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from wsdan.constants import NORMALIZATION
from wsdan.validation import height_and_width
from wsdan_kernels import (
    attention_boxes,
    attention_crop,
    attention_crop_drop,
    attention_drop,
    crop_resize,
)

Size = tuple[int, int]  # height and width, pixels


class Large(NamedTuple):
    """pixels: (B,C,H',W') uint8, canvases. extents: (B,2) int64, height and width of the image in
    each; what is beside it is never read."""

    pixels: Tensor
    extents: Tensor

    def reduced(self, size: Size, dtype: torch.dtype) -> Tensor:
        """The network's inputs (B,C,H,W) of `size`, normalized: all of the images."""
        return self.cut(_whole(self.pixels, size), size, dtype)

    def cut(self, boxes: Tensor, size: Size, dtype: torch.dtype) -> Tensor:
        """The views (B,C,H,W) in boxes (B,4), x1 y1 x2 y2, half-open, in pixels of the inputs of
        `size`; normalized, and of the dtype.

        Where a box has at most (H,W) pixels of its image, they are interpolated as in every crop
        (arXiv:1901.09891 section 3.2). Else the box is sampled at a power of two times (H,W), so
        that no pixel is left out, and halved down to (H,W).
        """
        boxes = self.scaled(boxes, size)
        views = crop_resize(self.pixels, boxes, size)
        steps = _doublings(self.pixels, size)
        if steps > 0:
            x1, y1, x2, y2 = boxes.unbind(1)
            reduces = (x2 - x1 > size[1]) | (y2 - y1 > size[0])
            means = _means(self.pixels, boxes, size, steps)
            views = torch.where(reduces[:, None, None, None], means, views)
        return normalized(views).to(dtype, memory_format=torch.channels_last)

    def scaled(self, boxes: Tensor, size: Size) -> Tensor:
        """Boxes (B,4) in pixels of the inputs of `size` as (B,4) int64 in pixels of the images.
        Each edge is rounded."""
        heights, widths = self.extents.unbind(1)
        x1, y1, x2, y2 = boxes.to(torch.int64).unbind(1)
        columns = [(2 * x * widths + size[1]) // (2 * size[1]) for x in (x1, x2)]
        rows = [(2 * y * heights + size[0]) // (2 * size[0]) for y in (y1, y2)]
        return torch.stack((columns[0], rows[0], columns[1], rows[1]), dim=1)

    def flipped(self) -> "Large":
        """The images flipped horizontally, in the same corner."""
        columns = torch.arange(self.pixels.shape[3], device=self.pixels.device)
        sources = (self.extents[:, 1:] - 1 - columns).clamp_min(0)
        index = sources[:, None, None, :].expand(self.pixels.shape)
        return Large(self.pixels.gather(3, index), self.extents)

    def to(self, device: torch.device) -> "Large":
        """Copies to a GPU from pinned memory are not waited for."""
        return Large(*(part.to(device, non_blocking=True) for part in self))


class Inputs(NamedTuple):
    """images: (B,C,H,W), normalized, what the network sees. large: what its views are cut from, or
    None where that is the images."""

    images: Tensor
    large: Large | None = None


def joined(parts: list[Inputs]) -> Inputs:
    """Several batches as one."""
    images = torch.cat([part.images for part in parts])
    larges = [part.large for part in parts if part.large is not None]
    if not larges:
        return Inputs(images)
    pixels, extents = zip(*larges, strict=True)
    return Inputs(images, Large(torch.cat(pixels), torch.cat(extents)))


def canvas_size(image_size: int | str | Size, zoom: float) -> Size:
    """The size of a canvas for images of at most `zoom` times an input's side."""
    height, width = height_and_width(image_size)
    return math.ceil(zoom * height), math.ceil(zoom * width)


def packed(images: list[Tensor], canvas: Size) -> Large:
    """Images (C,h,w) uint8, at least one, each no larger than the canvas (H',W')."""
    shape = (len(images), *canvas, images[0].shape[0])
    pixels = torch.zeros(shape, dtype=torch.uint8, device=images[0].device)
    for row, image in zip(pixels, images, strict=True):
        row[: image.shape[1], : image.shape[2]] = image.permute(1, 2, 0)
    extents = torch.tensor([image.shape[1:] for image in images], device=pixels.device)
    return Large(pixels.permute(0, 3, 1, 2), extents)


def network_inputs(
    images: Tensor,
    extents: Tensor | None,
    size: Size,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Inputs:
    """A batch of a loader on the device.

    images: inputs (B,C,H,W), or canvases (B,C,H',W') uint8 with extents (B,2). size: of inputs.
    """
    if extents is None:
        channels_last = torch.channels_last
        return Inputs(images.to(device, dtype, memory_format=channels_last, non_blocking=True))
    large = Large(images, extents).to(device)
    return Inputs(large.reduced(size, dtype), large)


def crop_and_drop(
    images: Tensor,
    crop_maps: Tensor,
    drop_maps: Tensor,
    *,
    crop_threshold: float | Tensor,
    drop_threshold: float | Tensor,
    padding: float,
    large: Large | None,
) -> tuple[Tensor, Tensor]:
    """wsdan_kernels.attention_crop_drop, with the crops cut out of `large` if it is given. Drops
    are made of the images (B,C,H,W)."""
    if large is None:
        thresholds = {"crop_threshold": crop_threshold, "drop_threshold": drop_threshold}
        return attention_crop_drop(images, crop_maps, drop_maps, **thresholds, padding=padding)
    size = (images.shape[2], images.shape[3])
    boxes = attention_boxes(crop_maps, size, threshold=crop_threshold, padding=padding)
    drops = attention_drop(images, drop_maps, threshold=drop_threshold)
    return large.cut(boxes, size, images.dtype), drops


def crop(
    images: Tensor,
    maps: Tensor,
    *,
    threshold: float | Tensor,
    padding: float,
    large: Large | None,
) -> tuple[Tensor, Tensor]:
    """wsdan_kernels.attention_crop by maps (B,h,w), with the views cut out of `large` if it is
    given. Boxes are those in the images (B,C,H,W)."""
    if large is None:
        return attention_crop(images, maps, threshold=threshold, padding=padding)
    size = (images.shape[2], images.shape[3])
    boxes = attention_boxes(maps, size, threshold=threshold, padding=padding)
    return large.cut(boxes, size, images.dtype), boxes


def normalized(pixels: Tensor) -> Tensor:
    """(B,C,H,W) uint8 -> float32, as the network takes it. Scalars only: nothing is copied to a
    device."""
    statistics = zip(*NORMALIZATION[pixels.shape[1]], strict=True)
    factors = [(1 / (255 * std), mean / std) for mean, std in statistics]
    planes = pixels.to(torch.float32).unbind(1)
    return torch.stack([p * a - b for p, (a, b) in zip(planes, factors, strict=True)], dim=1)


def _means(pixels: Tensor, boxes: Tensor, size: Size, steps: int) -> Tensor:
    """The boxes (B,4) of canvases, sampled at 2^steps times `size` and halved `steps` times; a
    half is the mean of four neighbours."""
    sizes = [(size[0] << step, size[1] << step) for step in range(steps, -1, -1)]
    views = crop_resize(pixels, boxes, sizes[0], align_corners=False)
    for wide, half in pairwise(sizes):
        views = crop_resize(views, _whole(views, wide), half, align_corners=False)
    return views


def _doublings(pixels: Tensor, size: Size) -> int:
    """How often an input of `size` is doubled until it has the pixels of a canvas."""
    factor = max(side / wanted for side, wanted in zip(pixels.shape[2:], size, strict=True))
    return max(0, math.ceil(math.log2(factor)))


def _whole(images: Tensor, size: Size) -> Tensor:
    """Boxes (B,4) of all of images of `size`."""
    zero = torch.zeros(images.shape[0], dtype=torch.int64, device=images.device)
    return torch.stack((zero, zero, zero + size[1], zero + size[0]), dim=1)
