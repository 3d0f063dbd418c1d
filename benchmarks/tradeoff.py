"""Accuracy against speed of the ways to classify an image, as one table of a checkpoint.

python benchmarks/tradeoff.py --checkpoint FILE [--root DIR] [--json FILE] [--plot FILE.png]
The network runs once for "raw" (`--views raw`), twice for "raw, flipped", "refined" and "mean", and
eight times for "tta". Each way classifies each batch of the validation images, one way after the
other, so that all see the same images and the same load of the machine. Times are those of
predict_views on images that are on the device, without loading; images/s follow from the median
over the batches. An accuracy has the standard error of a share of so many images.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from harness.report import machine, require_matplotlib
from torch import Tensor
from tqdm import tqdm

from wsdan.config import Config
from wsdan.data.loaders import Batch, val_loader
from wsdan.data.zoom import Inputs
from wsdan.errors import UserError
from wsdan.inference.classifier import Classifier
from wsdan.inference.evaluate import predict_views
from wsdan.validation import threshold

BELOW = ("raw, flipped", "refined")  # whose names a plot has below their dots


@dataclasses.dataclass
class Way:
    """A way to classify. settings: of the Config. view: of the Prediction that is the score."""

    name: str
    passes: int
    settings: dict[str, object]
    view: str
    right: int = 0
    seconds: list[float] = dataclasses.field(default_factory=list)  # an image, by batch


def ways() -> list[Way]:
    return [
        Way("raw", 1, {"views": "raw", "tta": False}, "raw"),
        Way("raw, flipped", 2, {"views": "raw", "tta": True}, "tta"),
        Way("refined", 2, {"views": "all", "tta": False}, "refined"),
        Way("mean", 2, {"views": "all", "tta": False}, "mean"),
        Way("tta", 8, {"views": "all", "tta": True}, "tta"),
    ]


def measure(
    classifier: Classifier, batches: Iterable[Batch], config: Config
) -> tuple[list[Way], int]:
    """All ways on all batches, and the number of images. The first batch is no time."""
    found, images, device = ways(), 0, classifier.device
    for number, batch in enumerate(tqdm(batches, unit="batch", leave=False, disable=None)):
        if batch.bad:
            raise UserError(batch.bad[0])
        inputs = batch.inputs(config, device)
        images += len(batch.labels)
        for way in found:
            settings = dataclasses.replace(config, **way.settings)
            seconds, scores = _timed(classifier, inputs, settings, way.view)
            if number > 0 and len(batch.labels) == config.batch_size:
                way.seconds.append(seconds / len(batch.labels))
            finite = scores.isfinite().all(dim=1)
            way.right += int(((scores.argmax(1) == batch.labels) & finite).sum())
    if not found[0].seconds:
        raise UserError("two full batches of validation images are needed; lower --batch")
    return found, images


def _timed(
    classifier: Classifier, inputs: Inputs, config: Config, view: str
) -> tuple[float, Tensor]:
    """Seconds of one prediction, and its scores (B,N) of a view, on the CPU."""
    start = time.perf_counter()
    prediction = predict_views(classifier.model, inputs.images, config, inputs.large)
    scores: Tensor = getattr(prediction, view)
    if scores.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, scores.cpu()


def rows(found: list[Way], images: int) -> list[dict[str, object]]:
    """The table: accuracy in percent and its standard error, milliseconds of an image, images/s."""
    table = []
    for way in found:
        share, seconds = way.right / images, statistics.median(way.seconds)
        table.append(
            {
                "way": way.name,
                "passes": way.passes,
                "accuracy": 100 * share,
                "error": 100 * (share * (1 - share) / images) ** 0.5,
                "ms": 1e3 * seconds,
                "images_per_s": 1 / seconds,
            }
        )
    return table


def text_of(table: list[dict]) -> str:
    """Markdown."""
    base = table[0]["images_per_s"]
    lines = ["| way | passes | accuracy, % | images/s | of raw |", "|---|---|---|---|---|"]
    for row in table:
        lines.append(
            f"| {row['way']} | {row['passes']} | {row['accuracy']:.1f} ± {row['error']:.1f} | "
            f"{row['images_per_s']:.1f} | {row['images_per_s'] / base:.2f} |"
        )
    return "\n".join(lines)


def plot(table: list[dict], title: str, path: str) -> None:
    """A dot for each way: accuracy over images/s."""
    from wsdan.inference.plots.style import BLUE, SMALL, new_figure, plain, save_figure

    figure = new_figure(3.6, 7.0)
    axes = figure.subplots()
    speeds, accuracies = ([row[key] for row in table] for key in ("images_per_s", "accuracy"))
    axes.errorbar(
        speeds, accuracies, [row["error"] for row in table], fmt="o", color=BLUE, capsize=3,
        elinewidth=1,
    )  # fmt: skip
    for row in table:
        at, below = (row["images_per_s"], row["accuracy"]), row["way"] in BELOW
        place = (7, -14 if below else 6)
        axes.annotate(row["way"], at, xytext=place, textcoords="offset points", fontsize=SMALL)
    axes.set(xscale="log", xlim=(0.8 * min(speeds), 1.6 * max(speeds)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel("images/s, logarithmic", fontsize=SMALL)
    axes.set_ylabel("top-1 accuracy, %", fontsize=SMALL)
    axes.set_title(title, fontsize=SMALL)
    plain(axes)
    save_figure(figure, Path(path))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="FILE", help="of a WS-DAN")
    add("--root", metavar="DIR", help="the dataset's folder (default: the checkpoint's)")
    add("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    add("--batch", type=int, default=16, metavar="B", help="images at once (default: 16)")
    add("--refine-threshold", type=threshold, metavar="X|auto", help="default: the checkpoint's")
    add("--refine-padding", type=float, metavar="X", help="default: the checkpoint's")
    add("--json", metavar="FILE", help="write the table to this file too")
    add("--plot", metavar="FILE.png", help="draw it (needs matplotlib)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if options.plot:
        require_matplotlib()
    names = ("root", "refine_threshold", "refine_padding")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    try:
        classifier = Classifier(options.checkpoint, options.device)
        config = dataclasses.replace(
            classifier.config, resume=False, overwrite=False, cache=None, workers=0,
            batch_size=options.batch, **given,
        ).resolved()  # fmt: skip
        if config.method != "wsdan":
            raise UserError("tradeoff: the checkpoint is of a plain classifier: it has one way")
        found, images = measure(classifier, val_loader(config, classifier.classes), config)
    except UserError as error:
        raise SystemExit(f"tradeoff: {error}") from None
    table = rows(found, images)
    print(text_of(table))
    text = f"{config.backbone} at {config.image_size} px, batches of {options.batch}"
    text = f"{text}, {images} images, refine threshold {config.refine_threshold}"
    print(text)
    if options.json:
        facts = {"machine": machine(classifier.device.type), "images": images, "setting": text}
        Path(options.json).write_text(json.dumps({**facts, "rows": table}, indent=1) + "\n")
    if options.plot:
        plot(table, text, options.plot)


if __name__ == "__main__":
    main()
