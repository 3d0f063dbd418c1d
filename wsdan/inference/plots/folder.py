"""All figures of an evaluation and of its run, and predictions.csv, in one folder."""

from pathlib import Path
from typing import Protocol

from PIL import Image

from wsdan.config import Config
from wsdan.constants import CURVES, FIGURES, PREDICTIONS
from wsdan.distributed import is_main
from wsdan.inference.metrics import Evaluation
from wsdan.inference.plots.accuracy import draw_per_class, draw_reliability
from wsdan.inference.plots.confusion import draw_confusion
from wsdan.inference.plots.curves import draw_curves, read_records
from wsdan.inference.plots.mistakes import draw_mistakes
from wsdan.inference.plots.predictions import PredictionLog
from wsdan.inference.plots.style import save_figure


class Originals(Protocol):
    """A dataset of validation images."""

    def __len__(self) -> int: ...
    def original(self, index: int) -> Image.Image:
        """The image before it was resized, RGB or RGBA."""


def write_plots(
    folder: Path,
    result: Evaluation,
    log: PredictionLog,
    classes: list[str],
    config: Config,
    images: Originals,
) -> None:
    """Write FIGURES and PREDICTIONS. All ranks call it; the first one writes.

    Args:
        result, log: of the evaluation of `images`. config: of the evaluation.

    Raises OSError in the first rank, BadImageError for an image that cannot be read any more.
    """
    mistakes = log.worst()
    log.write(folder / PREDICTIONS, len(images))
    if not is_main():
        return
    photographs = [images.original(mistake.index) for mistake in mistakes]
    figures = (
        draw_confusion(result, classes),
        draw_per_class(result, classes),
        draw_reliability(result.calibration),
        draw_mistakes(mistakes, photographs, config),
    )
    for name, figure in zip(FIGURES, figures, strict=True):
        save_figure(figure, folder / name)


def write_curves(folder: Path, metrics: Path) -> bool:
    """Write CURVES of the epochs in a metrics.jsonl; False where there are none. Raises OSError."""
    records = read_records(metrics) if metrics.is_file() else []
    if records:
        save_figure(draw_curves(records), folder / CURVES)
    return bool(records)
