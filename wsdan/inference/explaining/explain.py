"""What a classifier looked at in one image: its box, attention, parts, views and scores."""

import os
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wsdan.config import Config
from wsdan.constants import CROP_PADDING, CROP_THRESHOLD, DROP_THRESHOLD, NORMALIZATION
from wsdan.data.zoom import Inputs, Large
from wsdan.errors import UserError, shown
from wsdan.inference.evaluate import Prediction
from wsdan.inference.explaining.drawing import draw
from wsdan.inference.explaining.overlays import LONGEST, map_in_original, shown_size
from wsdan.inference.explaining.parts import Explanation, Part, erased, part_regions, strongest_maps
from wsdan.inference.results import Result
from wsdan.validation import height_and_width
from wsdan_kernels import attention_boxes

__all__ = ["Explanation", "draw", "explain"]


class Classifying(Protocol):
    """What is used of a Classifier."""

    config: Config
    classes: list[str]

    @property
    def whole_image(self) -> bool: ...
    def read(self, image: object) -> Image.Image: ...
    def prepared(self, originals: list[Image.Image]) -> Inputs: ...
    def predict(self, inputs: Tensor, large: Large | None) -> Prediction: ...
    def results(self, prediction: Prediction, names: list, sizes: list, **how) -> list[Result]: ...
    def box_in_original(self, box: list[int], size: tuple[int, int]) -> list[int] | None: ...


def explain(
    classifier: Classifying,
    image: object,
    truth: str | None = None,
    *,
    top: int = 5,
) -> Explanation:
    """Classify an image, and say by what: at most four parts, and what erasing each costs.

    Args:
        classifier: a Classifier of a WSDAN. image: as one of its call. truth: the true class.
        top: classes of the result.

    Raises:
        UserError: an unreadable image, a truth that is no class, or a plain classifier, which has
            no attention.
    """
    classes = classifier.classes
    if truth is not None and truth not in classes:
        raise UserError(f"explain: the truth {shown(truth)} is no class of the model")
    original = classifier.read(image)
    name = os.fspath(image) if isinstance(image, (str, os.PathLike)) else None
    inputs = classifier.prepared([original])
    prediction = classifier.predict(*inputs)
    if prediction.attentions is None or prediction.boxes is None:
        raise UserError("a plain classifier has no attention to explain (--method baseline)")
    (result,) = classifier.results(prediction, [name], [original.size], top=top)
    attentions = prediction.attentions[0].float().cpu()
    parts, together = _parts(classifier, original.size, inputs, prediction, attentions)
    strongest = attentions[parts[0].map if parts else 0]
    photograph = _shown(original)
    crop, drop = _training_views(classifier, original, photograph, strongest)
    return Explanation(
        result=result,
        truth=truth,
        truth_score=None if truth is None else float(prediction.final[0, classes.index(truth)]),
        image=photograph,
        heat=_heat(classifier, attentions.mean(dim=0), original.size),
        parts=parts,
        together=together,
        crop=crop,
        drop=drop,
        refined=_cut(original, result.box),
    )


def _parts(
    classifier: Classifying,
    size: tuple[int, int],
    inputs: Inputs,
    prediction: Prediction,
    attentions: Tensor,
) -> tuple[list[Part], float | None]:
    """The parts of one image, and the score with all of them erased."""
    input_size = height_and_width(classifier.config.input_size)
    maps = strongest_maps(attentions, input_size)
    if not maps:
        return [], None
    label = int(prediction.final[0].argmax())
    before = float(prediction.final[0, label])
    regions = part_regions(attentions[maps], input_size)
    regions = torch.cat([regions, regions.any(dim=0, keepdim=True)])
    without = classifier.predict(*erased(inputs, regions))
    *scores, together = without.final[:, label].tolist()
    mass = attentions.nan_to_num(0, 0, 0).mean(dim=(1, 2))
    parts = [
        Part(
            number=number,
            map=index,
            share=float(mass[index] / mass.sum()),
            heat=_heat(classifier, attentions[index], size),
            score=score,
            fall=before - score,
        )
        for number, (index, score) in enumerate(zip(maps, scores, strict=True), start=1)
    ]
    return parts, together


def _training_views(
    classifier: Classifying, original: Image.Image, photograph: Image.Image, strongest: Tensor
) -> tuple[Image.Image, Image.Image]:
    """Crop and drop by one map (h,w), in the middle of their ranges of thresholds."""
    (box,) = attention_boxes(
        strongest[None],
        height_and_width(classifier.config.input_size),
        threshold=sum(CROP_THRESHOLD) / 2,
        padding=CROP_PADDING,
    ).tolist()
    crop = _cut(original, classifier.box_in_original(box, original.size))
    heat = np.nan_to_num(_heat(classifier, strongest, original.size))
    pixels = np.array(photograph)
    mean = np.array(NORMALIZATION[classifier.config.in_channels][0][:3]) * 255
    pixels[heat >= sum(DROP_THRESHOLD) / 2] = mean.round().astype(np.uint8)
    return crop, Image.fromarray(pixels)


def _heat(classifier: Classifying, attention: Tensor, size: tuple[int, int]) -> np.ndarray:
    """A map (h,w) in the aspect of the photograph, divided by its peak; 0 for a map without one."""
    values = attention.numpy()
    peak = float(values.max())
    if not (np.isfinite(values).all() and peak > 0):
        values, peak = np.zeros_like(values), 1.0
    whole, input_size = classifier.whole_image, classifier.config.input_size
    return map_in_original(values / peak, size, input_size, whole)


def _shown(image: Image.Image) -> Image.Image:
    """The image in RGB, LONGEST pixels on its longer side."""
    return image.convert("RGB").resize(shown_size(image.size, LONGEST), Image.Resampling.LANCZOS)


def _cut(original: Image.Image, box: list[int] | None) -> Image.Image:
    """What is in a box x1 y1 x2 y2 of the image; all of it for none, or an empty one."""
    x1, y1, x2, y2 = box or (0, 0, 0, 0)
    return _shown(original.crop((x1, y1, x2, y2)) if x2 > x1 and y2 > y1 else original)
