"""The figure of an explanation."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from wsdan.errors import printable
from wsdan.inference.overlays import COLOUR_MAP, overlaid
from wsdan.inference.parts import PART_THRESHOLD, Explanation

WIDTH, HEIGHT = 10.0, 8.6  # inches; 1,000 pixels wide at 100 dots an inch
TEXT, SMALL = 11, 10  # points
# Of Okabe and Ito, told apart by the colour-blind; in print the numbers and the dashes tell them.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7")
DASHES = ("solid", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
BOX_COLOUR = "#D55E00"
BEFORE, AFTER = "#B8C4D0", "#1F4E79"
LONGEST_NAME = 34  # characters of a class


def draw(explanation: Explanation) -> Figure:
    """One figure of an image: photograph with box, mean attention, numbered parts, training views,
    refined view, scores before and after refinement, and what erasing each part costs."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    grid = figure.add_gridspec(3, 3, height_ratios=(1.25, 1, 0.95))
    axes = [[figure.add_subplot(grid[row, column]) for column in range(3)] for row in range(2)]
    _photograph(axes[0][0], explanation)
    _attention(axes[0][1], explanation)
    _parts(axes[0][2], explanation)
    _image(axes[1][0], explanation.crop, "Training crop, to map 1")
    _image(axes[1][1], explanation.drop, "Training drop, of map 1")
    _image(axes[1][2], explanation.refined, "Refined view: the box")
    _scores(figure.add_subplot(grid[2, :2]), explanation)
    _falls(figure.add_subplot(grid[2, 2]), explanation)
    figure.suptitle(_title(explanation), fontsize=TEXT + 3, fontweight="bold")
    return figure


def _title(explanation: Explanation) -> str:
    result = explanation.result
    text = f"Prediction: {_name(result.top[0]['class'], 60)}, {_percent(result.score)}"
    if explanation.truth is None:
        return text
    if explanation.truth == result.top[0]["class"]:
        return f"{text} (right)"
    return f"{text}\nWrong: it is {_name(explanation.truth, 60)}"


def _image(axes: Axes, image: Image.Image, title: str) -> None:
    axes.imshow(np.asarray(image), aspect="equal")
    axes.set_title(title, fontsize=TEXT)
    axes.set_axis_off()


def _photograph(axes: Axes, explanation: Explanation) -> None:
    _image(axes, explanation.image, "Photograph and box")
    if explanation.result.box is None:
        return
    scale = explanation.image.width / explanation.result.size[0]
    x1, y1, x2, y2 = (edge * scale for edge in explanation.result.box)
    outline = Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, clip_on=False)
    outline.set(edgecolor=BOX_COLOUR, linewidth=2.5, path_effects=[_halo(4.5)])
    axes.add_patch(outline)


def _attention(axes: Axes, explanation: Explanation) -> None:
    _image(axes, overlaid(explanation.image, explanation.heat), "Mean attention")
    colours = ScalarMappable(Normalize(0, 1), COLOUR_MAP)
    bar = axes.figure.colorbar(colours, ax=axes, fraction=0.05, pad=0.03, ticks=(0, 0.5, 1))
    bar.ax.set_yticklabels(("0", "half", "peak"), fontsize=SMALL)


def _parts(axes: Axes, explanation: Explanation) -> None:
    grey = explanation.image.convert("L").convert("RGB")
    _image(axes, grey, "Strongest maps, as parts")
    for part, colour, dashes in zip(explanation.parts, COLOURS, DASHES, strict=False):
        heat = np.nan_to_num(part.heat)
        outline = axes.contour(heat, levels=[PART_THRESHOLD], colors=[colour], linewidths=2.2)
        outline.set(linestyle=[dashes], path_effects=[_halo(4)])
        y, x = np.unravel_index(heat.argmax(), heat.shape)
        axes.text(x, y, str(part.number), fontsize=SMALL, **_badge(colour))


def _scores(axes: Axes, explanation: Explanation) -> None:
    top = explanation.result.top
    places = np.arange(len(top))
    for view, label, colour, shift in (
        ("raw", "before: whole view", BEFORE, -0.2),
        ("refined", "after: refined view", AFTER, 0.2),
    ):
        values = [100 * entry[view] for entry in top]
        axes.barh(places + shift, values, 0.38, color=colour, label=label)
    axes.set_yticks(places, [_name(entry["class"], LONGEST_NAME) for entry in top], fontsize=SMALL)
    for place, entry in zip(places, top, strict=True):
        high = max(np.nan_to_num(100 * entry["raw"]), np.nan_to_num(100 * entry["refined"]))
        axes.text(high + 1, place, _percent(entry["mean"]), va="center", fontsize=SMALL)
    axes.invert_yaxis()
    axes.set(xlim=(0, 115), xticks=(0, 25, 50, 75, 100))
    axes.set_title("Probability in %; beside the bars that of both views", fontsize=TEXT)
    axes.legend(fontsize=SMALL, loc="lower right", frameon=False)
    _plain(axes)


def _falls(axes: Axes, explanation: Explanation) -> None:
    """Bars of the deletion scores."""
    rows = [(str(part.number), 100 * part.fall) for part in explanation.parts]
    if explanation.together is not None:
        rows.append(("all", 100 * (explanation.result.score - explanation.together)))
    values = np.nan_to_num([value for _, value in rows])
    colours = [*COLOURS[: len(explanation.parts)], "#555555"]
    axes.barh(range(len(rows)), values, 0.6, color=colours[: len(rows)], edgecolor="black")
    for place, value in enumerate(values):
        axes.text(max(value, 0) + 2, place, f"{-value:+.1f}", va="center", fontsize=SMALL)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=TEXT)
    axes.invert_yaxis()
    axes.set(xlim=(min(0, values.min(initial=0)), 130), xticks=(0, 50, 100))
    axes.set_title("Points lost if it is erased", fontsize=TEXT)
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL)


def _badge(colour: str) -> dict:
    box = {"boxstyle": "circle,pad=0.25", "facecolor": "black", "edgecolor": colour}
    return {"color": "white", "fontweight": "bold", "ha": "center", "va": "center", "bbox": box}


def _halo(width: float) -> withStroke:
    return withStroke(linewidth=width, foreground="white")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if np.isfinite(share) else "not finite"


def _name(text: str, longest: int) -> str:
    text = printable(text)
    return text if len(text) <= longest else text[: longest - 1] + "…"
