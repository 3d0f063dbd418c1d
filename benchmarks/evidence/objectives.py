"""Variants of the method that the program does not offer, made of its public pieces.

They show what a part brings by putting another in its place. What `wsdan train` switches (views,
center loss, counterfactual loss, number of maps) has no variant here.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wsdan.constants import CROP_PADDING, CROP_THRESHOLD, DROP_THRESHOLD
from wsdan.data.zoom import Inputs, Large, network_inputs
from wsdan.training.objective import training_views
from wsdan_kernels import (
    BilinearAttentionPool,
    attention_boxes,
    attention_drop,
    crop_resize,
    sample_attention,
)


class Variant(NamedTuple):
    """views: in place of training_views. change: of the new model, before it is trained. inputs: in
    place of network_inputs."""

    views: Callable = training_views
    change: Callable[[nn.Module], None] | None = None
    inputs: Callable[..., Inputs] = network_inputs


@torch.no_grad()
def boxes_and_masks(images: Tensor, attentions: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """The boxes (B,4) int32 and masks (B,1,H,W) of the images' dtype, 0 where erased, by which
    training_views makes its crops and drops of the same arguments."""
    picks = sample_attention(attentions, 2, uniforms=uniforms[:, :2])
    rows = torch.arange(images.shape[0], device=images.device)
    crop_maps, drop_maps = (attentions[rows, picks[:, i]] for i in (0, 1))
    thresholds = [
        low + (high - low) * uniforms[:, i]
        for i, (low, high) in ((2, CROP_THRESHOLD), (3, DROP_THRESHOLD))
    ]
    size = tuple(images.shape[2:])
    boxes = attention_boxes(crop_maps, size, threshold=thresholds[0], padding=CROP_PADDING)
    masks = attention_drop(torch.ones_like(images[:, :1]), drop_maps, threshold=thresholds[1])
    return boxes, masks


def moved(boxes: Tensor, masks: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (B,4) and masks (B,1,H,W) of the same areas, elsewhere in the image.

    places: (B,4) in [0,1): x and y of the box, among all places where it fits; columns and rows by
    which the mask moves, as shares of the image's sides. What leaves at one edge enters at the
    other.
    """
    height, width = masks.shape[2:]
    sizes = boxes[:, 2:] - boxes[:, :2]
    sides = torch.tensor((width, height), device=boxes.device)
    start = (places[:, :2] * (sides - sizes + 1)).to(boxes.dtype)
    shifts = (places[:, 2:] * sides).long()
    columns = (torch.arange(width, device=boxes.device) - shifts[:, :1]) % width
    rows = (torch.arange(height, device=boxes.device) - shifts[:, 1:]) % height
    masks = masks.gather(3, columns[:, None, None].expand_as(masks))
    masks = masks.gather(2, rows[:, None, :, None].expand_as(masks))
    return torch.cat((start, start + sizes), dim=1), masks


@torch.no_grad()
def random_views(
    images: Tensor,
    attentions: Tensor,
    uniforms: Tensor,
    generator: torch.Generator | None = None,
    large: Large | None = None,
    names: tuple[str, ...] = ("crop", "drop"),
) -> tuple[Tensor, Tensor]:
    """As training_views, with its boxes and masks moved to random places of the image.

    The places are drawn from torch's default generator. Raises ValueError for a zoom or one view.
    """
    if large is not None or names != ("crop", "drop"):
        raise ValueError("the random views are both, and of the images without a zoom")
    places = torch.rand((len(images), 4), device=images.device)
    boxes, masks = moved(*boxes_and_masks(images, attentions, uniforms), places)
    return crop_resize(images, boxes), images * masks


def pool_by_max(model: nn.Module) -> None:
    """Take the maximum instead of the mean over the positions in attention pooling (eq. 2)."""
    model.pool = BilinearAttentionPool(reduce="max", eps=model.pool.options["eps"])


def inputs_alone(*batch, **options) -> Inputs:
    """As network_inputs, without what a zoom cuts views from: they are cut from the inputs."""
    return Inputs(network_inputs(*batch, **options).images)


VARIANTS = {
    "": Variant(),
    "random views": Variant(random_views),
    "max pooling": Variant(change=pool_by_max),
    "views of the input": Variant(inputs=inputs_alone),
}
