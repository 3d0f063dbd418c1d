"""The chosen images as the page shows them: small JPEGs in data URIs, with box and attention."""

import base64
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image

from wsdan.config import Config
from wsdan.data.images import BadImageError, ImageDataset, load_image
from wsdan.data.loaders import InMemoryDataset
from wsdan.data.samples import Box
from wsdan.data.zoom import joined
from wsdan.errors import UserError
from wsdan.inference.classifier import Classifier
from wsdan.inference.explaining.overlays import map_in_original, overlaid, shown_size
from wsdan.reporting.observe import Example

Images: TypeAlias = ImageDataset | InMemoryDataset
SIDE = 256  # pixels of the longer side of an image on the page
MOST_BYTES = 14_000  # of a JPEG
QUALITIES = (82, 70, 55, 40)  # the first that is small enough
WIDEST = 4  # an image that is longer than this many times its other side is squeezed to it


@dataclass(frozen=True)
class Photograph:
    """One image on the page.

    width, height: of the two JPEGs, image and attention, in data URIs; attention is None for a
    plain classifier. box, known: left, top, width and height in percent of the image, of the
    refined view and of the labelled box; None where there is none. raw, final: the best class
    and its probability, before and after refinement. truth: the final probability of the true
    class.
    """

    name: str
    width: int
    height: int
    image: str
    attention: str | None
    box: tuple[float, ...] | None
    known: tuple[float, ...] | None
    raw: tuple[int, float]
    final: tuple[int, float]
    truth: float


@torch.no_grad()
def photographs(
    classifier: Classifier,
    dataset: Images,
    examples: Iterable[Example],
    batch_size: int,
) -> dict[int, Photograph]:
    """The photograph of each example, by its index in the dataset. Their files are read again.

    Raises UserError for a file that has become unreadable.
    """
    wanted = list({example.index: example for example in examples}.values())
    found = {}
    for start in range(0, len(wanted), batch_size):
        part = wanted[start : start + batch_size]
        shown = _batch(classifier, dataset, part)
        found.update(zip((example.index for example in part), shown, strict=True))
    return found


def _batch(
    classifier: Classifier, dataset: Images, examples: list[Example]
) -> Iterator[Photograph]:
    inputs, images, sizes, known = [], [], [], []
    for example in examples:  # one original in memory at a time
        original, box = _original(dataset, example.index, classifier.config)
        inputs.append(classifier.prepared([original]))
        images.append(original.convert("RGB").resize(_size(original.size), reducing_gap=3.0))
        sizes.append(original.size)
        known.append(box)
    prediction = classifier.predict(*joined(inputs))
    maps = None
    if prediction.attentions is not None:
        maps = prediction.attentions.float().mean(dim=1).cpu().numpy()
    raw, final = prediction.raw.float().cpu(), prediction.final.float().cpu()
    for i, (example, image) in enumerate(zip(examples, images, strict=True)):
        box = None
        if prediction.boxes is not None:
            box = classifier.box_in_original(prediction.boxes[i].tolist(), sizes[i])
        heat = None if maps is None else _heat(classifier, maps[i], image.size)
        yield Photograph(
            name=example.name,
            width=image.width,
            height=image.height,
            image=data_uri(image),
            attention=None if heat is None else data_uri(overlaid(image, heat)),
            box=_percent(box, sizes[i]),
            known=_percent(known[i], sizes[i]),
            raw=(int(raw[i].argmax()), float(raw[i].max())),
            final=(int(final[i].argmax()), float(final[i].max())),
            truth=float(final[i, example.truth]),
        )


def _heat(classifier: Classifier, attention: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mean map (h,w) over an image that is shown at `size`, 1 at its peak."""
    heat = map_in_original(
        attention, size, classifier.config.input_size, classifier.whole_image, longest=max(size)
    )
    peak = np.nan_to_num(heat).max()
    return heat / peak if peak > 0 else heat


def data_uri(image: Image.Image) -> str:
    """An RGB image as a JPEG of at most MOST_BYTES in a data URI; of noise, at fewer pixels."""
    encoded = _jpeg(image, QUALITIES[0])
    for quality in QUALITIES[1:]:
        if len(encoded) > MOST_BYTES:
            encoded = _jpeg(image, quality)
    while len(encoded) > MOST_BYTES:
        image = image.reduce(2)
        encoded = _jpeg(image, QUALITIES[-1])
    return "data:image/jpeg;base64," + base64.b64encode(encoded).decode()


def _jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, optimize=True)
    return file.getvalue()


def _size(original: tuple[int, int]) -> tuple[int, int]:
    """The size at which an image is shown: its aspect, but for a strip."""
    width, height = shown_size(original, SIDE)
    return max(width, SIDE // WIDEST), max(height, SIDE // WIDEST)


def _percent(box: Iterable[float] | None, size: tuple[int, int]) -> tuple[float, ...] | None:
    """A box x1 y1 x2 y2 in pixels as left, top, width and height in percent."""
    if box is None:
        return None
    width, height = size
    x1, y1, x2, y2 = box
    edges = (x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height)
    if not all(np.isfinite(edge) for edge in edges):
        return None
    return tuple(round(100 * float(edge), 2) for edge in edges)


def _original(dataset: Images, index: int, config: Config) -> tuple[Image.Image, Box | None]:
    """An image as it was before the transforms, upright, and the box that is known in it."""
    if isinstance(dataset, InMemoryDataset):
        pixels = dataset.images[index].permute(1, 2, 0).contiguous().numpy()
        return Image.fromarray(pixels), dataset.boxes[index]
    sample = dataset.samples[index]
    try:
        rgba = config.in_channels == 4
        return load_image(sample.source, config.max_pixels, rgba=rgba), sample.box
    except BadImageError as error:
        raise UserError(str(error)) from None
