"""The figure of an explanation.

It is laid out by hand, in inches: its height follows the aspect of the photograph.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from wsdan.inference.explaining.fonts import fitting, text_style
from wsdan.inference.explaining.overlays import dimmed, overlaid, painted
from wsdan.inference.explaining.parts import PART_THRESHOLD, Explanation, Part

WIDTH = 10.0  # inches: 1,000 pixels at 100 dots an inch, where the smallest text has 14
MARGIN, GAP = 0.25, 0.2
COLUMN = (WIDTH - 2 * MARGIN - 3 * GAP) / 4  # of four
BAR = 0.65  # beside the mean attention, for its colour bar
HEADING = 0.36  # above an image
TALLEST, LOWEST = 3.4, 0.7  # of a row of images
CLASS = 0.46  # one class of the scores
BIG, TEXT, SMALL = 15, 11, 10  # points
BOX_COLOUR = "#D55E00"  # Okabe and Ito's vermillion, between white lines
BEFORE, AFTER = "#A9BCCF", "#1F4E79"  # light and dark in greyscale too


def draw(explanation: Explanation) -> Figure:
    """One figure of an image: the photograph with the box, the mean attention and the refined view;
    the numbered parts, each with what erasing it costs; the views of training; and the scores
    before and after refinement. It is 10 inches wide."""
    wide = (WIDTH - 2 * MARGIN - 2 * GAP - BAR) / 3
    aspect = explanation.image.height / explanation.image.width
    first, second = (float(np.clip(width * aspect, LOWEST, TALLEST)) for width in (wide, COLUMN))
    scores = CLASS * len(explanation.result.top)
    third = max(second, scores)
    parts = second if explanation.parts else -0.25  # inches; without one there is a line
    tops = np.cumsum([0.95 + HEADING, first + 0.55 + HEADING, parts + 0.55 + HEADING])
    figure = Figure(figsize=(WIDTH, float(tops[2]) + third + MARGIN))
    _title(figure, explanation)
    step = wide + GAP
    _photograph(_axes(figure, MARGIN, tops[0], wide, first), explanation)
    _attention(_axes(figure, MARGIN + step, tops[0], wide, first), explanation)
    refined = _axes(figure, MARGIN + 2 * step + BAR, tops[0], wide, first)
    both = _both(explanation)
    title = "Refined view: the box, enlarged" if both else "The box, enlarged"
    _image(refined, explanation.refined, title)
    columns = [MARGIN + place * (COLUMN + GAP) for place in range(4)]
    _line(figure, tops[1] - 0.62, _parts_heading(explanation), TEXT, fontweight="bold")
    for left, part in zip(columns, explanation.parts, strict=False):
        _part(_axes(figure, left, tops[1], COLUMN, second), explanation.image, part)
    _line(figure, tops[2] - 0.62, "Views of training", TEXT, fontweight="bold")
    title = f"Probability{' before and after refinement' if both else ''}"
    _line(figure, tops[2] - 0.62, title, TEXT, columns[2], fontweight="bold")
    crop, drop = (_axes(figure, left, tops[2], COLUMN, second) for left in columns[:2])
    _image(crop, explanation.crop, "Crop to part 1" if explanation.parts else "Crop: all of it")
    _image(drop, explanation.drop, "Drop of part 1" if explanation.parts else "Drop: nothing")
    _scores(_axes(figure, columns[2], tops[2], 2 * COLUMN + GAP, scores), explanation)
    return figure


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes by their place in inches from the upper left corner."""
    across, down = figure.get_size_inches()
    return figure.add_axes(
        (left / across, 1 - (top + height) / down, width / across, height / down), anchor="N"
    )


def _line(
    figure: Figure, top: float, text: str, size: float, left: float = MARGIN, **style
) -> None:
    """A line of text, its upper left corner `left` and `top` inches from that of the figure."""
    across, down = figure.get_size_inches()
    style = {"va": "top", "fontsize": size, **text_style(text), **style}
    figure.text(left / across, 1 - top / down, text, **style)


def _title(figure: Figure, explanation: Explanation) -> None:
    result = explanation.result
    best = result.top[0]["class"]
    title = f"Prediction: {fitting(best, 48)}, {_percent(result.score)}"
    _line(figure, 0.2, title, BIG, fontweight="bold")
    about = f"{result.size[0]} x {result.size[1]} pixels"
    if result.image is not None:
        about = f"{fitting(Path(result.image).name, 40)}, {about}"
    if explanation.truth == best:
        about = f"Right  \N{MIDDLE DOT}  {about}"
    elif explanation.truth is not None and explanation.truth_score is not None:
        score = _percent(explanation.truth_score)
        wrong = f"Wrong: it is {fitting(explanation.truth, 40)}, {score}"
        about = f"{wrong}  \N{MIDDLE DOT}  {about}"
    _line(figure, 0.57, about, TEXT)


