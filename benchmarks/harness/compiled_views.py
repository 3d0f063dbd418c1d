"""torch.compile of the reference's views, in as few pieces as it can be compiled in."""

from collections.abc import Callable
from functools import partial

import torch
from harness import published
from harness.run import compiled
from torch import Tensor

from wsdan_kernels.reference import attention_boxes as reference_boxes
from wsdan_kernels.reference import attention_drop as reference_drop
from wsdan_kernels.reference import crop_resize as reference_crop


def compiled_boxes(device: str) -> Callable[..., Tensor]:
    """The reference's boxes, compiled: on the CPU in two pieces.

    In one piece torch 2.11 fuses the maps' resize with the search of the rows and columns into
    C++ that writes past its buffers for B > 1, and the process dies.
    """
    if device != "cpu":
        return compiled(_boxes)
    return partial(_boxes, reached=compiled(reference_boxes.reached), spans=compiled(_spans))


def _boxes(
    maps: Tensor,
    thresholds: Tensor,
    size: tuple[int, int],
    rule: str,
    padding: float = published.PADDING,
    reached: Callable = reference_boxes.reached,
    spans: Callable | None = None,
) -> Tensor:
    """maps (B,h,w), thresholds (B,) -> boxes (B,4)."""
    return (spans or _spans)(reached(maps, thresholds[:, None], *size, rule, True), padding, rule)


def _spans(hit: Tensor, padding: float, rule: str) -> Tensor:
    """hit (B,1,H,W) -> boxes (B,4), as the reference has it."""
    height, width = hit.shape[2:]
    y1, y2 = reference_boxes._span(hit.any(3), height, padding, rule)
    x1, x2 = reference_boxes._span(hit.any(2), width, padding, rule)
    return torch.cat((x1, y1, x2, y2), dim=1).to(torch.int32)


def compiled_views(device: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """The reference's crop and drop without a look at the boxes on the host, compiled."""
    find, crop, drop = _boxes, reference_crop.by_batch, reference_drop.forward
    if device == "cpu":
        find, crop, drop = compiled_boxes(device), compiled(crop), compiled(drop)

    def views(
        images: Tensor,
        crop_maps: Tensor,
        drop_maps: Tensor,
        crop_thresholds: Tensor,
        drop_thresholds: Tensor,
        rule: str,
    ) -> tuple[Tensor, Tensor]:
        size = tuple(images.shape[2:])
        boxes = find(crop_maps, crop_thresholds, size, rule)
        cropped = crop(images, boxes, *size, True)
        return cropped, drop(images, drop_maps, drop_thresholds, rule, True)

    return views if device == "cpu" else compiled(views)
