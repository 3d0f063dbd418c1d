"""Images as a caller has them (files, PIL images, arrays, tensors) to upright RGB or RGBA."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from wsdan.data.images import BadImageError, load_image, upright
from wsdan.errors import UserError, shown

ImageLike: TypeAlias = str | Path | Image.Image | npt.NDArray[Any] | Tensor
SINGLE = (str, os.PathLike, Image.Image, np.ndarray)  # a tensor may also be a batch
KINDS = "a path, a PIL image, a numpy array or a torch tensor"
CHANNELS = (1, 3, 4)  # grey, RGB, RGBA


def named_images(images: object) -> Iterator[tuple[object, str]]:
    """Each of several images with its name in messages, drawn one by one: a batch tensor
    (B,C,H,W), or an iterable such as a list or a generator. Raises TypeError."""
    if isinstance(images, SINGLE) or not isinstance(images, Iterable) or isinstance(images, dict):
        raise TypeError(f"Classifier: images must be several images, but got {shown(images)}")
    for index, image in enumerate(images):
        yield image, f"images[{index}]"


def is_single(images: object) -> bool:
    """Whether this is one image, not several. Raises TypeError for what is neither: only a list, a
    tuple or a batch tensor (B,C,H,W) holds several."""
    if isinstance(images, Tensor):
        return images.dim() != 4
    if isinstance(images, SINGLE):
        return True
    if isinstance(images, (list, tuple)):
        return False
    hint = "; stream() takes a generator" if isinstance(images, Iterator) else ""
    raise TypeError(
        f"Classifier: images must be {KINDS}, or a list of them, but got {shown(images)}{hint}"
    )


def read_image(
    image: object, max_pixels: int, *, rgba: bool = False, name: str = "images"
) -> Image.Image:
    """An image as RGB, or RGBA, in its own size, upright by its EXIF orientation where it has one.

    All are converted as a file would be: in RGB, what is transparent is composited over white.

    Args:
        image: a path; a PIL image of any mode; an array (H,W), (H,W,3) or (H,W,4), or a tensor
            (C,H,W) with C of 1, 3 or 4, on any device: uint8, or floats in [0,1], which are
            rounded to 8 bits.
        max_pixels: of the largest file that is decoded. name: of the argument, for messages.

    Raises:
        UserError: a file that is not a readable image. TypeError, ValueError: another kind, dtype
            or shape, and values out of [0,1].
    """
    if isinstance(image, (str, os.PathLike)):
        try:
            return load_image(os.fspath(image), max_pixels, rgba=rgba)
        except BadImageError as error:
            raise UserError(str(error)) from None
    if isinstance(image, Tensor):
        image = Image.fromarray(_from_tensor(image, name))
    elif isinstance(image, np.ndarray):
        image = Image.fromarray(_from_array(image, name))
    elif not isinstance(image, Image.Image):
        raise TypeError(f"Classifier: {name} must be {KINDS}, but got {shown(image)}")
    try:
        image.load()
        return upright(image, rgba=rgba)
    except MemoryError:
        raise
    except Exception as error:  # a file that Pillow opened earlier may be damaged in any way
        path = getattr(image, "filename", "") or name
        raise UserError(f"{path}: not a readable image: {error or type(error).__name__}") from None


def _from_array(array: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    """(H,W), (H,W,3) or (H,W,4), uint8."""
    shape = array.shape
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))) or 0 in shape:
        rule = "an array of shape (H,W), (H,W,3) or (H,W,4)"
        raise ValueError(f"Classifier: {name} must be {rule}, but got {shape}")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise TypeError(f"Classifier: {name} must be uint8 or floats, but got {array.dtype}")
    _check_range(float(array.min()), float(array.max()), name)
    return np.rint(array.astype(np.float32) * 255).astype(np.uint8)


def _from_tensor(tensor: Tensor, name: str) -> npt.NDArray[np.uint8]:
    """(H,W), (H,W,3) or (H,W,4), uint8."""
    shape = tuple(tensor.shape)
    if len(shape) != 3 or shape[0] not in CHANNELS or 0 in shape:
        rule = "a tensor of shape (C,H,W) with 1, 3 or 4 channels"
        raise ValueError(f"Classifier: {name} must be {rule}, but got {shape}")
    if tensor.dtype != torch.uint8:
        if not tensor.is_floating_point():
            raise TypeError(f"Classifier: {name} must be uint8 or floats, but got {tensor.dtype}")
        tensor = tensor.detach().float()
        low, high = tensor.aminmax()
        _check_range(float(low), float(high), name)
        tensor = (tensor * 255).round().to(torch.uint8)
    pixels = tensor.permute(1, 2, 0).contiguous().cpu().numpy()
    return pixels[:, :, 0] if shape[0] == 1 else pixels


def _check_range(low: float, high: float, name: str) -> None:
    if not (low >= 0 and high <= 1):  # NaN too
        hint = "; normalized inputs go to predict()" if low < 0 else ""
        raise ValueError(
            f"Classifier: {name} must have floats in [0, 1], but got [{low:g}, {high:g}]{hint}"
        )
