"""Charts as geometry: what the template draws as SVG, in pixels of its view box."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 400, 240
LEFT, RIGHT, TOP, BOTTOM = 54, 16, 12, 36  # margins for the labels
TICKS = 5
FEW = 10  # images, below which the height of a bar says little


@dataclass(frozen=True)
class Tick:
    """A line of the grid: its place along the axis, and its label."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """One series: its name, the number of its colour, and its points "x,y x,y"."""

    name: str
    number: int
    points: str
    dots: tuple[tuple[float, float, str], ...]  # x, y and a text for each point


@dataclass(frozen=True)
class Bar:
    """A bar: its corner and size, and a text. faint: of so few images that it says little."""

    x: float
    y: float
    width: float
    height: float
    text: str
    faint: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart in a view box of WIDTH x HEIGHT; summary: what it shows, in words."""

    summary: str
    x_name: str
    y_name: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...] = ()
    bars: tuple[Bar, ...] = ()
    diagonal: tuple[float, float, float, float] | None = None
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def curves(
    records: list[dict[str, float]], series: dict[str, str], y_name: str, unit: str = ""
) -> Chart | None:
    """Curves over the epochs, from 1; None without a point.

    series: the names of the keys in the records.
    """
    shown = {key: name for key, name in series.items() if any(key in item for item in records)}
    if not shown:
        return None
    values = [item[key] for item in records for key in shown if key in item]
    epochs = [item["epoch"] + 1 for item in records]
    x_axis = _Axis(min(epochs), max(epochs), LEFT, WIDTH - RIGHT, whole=True)
    y_axis = _Axis(min(values), max(values), HEIGHT - BOTTOM, TOP)
    lines, parts = [], []
    for number, (key, name) in enumerate(shown.items(), start=1):
        places = [(item["epoch"] + 1, item[key]) for item in records if key in item]
        dots = tuple(
            (x_axis.at(x), y_axis.at(y), f"{name}, epoch {x}: {_short(y)}{unit}") for x, y in places
        )
        points = " ".join(f"{x},{y}" for x, y, _ in dots)
        lines.append(Line(name, number, points, dots if len(dots) <= 60 else ()))
        parts.append(f"{name} from {_short(places[0][1])}{unit} to {_short(places[-1][1])}{unit}")
    summary = f"{y_name} by epoch: {'; '.join(parts)}"
    return Chart(summary, "epoch", y_name, x_axis.ticks(), y_axis.ticks(), tuple(lines))


def reliability(accuracy: Sequence[float], counts: Sequence[int], summary: str) -> Chart:
    """The accuracy in percent of bins of confidence, of which empty ones are left out."""
    x_axis = _Axis(0, 100, LEFT, WIDTH - RIGHT, exact=True)
    y_axis = _Axis(0, 100, HEIGHT - BOTTOM, TOP, exact=True)
    texts = [
        f"confidence {_bounds(i, len(counts))}: {count} images, accuracy {accuracy[i]:.1f} %"
        if count
        else None
        for i, count in enumerate(counts)
    ]
    bars = _bars(accuracy, texts, x_axis, y_axis, [count < FEW for count in counts])
    diagonal = (x_axis.at(0), y_axis.at(0), x_axis.at(100), y_axis.at(100))
    names = ("confidence, %", "accuracy, %")
    return Chart(summary, *names, x_axis.ticks(), y_axis.ticks(), bars=bars, diagonal=diagonal)


def histogram(counts: Sequence[int], x_name: str, what: str, summary: str) -> Chart:
    """The share of counts in bins of equal width over 0 to 100 %; `what` is counted."""
    total = max(sum(counts), 1)
    shares = [100 * count / total for count in counts]
    x_axis = _Axis(0, 100, LEFT, WIDTH - RIGHT, exact=True)
    y_axis = _Axis(0, max(*shares, 1.0), HEIGHT - BOTTOM, TOP)
    texts = [
        f"{_bounds(i, len(counts))}: {counts[i]} {what} ({shares[i]:.1f} %)" if counts[i] else None
        for i in range(len(counts))
    ]
    bars = _bars(shares, texts, x_axis, y_axis, [False] * len(counts))
    return Chart(summary, x_name, f"{what}, %", x_axis.ticks(), y_axis.ticks(), bars=bars)


def _bars(
    values: Sequence[float],
    texts: list[str | None],
    x_axis: "_Axis",
    y_axis: "_Axis",
    faint: list[bool],
) -> tuple[Bar, ...]:
    """A bar for each bin that has a text."""
    step, floor = 100 / len(values), y_axis.at(0)
    bars = []
    for i, text in enumerate(texts):
        if text is not None:
            x1, x2, y = x_axis.at(i * step), x_axis.at((i + 1) * step), y_axis.at(values[i])
            width, height = round(x2 - x1 - 1, 2), round(floor - y, 2)
            bars.append(Bar(x1, y, width, height, text, faint[i]))
    return tuple(bars)


def _bounds(index: int, bins: int) -> str:
    return f"{100 * index / bins:.0f} to {100 * (index + 1) / bins:.0f} %"


class _Axis:
    """Values from `low` to `high` between two pixels; unless `exact`, widened to whole ticks."""

    def __init__(
        self,
        low: float,
        high: float,
        first: float,
        last: float,
        whole: bool = False,
        exact: bool = False,
    ):
        if low == high and not whole:  # a constant is a line in the middle
            low, high = low - (abs(low) / 2 or 1), high + (abs(high) / 2 or 1)
        self._first, self._last = first, last
        self._step = 20.0 if exact else _step(high - low, whole)
        if not (exact or whole):
            low = math.floor(low / self._step + 1e-9) * self._step
            high = math.ceil(high / self._step - 1e-9) * self._step
        self._low, self._high = low, high

    def at(self, value: float) -> float:
        """The pixel of a value; the middle where all values are one."""
        span = self._high - self._low
        part = (value - self._low) / span if span > 0 else 0.5
        return round(self._first + part * (self._last - self._first), 2)

    def ticks(self) -> tuple[Tick, ...]:
        number = math.ceil(self._low / self._step - 1e-9)
        found = []
        while number * self._step <= self._high + self._step * 1e-6:
            value = number * self._step
            found.append(Tick(self.at(value), _short(value)))
            number += 1
        return tuple(found)


def _step(span: float, whole: bool) -> float:
    """A distance of ticks of 1, 2 or 5 times a power of ten, about TICKS of them."""
    rough = max(span / TICKS, 1e-12) if not whole else max(span / TICKS, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)


def _short(value: float) -> str:
    """At most four digits; a small value with its power of ten, 1.5e-4."""
    if value == 0 or abs(value) >= 1e-3:
        return f"{value:.4g}"
    digits, _, power = f"{value:.2e}".partition("e")
    return f"{float(digits):g}e{int(power)}"
