"""The worst mistakes of an evaluation, with what the model looked at."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from wsdan.config import Config
from wsdan.inference.explaining.fonts import text_style
from wsdan.inference.explaining.overlays import map_in_original, overlaid
from wsdan.inference.plots.style import ORANGE, SMALL, TITLE, new_figure, short_names
from wsdan.inference.results import Result

CELL = 320  # pixels of the square in which a photograph, or its attention, is shown
GAP = 8  # pixels between the two
COLUMNS = 3
LONGEST_NAME, LONGEST_FILE = 34, 48  # characters


class Mistake(NamedTuple):
    """An image whose best class is not its own.

    truth: the name of its class. index: of the image in the dataset.
    """

    result: Result
    truth: str
    index: int


def attention_in_photograph(result: Result, config: Config, longest: int) -> np.ndarray | None:
    """The mean attention (H',W') in [0,1] of a result, in the aspect of its photograph and at most
    `longest` pixels wide and high; None for a plain classifier or a map without a peak.

    config: how the input was made of the photograph.
    """
    values = result.attention
    if values is None or not np.isfinite(values).all() or values.max() <= 0:
        return None
    whole = config.data == "synthetic"
    return map_in_original(values / values.max(), result.size, config.input_size, whole, longest)


def draw_mistakes(
    mistakes: Sequence[Mistake], photographs: Sequence[Image.Image], config: Config
) -> Figure:
    """Each photograph with its box, beside it the attention, above both the true and the predicted
    class with their final scores.

    photographs: the original images of the mistakes, in RGB. config: as in `results_of`.
    """
    rows = max(-(-len(mistakes) // COLUMNS), 1)
    figure = new_figure(0.6 + 2.25 * rows)
    axes = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for panel in axes:
        panel.set(xticks=(), yticks=())  # far quicker than set_axis_off
        panel.spines[:].set_visible(False)
    for panel, mistake, photograph in zip(axes, mistakes, photographs, strict=False):
        panel.imshow(_side_by_side(mistake.result, photograph, config))
        caption = _caption(mistake)
        panel.set_title(caption, fontsize=SMALL, loc="left", **text_style(caption))
    title = f"The {len(mistakes)} wrong images with the highest scores" if mistakes else (
        "No image was classified wrongly")  # fmt: skip
    figure.suptitle(title, fontsize=TITLE)
    return figure


def _caption(mistake: Mistake) -> str:
    best = mistake.result.top[0]["class"]
    own = [entry for entry in mistake.result.top if entry["class"] == mistake.truth]
    truth, predicted = short_names([mistake.truth, best], LONGEST_NAME)
    share = f"{100 * own[0].get('mean', own[0]['raw']):.1f} %" if own else "not in the top 5"
    file = "/".join(Path(mistake.result.image or "").parts[-2:])
    return (
        f"is {truth}, {share}\ntaken for {predicted}, {100 * mistake.result.score:.1f} %\n"
        f"{short_names([file], LONGEST_FILE)[0]}"
    )


def _side_by_side(result: Result, photograph: Image.Image, config: Config) -> np.ndarray:
    """The photograph with its box and, for a model with attention, its attention: (H,W,3) uint8."""
    heat = attention_in_photograph(result, config, CELL)
    scale = CELL / max(photograph.size)
    size = tuple(max(round(side * scale), 1) for side in photograph.size)
    shown = photograph.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    sheet = Image.new(
        "RGB", (2 * CELL + GAP if result.attention is not None else CELL, CELL), "white"
    )
    overlay = None if heat is None else overlaid(shown, heat)
    if result.box is not None:
        edges = [round(edge * scale) for edge in result.box]
        edges[2:] = max(edges[2] - 1, edges[0]), max(edges[3] - 1, edges[1])
        canvas = ImageDraw.Draw(shown)
        canvas.rectangle(edges, outline="white", width=7)
        canvas.rectangle(edges, outline=ORANGE, width=4)
    top = (CELL - size[1]) // 2
    sheet.paste(shown, ((CELL - size[0]) // 2, top))
    if overlay is not None:
        sheet.paste(overlay, (CELL + GAP + (CELL - size[0]) // 2, top))
    return np.asarray(sheet)
