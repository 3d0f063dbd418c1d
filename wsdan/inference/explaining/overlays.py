"""Attention on the photograph: a map in the photograph's own aspect, and its colours over it."""

import numpy as np
from matplotlib import colormaps
from PIL import Image

from wsdan.data.transforms import Size, sides_and_margins
from wsdan.validation import height_and_width

LONGEST = 512  # pixels of the longer side of a map, and of an image that is shown with it
# Lightness grows with the value: in greyscale and for colour-blind people the order is the same.
COLOUR_MAP = "inferno"
DIMMED = 0.4  # brightness of what is not the part
PHOTOGRAPH = 0.35  # brightness of the grey photograph below the colours; the rest is the map's


def shown_size(size: tuple[int, int], longest: int = LONGEST) -> tuple[int, int]:
    """The width and height that have the aspect of `size` and a longer side of `longest` pixels; at
    least 2, as contours need."""
    width, height = size
    scale = longest / max(width, height)
    return max(round(width * scale), 2), max(round(height * scale), 2)


def map_in_original(
    attention: np.ndarray,
    original_size: tuple[int, int],
    image_size: Size,
    whole: bool = False,
    longest: int = LONGEST,
) -> np.ndarray:
    """An attention map of the network's input, in the aspect of the original image.

    The input is a center crop of the image, which was resized to a square: the map is stretched
    back, bilinear as in the operators, and what the network did not see is NaN.

    Args:
        attention: (h,w). original_size: (width, height) of the image. image_size, whole: as in
            `eval_transform`; those of a Classifier are `config.input_size` and `whole_image`.
        longest: pixels of the longer side of the result.

    Returns:
        (H',W') float32, of the values of `attention`.
    """
    width, height = shown_size(original_size, longest)
    sides, margins = sides_and_margins(image_size, whole)
    input_height, input_width = height_and_width(image_size)
    rows = _resampling(height, sides[1], margins[1], input_height, attention.shape[0])
    columns = _resampling(width, sides[0], margins[0], input_width, attention.shape[1])
    return (rows @ attention.astype(np.float64) @ columns.T).astype(np.float32)


def _resampling(shown: int, side: int, margin: int, size: int, length: int) -> np.ndarray:
    """The matrix (shown,length) that resizes one axis of a map, with align_corners as the kernels.

    shown: pixels of the result. side: of the resized image, of which the input are the `size`
    pixels after `margin`; rows outside of them are NaN. length: of the map.
    """
    place = (np.arange(shown) + 0.5) * (side / shown) - margin  # in the input; 0 is its edge
    position = (place - 0.5).clip(0, size - 1) * ((length - 1) / max(size - 1, 1))
    low = position.astype(int).clip(max=max(length - 2, 0))
    part = position - low
    matrix = np.zeros((shown, length))
    matrix[np.arange(shown), low] = 1 - part
    matrix[np.arange(shown), np.minimum(low + 1, length - 1)] += part
    matrix[(place < 0) | (place > size)] = np.nan
    return matrix


def overlaid(image: Image.Image, heat: np.ndarray) -> Image.Image:
    """The image in grey under the colours of a map, RGB, of the map's size.

    Args:
        heat: (H',W') float, of [0,1]; NaN, as outside of what the network saw, is left grey.
    """
    height, width = heat.shape
    grey = np.asarray(image.convert("L").resize((width, height)), dtype=np.float32)[..., None] / 255
    pixels = np.where(np.isnan(heat)[..., None], grey, painted(heat, grey))
    return Image.fromarray((255 * pixels).round().astype(np.uint8))


def painted(heat: np.ndarray, grey: np.ndarray | float) -> np.ndarray:
    """The colours (...,3) in [0,1] of a map (...) over the grey (...,1) of a photograph."""
    colours = colormaps[COLOUR_MAP](np.nan_to_num(heat).clip(0, 1))[..., :3]
    return PHOTOGRAPH * grey + (1 - PHOTOGRAPH) * colours


def dimmed(image: Image.Image, inside: np.ndarray) -> Image.Image:
    """The image, dark and grey but where `inside`, (H',W') bool, RGB of that size."""
    height, width = inside.shape
    pixels = np.asarray(image.convert("RGB").resize((width, height)))
    grey = np.asarray(image.convert("L").resize((width, height)), dtype=np.float32)[..., None]
    return Image.fromarray(np.where(inside[..., None], pixels, grey * DIMMED).astype(np.uint8))
