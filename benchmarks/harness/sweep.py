"""Pooling on a GPU against each of its sizes, as bap_bench.py --device cuda --plot draws it."""

from collections.abc import Callable, Iterator

import torch
from harness import gpu, report
from harness.run import Work, check, measure

REPEATS = 20
# By the size's name: its place in the shape (B,M,C,h,w) and its values; the others are the paper's.
PANELS = {
    "B, images": ((0,), (1, 4, 12, 32, 128)),
    "M, attention maps": ((1,), (4, 8, 16, 32, 64, 128)),
    "C, channels": ((2,), (256, 512, 768, 1280, 2048)),
    "h = w, map size": ((3, 4), (7, 14, 26, 38, 56)),
}
LINES = {
    "published": ("#6b6b6b", "s"), "reference": ("#8fb8de", "v"), "compiled": ("#3f7fbf", "^"),
    "ours": ("#d1495b", "o"),
}  # fmt: skip
Panel = list[tuple[int, list[report.Row]]]  # each size with the rows of its variants


def shapes(places: tuple[int, ...], sizes: tuple[int, ...], paper: tuple[int, ...]) -> Iterator:
    """Each size with the shape that has it."""
    for size in sizes:
        yield size, tuple(size if i in places else other for i, other in enumerate(paper))


def measured(
    works: Callable[[tuple[int, ...]], Iterator[Work]],
    paper: tuple[int, ...],
    copy_bytes_per_s: float,
) -> dict[str, Panel]:
    """Rows of forward and backward for every panel. works: of a shape, the last is taken."""
    panels: dict[str, Panel] = {}
    for title, (places, sizes) in PANELS.items():
        panels[title] = []
        for size, shape in shapes(places, sizes, paper):
            *_, work = works(shape)
            check(work)
            panels[title].append((size, measure(work, REPEATS, copy_bytes_per_s)))
    return panels


def plot(rows: list[report.Row], facts: dict, path: str) -> None:
    """Measure the panels and draw them; the figures go to `path`.json. The rows are not needed."""
    from bap_bench import paper_pool, pool_works

    def works(shape: tuple[int, ...]) -> Iterator[Work]:
        return pool_works(shape, "mean", gpu.NAME, torch.bfloat16, torch.channels_last)

    panels = measured(works, paper_pool(12), 1e9 * facts["copy_gb_per_s"])
    every = [row for panel in panels.values() for _, group in panel for row in group]
    report.write_json(every, facts, f"{path}.json")
    draw(panels, "mean pooling, forward and backward, bfloat16 channels_last", facts, path)


def draw(panels: dict[str, Panel], title: str, facts: dict, path: str) -> None:
    """Four panels of time against one size; dashed, the bytes at the copy's bandwidth."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (label, panel) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
        for name, (colour, marker) in LINES.items():
            points = [(size, row.median_ms) for size, row in _rows(panel, name)]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, marker=marker, label=name)
        limits = [(size, rows[0].share * rows[0].median_ms) for size, rows in panel]
        axes.plot(*zip(*limits, strict=True), "k--", lw=1, label="copy bandwidth")
        axes.set(xscale="log", yscale="log", xlabel=label, ylabel="milliseconds")
        axes.set_xticks([size for size, _ in panel], [str(size) for size, _ in panel])
        axes.minorticks_off()
        axes.grid(lw=0.3)
    figure.axes[0].legend(fontsize=8)
    figure.suptitle(f"{title}\n{report.machine_text(facts)}", fontsize=9)
    figure.savefig(path, dpi=130)


def _rows(panel: Panel, name: str) -> Iterator[tuple[int, report.Row]]:
    """The rows of this variant; "ours" are those of our fastest backend."""
    for size, rows in panel:
        wanted = report.OURS if name == "ours" else (name,)
        found = [row for row in rows if row.variant in wanted]
        if found:
            yield size, min(found, key=lambda row: row.median_ms)
