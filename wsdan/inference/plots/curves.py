"""Curves of a run over its epochs: loss, accuracy, learning rate, calibration."""

import json
import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wsdan.inference.plots.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SMALL,
    TEXT,
    new_figure,
    plain,
)

# Names in metrics.jsonl, labels, and colour, line and marker.
LOSSES = (
    ("loss", "sum of all", "black", "-", "o"),
    ("raw", "raw view", BLUE, "--", "s"),
    ("crop", "crop", ORANGE, "-.", "^"),
    ("drop", "drop", GREEN, ":", "v"),
    ("mix", "mix", PURPLE, "--", "d"),
)
ACCURACIES = (
    ("accuracy", "training, raw view", GREY, ":", "."),
    ("val_raw", "validation, raw view", BLUE, "--", "s"),
    ("val_refined", "validation, refined view", ORANGE, "-.", "^"),
    ("val_mean", "validation, mean of both", "black", "-", "o"),
    ("val_tta", "validation, test-time views", PURPLE, (0, (5, 1.5, 1.2, 1.5)), "v"),
)
RATES = (("lr", "learning rate", BLUE, "-", "o"),)
OTHERS = (
    ("val_ece", "calibration error (ECE)", ORANGE, "-", "^"),
    ("val_localised", "object found (IoU ≥ 0.5)", GREEN, "--", "v"),
)
MARKED = 40  # epochs up to which each one has a marker


def read_records(path: Path) -> list[dict]:
    """The epochs of a metrics.jsonl, in order; lines that are no record are left out, and of an
    epoch that stands there twice the first one. Raises OSError."""
    records = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            records[int(record["epoch"])] = record
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    return [records[epoch] for epoch in sorted(records)]


def best_epoch(records: list[dict]) -> dict | None:
    """The record with the best final accuracy, the first of equal ones: that of best.pt."""
    evaluated = [record for record in records if "val_raw" in record]
    return max(evaluated, key=_final, default=None)


def _final(record: dict) -> float:
    return record.get("val_mean", record["val_raw"])


def draw_curves(records: list[dict]) -> Figure:
    """Loss, accuracy, learning rate and calibration of the epochs of `read_records`."""
    figure = new_figure(7.0)
    panels = figure.subplots(2, 2)
    _lines(panels[0][0], records, LOSSES, "Training loss")
    _lines(panels[0][1], records, ACCURACIES, "Accuracy in %")
    _mark_best(panels[0][1], records)
    _lines(panels[1][0], records, RATES, "Learning rate")
    _lines(panels[1][1], records, OTHERS, "Validation in %")
    panels[0][0].set_ylim(bottom=0)
    panels[1][0].ticklabel_format(axis="y", scilimits=(-3, 3), useMathText=True)
    for axes in panels[1]:
        axes.set_ylim(bottom=0)
    last = max((record["epoch"] + 1 for record in records), default=1)
    for axes in panels.flat:
        axes.set_xlabel("epoch", fontsize=TEXT)
        axes.set_xlim(1 - 0.03 * last, 1.03 * last)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _lines(axes: Axes, records: list[dict], curves: tuple, title: str) -> None:
    drawn = 0
    for name, label, colour, line, marker in curves:
        points = [(item["epoch"] + 1, item[name]) for item in records if _is_number(item, name)]
        if not points:
            continue
        marker = marker if len(points) <= MARKED else None
        axes.plot(
            *zip(*points, strict=True),
            color=colour, linestyle=line, marker=marker, markersize=4, linewidth=1.6, label=label,
        )  # fmt: skip
        drawn += 1
    axes.set_title(title, fontsize=TEXT)
    plain(axes)
    if drawn > 1:
        axes.legend(fontsize=SMALL, frameon=False)
    elif drawn == 1:
        axes.set_title(f"{title}: {axes.get_lines()[0].get_label()}" if len(curves) > 1 else title,
                       fontsize=TEXT)  # fmt: skip
    else:
        axes.set_axis_off()
        axes.set_title("")


def _is_number(record: dict, name: str) -> bool:
    value = record.get(name)
    return isinstance(value, int | float) and math.isfinite(value)


def _mark_best(axes: Axes, records: list[dict]) -> None:
    best = best_epoch(records)
    if best is None:
        return
    x, y = best["epoch"] + 1, _final(best)
    axes.plot(x, y, marker="o", markersize=12, markerfacecolor="none", color="black")
    axes.set_title(f"{axes.get_title()}; best {y:.1f} in epoch {x}", fontsize=TEXT)
