"""Renderings of a prediction: photograph, attention, zoom, and the outlines of the parts."""

import base64
import io
from typing import Any

import numpy as np
from contourpy import contour_generator
from PIL import Image
from torch import Tensor

from wsdan.inference.classifier import Classifier
from wsdan.inference.explaining.overlays import map_in_original, overlaid, shown_size
from wsdan.inference.explaining.parts import PART_THRESHOLD, strongest_maps
from wsdan.inference.results import Result

LONGEST = 1024  # pixels of the longer side of a rendering
MAP = 256  # of a map that is outlined
QUALITY = 85  # of JPEG


def draw(
    classifier: Classifier, photograph: Image.Image, result: Result, attentions: Tensor
) -> dict[str, Any]:
    """What a page shows of an image: JPEG data URIs, and the parts of the strongest maps.

    Args:
        photograph: the original, RGB, or smaller. attentions: (M,h,w) of the network's input.

    Returns "photograph", "overlay" (the mean attention over it), "zoom" (the refined view, cut from
    the photograph) and "parts", dicts of "number", "map", "share", "peak" and "outline", in pixels
    of the original.
    """
    small = photograph.resize(_at_most(photograph.size), Image.Resampling.LANCZOS)
    heat = _heat(classifier, attentions.mean(dim=0).numpy(), result.size, max(small.size))
    zoom = _zoomed(photograph, result)
    return {
        "photograph": data_uri(small),
        "overlay": data_uri(overlaid(small, heat)),
        "zoom": data_uri(zoom.resize(_at_most(zoom.size), Image.Resampling.LANCZOS)),
        "parts": _parts(classifier, result.size, attentions),
    }


def data_uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _at_most(size: tuple[int, int]) -> tuple[int, int]:
    """The size, shrunk to LONGEST; never enlarged."""
    return size if max(size) <= LONGEST else shown_size(size, LONGEST)


def _zoomed(photograph: Image.Image, result: Result) -> Image.Image:
    """The photograph within the box, at least one pixel of it."""
    if result.box is None:
        return photograph
    scale_x, scale_y = photograph.width / result.size[0], photograph.height / result.size[1]
    x1, y1, x2, y2 = result.box
    left = min(int(x1 * scale_x), photograph.width - 1)
    top = min(int(y1 * scale_y), photograph.height - 1)
    right, bottom = round(x2 * scale_x), round(y2 * scale_y)
    return photograph.crop((left, top, max(right, left + 1), max(bottom, top + 1)))


def _heat(
    classifier: Classifier, attention: np.ndarray, size: tuple[int, int], longest: int
) -> np.ndarray:
    """A map (h,w) in the aspect of the photograph, divided by its peak; 0 for a map without one."""
    peak = float(attention.max())
    if not (np.isfinite(attention).all() and peak > 0):
        attention, peak = np.zeros_like(attention), 1.0
    input_size, whole = classifier.config.input_size, classifier.whole_image
    return map_in_original(attention / peak, size, input_size, whole, longest)


def _parts(
    classifier: Classifier, size: tuple[int, int], attentions: Tensor
) -> list[dict[str, Any]]:
    """The parts, strongest first."""
    input_size = classifier.config.input_size
    input_size = input_size if isinstance(input_size, tuple) else (input_size, input_size)
    mass = attentions.nan_to_num().mean(dim=(1, 2))
    parts = []
    for number, index in enumerate(strongest_maps(attentions, input_size), start=1):
        heat = np.nan_to_num(_heat(classifier, attentions[index].numpy(), size, MAP))
        scale = size[0] / heat.shape[1], size[1] / heat.shape[0]
        y, x = np.unravel_index(int(heat.argmax()), heat.shape)
        parts.append(
            {
                "number": number,
                "map": index,
                "share": round(float(mass[index] / mass.sum()), 4),
                "peak": _scaled(np.array([[x, y]]), scale)[0],
                "outline": _outline(heat, scale),
            }
        )
    return parts


def _outline(heat: np.ndarray, scale: tuple[float, float]) -> list[list[list[float]]]:
    """Closed lines around where a map (H,W) reaches PART_THRESHOLD; a frame of 0 closes those that
    leave the photograph."""
    lines = contour_generator(z=np.pad(heat, 1)).lines(PART_THRESHOLD)
    limits = np.array([heat.shape[1], heat.shape[0]])
    return [_scaled((line - 1).clip(-0.5, limits - 0.5), scale) for line in lines]


def _scaled(points: np.ndarray, scale: tuple[float, float]) -> list[list[float]]:
    """Points (n,2) in the pixels of a map, x and y, as those of the original."""
    return ((points + 0.5) * np.array(scale)).round(1).tolist()