def _image(axes: Axes, image: Image.Image, title: str) -> None:
    axes.imshow(np.asarray(image), aspect="equal")
    axes.set_title(title, fontsize=TEXT, pad=5, y=1)
    axes.set_axis_off()


def _photograph(axes: Axes, explanation: Explanation) -> None:
    _image(axes, explanation.image, "Photograph and box")
    if explanation.result.box is None:
        return
    scale = explanation.image.width / explanation.result.size[0]
    x1, y1, x2, y2 = (edge * scale for edge in explanation.result.box)
    outline = Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, clip_on=False)
    outline.set(edgecolor=BOX_COLOUR, linewidth=2.5, path_effects=[_halo(5, "white")])
    axes.add_patch(outline)


def _attention(axes: Axes, explanation: Explanation) -> None:
    _image(axes, overlaid(explanation.image, explanation.heat), "Mean attention")
    colours = ScalarMappable(Normalize(0, 1), ListedColormap(painted(np.linspace(0, 1, 256), 0.5)))
    bar = axes.figure.colorbar(colours, cax=axes.inset_axes((1.03, 0, 0.05, 1)), ticks=(0, 0.5, 1))
    bar.ax.set_yticklabels(("0", "half", "peak"), fontsize=SMALL)
    bar.ax.axhline(0.5, color="white", linewidth=1.2)
    _outline(axes, np.nan_to_num(explanation.heat), 0.5, 1.2)


def _parts_heading(explanation: Explanation) -> str:
    if not explanation.parts:
        return "No map is above zero: there is no part to show"
    text = "Strongest maps, and the change of the probability if what they show is erased"
    if explanation.together is None or len(explanation.parts) == 1:
        return text
    change = _points(explanation.together - explanation.result.score)
    return f"{text} (all {len(explanation.parts)}: {change})"


def _part(axes: Axes, photograph: Image.Image, part: Part) -> None:
    """The photograph, dark but for the part."""
    heat = np.nan_to_num(part.heat)
    _image(axes, dimmed(photograph, heat >= PART_THRESHOLD), _points(-part.fall))
    _outline(axes, heat, PART_THRESHOLD, 1.5)
    badge = {"boxstyle": "circle,pad=0.25", "facecolor": "white", "edgecolor": "black"}
    style: dict[str, Any] = {
        "fontsize": TEXT,
        "fontweight": "bold",
        "ha": "center",
        "va": "center",
        "bbox": badge,
    }
    axes.annotate(str(part.number), (0, 1), (11, -11), "axes fraction", "offset points", **style)


def _outline(axes: Axes, heat: np.ndarray, level: float, width: float) -> None:
    """A line around where a map (H',W') reaches a level, white between black ones."""
    if heat.min() < level <= heat.max():
        line = axes.contour(heat, levels=[level], colors="white", linewidths=width)
        line.set(path_effects=[_halo(width + 2, "black")])


def _scores(axes: Axes, explanation: Explanation) -> None:
    """The best classes: the name, and below it a bar for each view that was classified."""
    bars = [("raw", BEFORE, 0.0), ("refined", AFTER, 0.23)]
    if not _both(explanation):
        bars = bars[:1]
    for place, entry in enumerate(explanation.result.top):
        name = fitting(entry["class"], 46)
        weight = "bold" if entry["class"] == explanation.truth else "normal"
        style: dict[str, Any] = {"fontsize": SMALL, "fontweight": weight, "va": "center"}
        axes.text(0, place - 0.3, name, **style, **text_style(name))
        final = _percent(entry.get("mean", entry["raw"]))
        axes.text(100, place - 0.3, final, ha="right", **style)
        for view, colour, shift in bars:
            label = None if place else f"{view} view"
            value = np.nan_to_num(100 * entry[view])
            axes.barh(place + shift, value, 0.22, color=colour, label=label)
    axes.set(xlim=(0, 100), ylim=(len(explanation.result.top) - 0.5, -0.55), xticks=(), yticks=())
    axes.spines[:].set_visible(False)
    axes.legend(
        fontsize=SMALL, loc="lower left", bbox_to_anchor=(0, 1), frameon=False, ncols=2,
        borderpad=0, handlelength=1.2, columnspacing=1.5, borderaxespad=0.3,
    )  # fmt: skip
    numbers = "mean of both" if len(bars) > 1 else "raw view"
    axes.set_title(f"in numbers: {numbers}", fontsize=SMALL, pad=5, y=1, loc="right")


def _both(explanation: Explanation) -> bool:
    """Whether both views were classified, or the raw one alone (--views raw)."""
    return "mean" in explanation.result.top[0]


def _halo(width: float, colour: str) -> withStroke:
    return withStroke(linewidth=width, foreground=colour)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if np.isfinite(share) else "not finite"


def _points(change: float) -> str:
    """A change of a probability, in points of a percent."""
    if not np.isfinite(change):
        return "not finite"
    points = round(100 * change, 1) + 0.0  # not -0.0
    return f"{points:+.1f} points".replace("-", "\N{MINUS SIGN}")
