"""Transforms from an image to the network's input, and of boxes between the two."""

import math
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from wsdan.constants import IMAGENET_MEAN, IMAGENET_STD
from wsdan.data.samples import Box

RESIZE = 0.875  # images are resized to image_size / RESIZE, and a square of image_size is cropped
NO_BOX = (math.nan,) * 4


@dataclass(frozen=True)
class Transform:
    """PIL image -> input (3,image_size,image_size) float32, in two steps.

    `resize` gives a PIL image of side x side. It is deterministic and can be cached. `finish` crops
    and normalizes; if `random`, it draws from torch's default generator.
    """

    image_size: int
    side: int
    random: bool
    finish: v2.Transform

    def resize(self, image: Image.Image) -> Image.Image:
        return v2.functional.resize(image, [self.side, self.side], antialias=True)

    def __call__(self, image: Image.Image) -> Tensor:
        return self.finish(self.resize(image))

    def box(self, box: Box | None, original_size: tuple[int, int]) -> Box:
        """The box in the pixels of the input; NaN if there is no box or the crop is random."""
        if box is None or self.random:
            return NO_BOX
        return box_in_input(box, original_size, self.image_size, self.side == self.image_size)


def train_transform(image_size: int) -> Transform:
    """Random crop, horizontal flip and color jitter."""
    steps = [
        v2.RandomCrop(image_size),
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(brightness=0.126, saturation=0.5),
    ]
    side = input_side(image_size)
    return Transform(image_size, side, random=True, finish=v2.Compose([*steps, *_to_tensor()]))


def eval_transform(image_size: int, whole: bool = False) -> Transform:
    """Center crop; if `whole`, the whole image without a crop."""
    finish = v2.Compose([v2.CenterCrop(image_size), *_to_tensor()])
    return Transform(image_size, input_side(image_size, whole), random=False, finish=finish)


def synthetic_transform(train: bool) -> v2.Transform:
    """(3,H,W) uint8 -> float32. In training with random horizontal and vertical flips."""
    flips = [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()] if train else []
    return v2.Compose([*flips, *_to_tensor()])


def input_side(image_size: int, whole: bool = False) -> int:
    """The side in pixels to which images are resized before the crop."""
    return image_size if whole else round(image_size / RESIZE)


def box_in_original(
    box: list[int], original_size: tuple[int, int], image_size: int, whole: bool = False
) -> list[int]:
    """Map a box x1 y1 x2 y2 from the network's input to the original image, in pixels.

    original_size: (width, height) of the image. image_size, whole: as in `eval_transform`.
    """
    side = input_side(image_size, whole)
    margin = _margin(side, image_size)
    scales = [size / side for size in original_size] * 2
    edges = [round((edge + margin) * scale) for edge, scale in zip(box, scales, strict=True)]
    limits = [*original_size, *original_size]
    return [min(max(edge, 0), limit) for edge, limit in zip(edges, limits, strict=True)]


def box_in_input(
    box: Box, original_size: tuple[int, int], image_size: int, whole: bool = False
) -> Box:
    """Map a box x1 y1 x2 y2 from the original image to the network's input, clipped to it.

    The inverse of `box_in_original`, without rounding. A box outside the crop gets an area of 0.
    """
    side = input_side(image_size, whole)
    margin = _margin(side, image_size)
    scales = [side / size for size in original_size] * 2
    edges = [edge * scale - margin for edge, scale in zip(box, scales, strict=True)]
    x1, y1, x2, y2 = (min(max(edge, 0.0), float(image_size)) for edge in edges)
    return x1, y1, x2, y2


def _margin(side: int, image_size: int) -> int:
    """Left and top margin of the center crop, in pixels, rounded half to even as in CenterCrop."""
    return round((side - image_size) / 2)


def _to_tensor() -> list[v2.Transform]:
    """Conversion to a normalized tensor. ToImage gives channels-last memory; made contiguous, the
    steps after it and the collation take half the time."""
    planes = v2.Lambda(Tensor.contiguous)
    to_float = v2.ToDtype(torch.float32, scale=True)
    return [v2.ToImage(), planes, to_float, v2.Normalize(IMAGENET_MEAN, IMAGENET_STD, inplace=True)]
