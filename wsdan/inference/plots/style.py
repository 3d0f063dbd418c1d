"""What the figures share: size, colours, and names that stay apart when they are shortened."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wsdan.files import written_whole
from wsdan.inference.explaining.fonts import fitting

WIDTH = 10.0  # inches; 1,000 pixels at DPI
DPI = 100
TITLE, TEXT, SMALL = 12, 10, 9  # points
# Of Okabe and Ito: told apart by colour-blind people, and of unequal lightness.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure, width and height in inches."""
    return Figure(figsize=(width, height), layout="constrained", dpi=DPI)


def plain(axes: Axes) -> None:
    """No frame above and on the right, a light grid behind what is drawn."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL)
    axes.grid(color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all. Raises OSError."""
    with written_whole(path, "wb") as file:
        figure.savefig(file, format="png")


def short_names(names: Sequence[str], longest: int) -> list[str]:
    """Names as they can be drawn, of at most `longest` columns and cut in their middle: look-alikes
    often differ at their ends. If different names became equal, all are numbered."""
    shown = [fitting(name, longest) for name in names]
    if len(set(shown)) == len(set(names)):
        return shown
    width = len(str(len(shown))) + 1
    return [f"{i} {fitting(name, longest - width)}" for i, name in enumerate(names, 1)]
