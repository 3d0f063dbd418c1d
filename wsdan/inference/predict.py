"""Predictions of many images: batch by batch, as text, as JSON lines, as csv and as crops."""

import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path, PurePath
from typing import NamedTuple

from wsdan.data.images import BadImageError, load_image
from wsdan.data.samples import TarMember
from wsdan.data.sources import Source, Unreadable
from wsdan.data.stream import StreamBatch, rank_batches, stream_loader, unreadable
from wsdan.errors import UserError, printable
from wsdan.inference.classifier import Classifier
from wsdan.inference.evaluate import VIEWS, Prediction
from wsdan.inference.results import UNKNOWN, Result
from wsdan.inference.tables import Table

LONGEST_STEM = 40  # characters of a source's name in the name of its crop


class Outcome(NamedTuple):
    """What became of an image: its place in the order of all, its source, and its result or why
    there is none."""

    index: int
    source: Source
    result: Result | Unreadable


class Record(NamedTuple):
    """One image's part of the outputs: of stdout, of the csv file and of stderr."""

    line: str | None
    row: list | None
    error: str | None


def predictions(
    classifier: Classifier,
    sources: Iterable[Source],
    *,
    batch_size: int,
    workers: int,
    top: int = 5,
    threshold: float = 0.0,
) -> Iterator[list[Outcome]]:
    """The outcomes of each batch, in the order of the sources.

    The sources are listed no further than the workers load ahead, and an image that cannot be read
    is an Unreadable among the others. Under torchrun each rank gets its own batches (see
    `rank_batches`) of the sources of rank 0; every rank must take all of them. On a GPU the next
    batch passes the network while the results of the last are read.

    Args:
        batch_size, workers: images that pass the network at once; processes that load images, none
            of which is started for a single batch. top, threshold: as in Classifier.
    """
    batches = rank_batches(sources, batch_size)
    begin = list(islice(batches, 2))
    loader = stream_loader(
        chain(begin, batches),
        classifier.transform(),
        classifier.config.max_pixels,
        workers if len(begin) > 1 else 0,
        classifier.device,
    )
    ahead = None
    for batch in loader:
        prediction = None
        if batch.sources:
            prediction = classifier.predict_batch(batch.images, batch.extents)
        if ahead is not None:
            yield _outcomes(classifier, *ahead, top, threshold)
        ahead = batch, prediction
    if ahead is not None:
        yield _outcomes(classifier, *ahead, top, threshold)


def _outcomes(
    classifier: Classifier,
    batch: StreamBatch,
    prediction: Prediction | None,
    top: int,
    threshold: float,
) -> list[Outcome]:
    results = []
    if prediction is not None:
        names = [str(source) for source in batch.sources]
        results = classifier.results(prediction, names, batch.sizes, top=top, threshold=threshold)
    found = list(map(Outcome, batch.indices, batch.sources, results))
    found += [Outcome(index, bad, bad) for index, bad in batch.unreadable]
    return sorted(found, key=lambda outcome: outcome.index)


class Recorder:
    """Makes the Record of each outcome.

    Args:
        classifier: with which the crops are read. lines: "text", "json", or None for no lines.
        table: of the csv file, or None for no rows. crops: folder of the crops, or None.
    """

    def __init__(
        self,
        classifier: Classifier,
        lines: str | None,
        table: Table | None = None,
        crops: str | Path | None = None,
    ):
        self.classifier, self.lines, self.table, self.crops = classifier, lines, table, crops

    def __call__(self, outcome: Outcome) -> Record:
        """Saves the crop. Raises UserError if it cannot be written."""
        result, found = outcome.result, {}
        if self.crops is not None and isinstance(result, Result):
            try:
                found["crop"] = str(save_crop(self.classifier, outcome, self.crops))
            except BadImageError as error:  # it was there when the network's input was read
                result = unreadable(outcome.source, error)
        if isinstance(result, Unreadable):
            found = {"image": result.name, "error": result.reason}
            error = f"{result.name}: {result.reason}"
            row = None if self.table is None else self.table.failed(*result)
            text = f"{printable(result.name)}\n  {printable(result.reason)}"
        else:
            found = {**result.to_dict(), **found}
            error, text = None, prediction_text(found) if self.lines == "text" else ""
            row = None if self.table is None else self.table.row(result)
        line = {"text": text, "json": json.dumps(found), None: None}[self.lines]
        return Record(line, row, error)


def save_crop(classifier: Classifier, outcome: Outcome, folder: str | Path) -> Path:
    """Cut the box out of the original image and save it, as JPEG, or as PNG with alpha; returns the
    path, whose number is the image's place in the order of all.

    Raises BadImageError if the image cannot be read any more, UserError if the crop cannot be
    written.
    """
    rgba = classifier.config.in_channels == 4
    image = load_image(outcome.source, classifier.config.max_pixels, rgba=rgba)
    x1, y1, x2, y2 = outcome.result.box
    x1, y1 = min(x1, image.width - 1), min(y1, image.height - 1)
    crop = image.crop((x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)))  # of a tiny image, one pixel
    name = outcome.source.name if isinstance(outcome.source, TarMember) else outcome.source
    stem = PurePath(name).stem[:LONGEST_STEM]
    path = Path(folder) / f"{outcome.index:06d}_{stem}{'.png' if rgba else '.jpg'}"
    try:
        with open(path, "xb") as file:
            if rgba:
                crop.save(file, "PNG")
            else:
                crop.save(file, "JPEG", quality=95, subsampling=0)
    except OSError as error:
        raise UserError(f"--save-crops: cannot write {path}: {error.strerror}") from None
    return path


def prediction_text(result: dict) -> str:
    """A prediction as text for the terminal: its name, a table of its best classes, its box. One
    line if it holds a single class."""
    crop = f"crop: {printable(result['crop'])}" if "crop" in result else ""
    if len(result["top"]) == 1:
        text = f"{printable(result['image'] + ': ' + result['label'])}{_percent(result['score'])}"
        return text + (f", {crop}" if crop else "")
    views = [view for view in VIEWS if view in result["top"][0]]
    names = [printable(entry["class"]) for entry in result["top"]]
    lines = [f"{printable(result['image'])} ({result['size'][0]} x {result['size'][1]})"]
    if result["label"] == UNKNOWN:
        lines[0] += f": {UNKNOWN}"
    width = max(len(name) for name in names)
    lines.append("  " + " " * width + "".join(f"{view:>10}" for view in views))
    for name, entry in zip(names, result["top"], strict=True):
        row = "".join(_percent(entry[view]) for view in views)
        lines.append(f"  {name:<{width}}{row}")
    if result["box"] is not None:
        x1, y1, x2, y2 = result["box"]
        lines.append(f"  object: x {x1} to {x2}, y {y1} to {y2}")
    if crop:
        lines.append(f"  {crop}")
    return "\n".join(lines)


def _percent(score: float | None) -> str:
    """Ten characters; None is a score that is not finite."""
    return f"{'not finite':>10}" if score is None else f"{100 * score:8.1f} %"
