"""The parts that the strongest attention maps show, and what erasing each does to a prediction."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from wsdan.constants import NORMALIZATION
from wsdan.data.zoom import Inputs, Large
from wsdan.inference.results import Result

MOST_PARTS = 4
PART_THRESHOLD = 0.5  # share of a map's peak from which on a pixel belongs to the part
MOST_OVERLAP = 0.5  # intersection over union with a stronger part from which on a map is left out


@dataclass(frozen=True, eq=False)
class Part:
    """What one attention map shows.

    Args:
        number: from 1, the strongest first. map: its index of the M maps.
        share: of the mass of all maps, in [0,1].
        heat: (H',W') float32, the map in the aspect of the photograph, 1 at its peak, NaN outside
            of what the network saw; the part is where it reaches PART_THRESHOLD.
        score: of the predicted class with the part erased from the input, in [0,1].
        fall: what the part is worth: the score of the whole input less that, in [-1,1].
    """

    number: int
    map: int
    share: float
    heat: np.ndarray
    score: float
    fall: float


@dataclass(frozen=True, eq=False)
class Explanation:
    """All that `draw` shows. Images are RGB, of at most LONGEST pixels a side.

    Args:
        result: the prediction. truth: the true class, or None if it is not known; truth_score: its
            final score, in [0,1].
        image: the photograph, LONGEST pixels on its longer side.
        heat: (H',W') float32 of that size, the mean attention map, 1 at its peak; NaN outside of
            what the network saw.
        parts: of the strongest maps. together: the score with all of them erased; None without one.
        crop, drop: the training views of the strongest map, at the middle of their thresholds.
        refined: the refined view. All three are cut from the photograph, in its aspect.
    """

    result: Result
    truth: str | None
    truth_score: float | None
    image: Image.Image
    heat: np.ndarray
    parts: list[Part]
    together: float | None
    crop: Image.Image
    drop: Image.Image
    refined: Image.Image

    def to_dict(self) -> dict[str, Any]:
        """The result, the truth and the parts as a dict of JSON's types."""
        parts = [
            {"number": p.number, "map": p.map, "share": p.share, "score": p.score, "fall": p.fall}
            for p in self.parts
        ]
        together = None if self.together is None else _finite(self.together)
        parts = [{key: _finite(value) for key, value in part.items()} for part in parts]
        return {**self.result.to_dict(), "truth": self.truth, "parts": parts, "erased": together}


def strongest_maps(attentions: Tensor, input_size: tuple[int, int]) -> list[int]:
    """The maps (M,h,w) that are numbered, largest mean first: at most MOST_PARTS.

    A map is left out if its part, in an input of `input_size` (H,W), overlaps that of a stronger
    one by more than MOST_OVERLAP: several maps of one part count as one. So is a map without a
    positive peak, or with a value that is not finite.
    """
    regions = part_regions(attentions, input_size)
    chosen: list[int] = []
    for index in attentions.nan_to_num(0, 0, 0).mean(dim=(1, 2)).argsort(descending=True).tolist():
        if len(chosen) < MOST_PARTS and regions[index].any():
            overlaps = [_overlap(regions[index], regions[other]) for other in chosen]
            if max(overlaps, default=0.0) <= MOST_OVERLAP:
                chosen.append(index)
    return chosen


def part_regions(attentions: Tensor, input_size: tuple[int, int]) -> Tensor:
    """Where each map (M,h,w), resized to the input, reaches PART_THRESHOLD: (M,H,W) bool.

    Nowhere for a map without a positive peak, or with a value that is not finite.
    """
    up = F.interpolate(attentions[None].float(), input_size, mode="bilinear", align_corners=True)[0]
    peak = up.amax(dim=(1, 2), keepdim=True)
    return (up >= PART_THRESHOLD * peak) & (peak > 0) & peak.isfinite()


def erased(inputs: Inputs, regions: Tensor) -> Inputs:
    """The inputs of one image without each of the regions (P,H,W), a batch of P.

    They are 0, the mean color of ImageNet, as what the drop of training erases; in the larger image
    that views are cut from, that color's byte.
    """
    images, large = inputs
    images = torch.where(regions[:, None], torch.zeros((), dtype=images.dtype), images)
    if large is None:
        return Inputs(images)
    pixels, extents = large
    height, width = extents[0].tolist()
    hidden = F.interpolate(regions[:, None].float(), (height, width), mode="nearest") > 0
    mean = (torch.tensor(NORMALIZATION[pixels.shape[1]][0]) * 255).round().to(torch.uint8)
    pixels = pixels.repeat(len(regions), 1, 1, 1)
    seen = pixels[:, :, :height, :width]
    seen[:] = torch.where(hidden, mean[:, None, None], seen)
    return Inputs(images, Large(pixels, extents.expand(len(regions), -1)))


def _overlap(a: Tensor, b: Tensor) -> float:
    """Intersection over union of two regions (H,W)."""
    return float((a & b).sum() / (a | b).sum().clamp(min=1))


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
