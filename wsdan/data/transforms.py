"""Transforms from an image to the network's input, and of boxes between the two."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from wsdan.constants import NORMALIZATION
from wsdan.data.samples import Box
from wsdan.data.zoom import canvas_size
from wsdan.validation import height_and_width

RESIZE = 0.875  # images are resized to image_size / RESIZE, and image_size is cropped from them
Size = int | tuple[int, int]  # the side of a square, or height and width, pixels
NO_BOX = (math.nan,) * 4


@dataclass(frozen=True)
class Transform:
    """PIL image -> input (channels,H,W) float32, of image_size, in two steps.

    `resize` gives a PIL image of size `side`. It is deterministic and can be cached. `finish` crops
    and normalizes; if `random`, it draws from torch's default generator.

    With a zoom above 1 the resized image has up to so many times the side, but no more pixels than
    the original, and `finish` gives the crop as it is, (channels,h,w) uint8.
    """

    image_size: Size
    side: Size
    random: bool
    finish: Callable[[Image.Image], Tensor]
    channels: int = 3
    zoom: float = 1.0

    def resize(self, image: Image.Image) -> Image.Image:
        height, width = v2.functional.get_size(image)
        size = list(resized_size(self.side, self.zoom, (width, height))[::-1])
        if self.channels < 4:
            return v2.functional.resize(image, size, antialias=True)
        # Apart: Pillow would weight the colours by alpha, which may as well be a fourth channel.
        planes = (image.convert("RGB"), image.getchannel("A"))
        rgb, alpha = (v2.functional.resize(item, size, antialias=True) for item in planes)
        rgb.putalpha(alpha)
        return rgb

    def __call__(self, image: Image.Image) -> Tensor:
        return self.finish(self.resize(image))

    @property
    def canvas(self) -> tuple[int, int] | None:
        """The size of the canvases of a batch, or None without a zoom; see wsdan.data.zoom."""
        return canvas_size(self.image_size, self.zoom) if self.zoom > 1 else None

    def box(self, box: Box | None, original_size: tuple[int, int]) -> Box:
        """The box in the pixels of the input; NaN if there is no box or the crop is random."""
        if box is None or self.random:
            return NO_BOX
        whole = height_and_width(self.side) == height_and_width(self.image_size)
        return box_in_input(box, original_size, self.image_size, whole)


def train_transform(image_size: Size, channels: int = 3, zoom: float = 1.0) -> Transform:
    """Random crop, horizontal flip and color jitter."""
    side = input_side(image_size)
    steps = [v2.RandomHorizontalFlip(), v2.ColorJitter(brightness=0.126, saturation=0.5)]
    if zoom > 1:
        finish = _LargeCrop(image_size, side, True, (*steps, *_to_bytes(channels)))
    else:
        finish = v2.Compose([v2.RandomCrop(image_size), *steps, *_to_tensor(channels)])
    return Transform(image_size, side, True, finish, channels, zoom)


def eval_transform(
    image_size: Size, whole: bool = False, channels: int = 3, zoom: float = 1.0
) -> Transform:
    """Center crop; if `whole`, the whole image without a crop."""
    side = input_side(image_size, whole)
    if zoom > 1:
        finish = _LargeCrop(image_size, side, False, tuple(_to_bytes(channels)))
    else:
        finish = v2.Compose([v2.CenterCrop(image_size), *_to_tensor(channels)])
    return Transform(image_size, side, False, finish, channels, zoom)


def synthetic_transform(train: bool, channels: int = 3, zoom: float = 1.0) -> v2.Transform:
    """(3,H,W) uint8 -> float32; with a zoom above 1, uint8. In training with random horizontal and
    vertical flips."""
    flips = [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()] if train else []
    return v2.Compose([*flips, *(_to_bytes(channels) if zoom > 1 else _to_tensor(channels))])


def resized_size(side: Size, zoom: float, original_size: tuple[int, int]) -> tuple[int, int]:
    """Width and height to which an image of `original_size` (width, height) is resized: `side`,
    times at most `zoom` where the image has as many pixels."""
    height, width = height_and_width(side)
    sizes = zip((width, height), original_size, strict=True)
    return tuple(min(int(zoom * wanted), max(wanted, own)) for wanted, own in sizes)


@dataclass(frozen=True)
class _LargeCrop:
    """The crop of an image that was resized with a zoom: where v2.RandomCrop, by the same random
    numbers, and v2.CenterCrop would take it from an image of `side`."""

    image_size: Size
    side: Size
    random: bool
    steps: tuple[v2.Transform, ...]

    def __call__(self, resized: Image.Image) -> Tensor:
        starts, lengths = [], []
        found = v2.functional.get_size(resized)
        axes = zip(
            height_and_width(self.side), height_and_width(self.image_size), found, strict=True
        )
        for side, length, pixels in axes:
            spare = side - length
            random = self.random and spare > 0
            start = int(torch.randint(0, spare + 1, ())) if random else round(spare / 2)
            lengths.append(round(length * pixels / side))
            starts.append(min(round(start * pixels / side), pixels - lengths[-1]))
        image = v2.functional.crop(resized, *starts, *lengths)
        for step in self.steps:
            image = step(image)
        return image


def input_side(image_size: Size, whole: bool = False) -> Size:
    """The size in pixels to which images are resized before the crop: one side of a square."""
    height, width = height_and_width(image_size)
    if not whole:
        height, width = round(height / RESIZE), round(width / RESIZE)
    return height if height == width else (height, width)


def box_in_original(
    box: list[int], original_size: tuple[int, int], image_size: Size, whole: bool = False
) -> list[int]:
    """Map a box x1 y1 x2 y2 from the network's input to the original image, in pixels.

    original_size: (width, height) of the image. image_size, whole: as in `eval_transform`.
    """
    sides, margins = sides_and_margins(image_size, whole)
    limits = [*original_size, *original_size]
    edges = [
        round((edge + margin) * (limit / side))
        for edge, margin, side, limit in zip(box, margins, sides, limits, strict=True)
    ]
    return [min(max(edge, 0), limit) for edge, limit in zip(edges, limits, strict=True)]


def box_in_input(
    box: Box, original_size: tuple[int, int], image_size: Size, whole: bool = False
) -> Box:
    """Map a box x1 y1 x2 y2 from the original image to the network's input, clipped to it.

    The inverse of `box_in_original`, without rounding. A box outside the crop gets an area of 0.
    """
    sides, margins = sides_and_margins(image_size, whole)
    height, width = height_and_width(image_size)
    x1, y1, x2, y2 = (
        min(max(edge * (side / size) - margin, 0.0), float(limit))
        for edge, side, size, margin, limit in zip(
            box, sides, original_size * 2, margins, (width, height) * 2, strict=True
        )
    )
    return x1, y1, x2, y2


def sides_and_margins(image_size: Size, whole: bool) -> tuple[list[int], list[int]]:
    """Of the edges x1 y1 x2 y2: the side that images are resized to, and the margin of the crop,
    rounded half to even as in CenterCrop."""
    height, width = height_and_width(image_size)
    side_height, side_width = height_and_width(input_side(image_size, whole))
    margins = [round((side_width - width) / 2), round((side_height - height) / 2)]
    return [side_width, side_height] * 2, margins * 2


def _to_bytes(channels: int) -> list[v2.Transform]:
    """Conversion to a tensor of uint8."""
    grey = [v2.Grayscale(1)] if channels == 1 else []
    return [v2.ToImage(), *grey, v2.ToPureTensor()]


def _to_tensor(channels: int) -> list[v2.Transform]:
    """Conversion to a normalized tensor. ToImage gives channels-last memory; made contiguous, the
    steps after it and the collation take half the time."""
    planes = v2.Lambda(Tensor.contiguous)
    grey = [v2.Grayscale(1)] if channels == 1 else []
    to_float = v2.ToDtype(torch.float32, scale=True)
    normalize = v2.Normalize(*NORMALIZATION[channels], inplace=True)
    return [v2.ToImage(), planes, to_float, *grey, normalize]
