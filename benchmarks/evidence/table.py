"""The table and the plot of a study: mean and spread over its seeds."""

import math
from dataclasses import dataclass

from evidence.studies import Row

VIEWS = {"raw": "raw", "refined": "refined", "mean": "mean"}
# Colours that people with any colour vision tell apart (Okabe and Ito), and a mark for each.
MARKS = {"raw": ("#0072B2", "o"), "refined": ("#E69F00", "s"), "mean": ("#009E73", "D")}


@dataclass(frozen=True)
class Line:
    """One row of a table: its records, one a seed, by seed."""

    row: Row
    records: dict[int, dict]

    def values(self, name: str) -> list[float]:
        """A metric of each seed; empty if a record lacks it."""
        found = [record["metrics"].get(name) for record in self.records.values()]
        return [] if None in found else found

    def final(self) -> dict[int, float]:
        """By seed the accuracy of the final score: of the mean, or of the raw view."""
        return {
            seed: record["metrics"].get("mean", record["metrics"]["raw"])
            for seed, record in self.records.items()
        }


def at_threshold(record: dict, threshold: float | str) -> dict:
    """The record with the metrics of this threshold of the refined view; one without a refined
    view stays as it is.

    Raises ValueError if it was not evaluated at that threshold.
    """
    if not record["views"]:
        return record
    known = {view["threshold"]: view for view in record["views"]}
    if threshold not in known:
        raise ValueError(f"{record['row']} was evaluated at {', '.join(map(str, known))}")
    return {**record, "metrics": known[threshold]}


def mean_and_spread(values: list[float]) -> tuple[float, float]:
    """The mean and the sample's standard deviation; NaN for the latter of one value."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, math.nan
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def text_of(values: list[float]) -> str:
    """ "83.1 ± 0.4", without the spread of a single value; "-" for none."""
    if not values:
        return "-"
    mean, spread = mean_and_spread(values)
    return f"{mean:.1f}" if math.isnan(spread) else f"{mean:.1f} ± {spread:.1f}"


def difference(line: Line, base: Line) -> list[float]:
    """What the final score has over that of `base`, of each seed that both have, in points."""
    own, theirs = line.final(), base.final()
    return [own[seed] - theirs[seed] for seed in own if seed in theirs]


def table(lines: list[Line], base: Line) -> str:
    """Markdown: accuracy of the views in percent, the final score's difference from that of `base`
    with the same seed, and the share of known boxes that were found."""
    found = any(line.values("localised") for line in lines)
    titles = ["row", "epochs", "seeds", *VIEWS.values(), f"final against {base.row.name}"]
    text = [titles + ["IoU >= 0.5"] * found]
    for line in lines:
        cells = [line.row.name, str(_epochs(line)), str(len(line.records))]
        cells += [text_of(line.values(name)) for name in VIEWS]
        against = difference(line, base)
        cells.append("-" if line is base or not against else _signed(against))
        text.append(cells + [text_of(line.values("localised"))] * found)
    text.insert(1, ["---"] * len(text[0]))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in text)


def _signed(values: list[float]) -> str:
    mean, spread = mean_and_spread(values)
    return f"{mean:+.1f}" if math.isnan(spread) else f"{mean:+.1f} ± {spread:.1f}"


def summary(lines: list[Line], base: Line) -> list[dict]:
    """The table for JSON: of each row and metric the values by seed, their mean and spread."""
    rows = []
    for line in lines:
        names = sorted({name for record in line.records.values() for name in record["metrics"]})
        metrics = {name: _summary(values) for name in names if (values := line.values(name))}
        against = _summary(difference(line, base))
        rows.append(
            {
                "row": line.row.name,
                "seeds": list(line.records),
                "epochs": _epochs(line),
                "metrics": metrics,
                "against": against,
                "seconds": [record["seconds"] for record in line.records.values()],
            }
        )
    return rows


def _summary(values: list[float]) -> dict[str, object]:
    """Values with their mean and spread; None where there is none, as JSON has no NaN."""
    if not values:
        return {"values": [], "mean": None, "spread": None}
    mean, spread = mean_and_spread(values)
    return {"values": values, "mean": mean, "spread": None if math.isnan(spread) else spread}


def _epochs(line: Line) -> int:
    return next(iter(line.records.values()))["settings"]["epochs"]


def plot(lines: list[Line], base: Line, title: str, path: str) -> None:
    """Dots: the accuracy of each view, small for each seed, large for their mean; the dashed line
    is the final score of `base`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    places, headings = _places(lines)
    figure = Figure(figsize=(7.6, 1.3 + 0.24 * (max(places) + 1)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, (colour, mark) in MARKS.items():
        label = f"{VIEWS[name]} view" if name != "mean" else "mean of both"
        offset = (list(MARKS).index(name) - 1) * 0.2
        for place, line in zip(places, lines, strict=True):
            values = line.values(name)
            if values:
                at = [place + offset] * len(values)
                axes.scatter(values, at, s=9, color=colour, alpha=0.55, lw=0, marker=mark)
                mean = mean_and_spread(values)[0]
                axes.scatter([mean], at[:1], s=34, color=colour, marker=mark, label=label, zorder=3)
                label = None
    axes.axvline(mean_and_spread(list(base.final().values()))[0], color="0.5", lw=1, ls="--")
    for place, heading in headings:
        axes.text(0, place, f" {heading}", va="center", fontsize=9, weight="bold",
                  transform=axes.get_yaxis_transform())  # fmt: skip
    axes.set_yticks(places, [line.row.name for line in lines], fontsize=9)
    axes.set_ylim(max(places) + 0.7, -0.7)
    axes.set_xlabel("validation images classified rightly, %")
    axes.set_title(title, fontsize=9)
    axes.grid(axis="x", lw=0.4)
    axes.grid(axis="y", lw=0.2)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    figure.savefig(path, dpi=130)


def _places(lines: list[Line]) -> tuple[list[int], list[tuple[int, str]]]:
    """The height of every row, from the top, and of the headings between them."""
    places, headings, height, last = [], [], 0, None
    for line in lines:
        if line.row.group != last:
            last = line.row.group
            headings.append((height, last))
            height += 1
        places.append(height)
        height += 1
    return places, headings
