"""What the benchmarks print, write and draw, and how two results are compared."""

import datetime
import importlib.metadata
import json
import platform
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

LOSS = 1.10  # a median this many times the base's is a loss
OURS = ("auto", "cpu", "triton", "cuda", "graph", "joint")
COLOURS = {
    "reference": "#8fb8de",
    "compiled": "#3f7fbf",
    "product": "#c9c9c9",
    "three passes": "#c9c9c9",
    "raw": "#c9c9c9",
}
HEADER = (
    f"  {'variant':<20} {'median':>10} {'20 %':>10} {'80 %':>10} {'ratio':>8}"
    f" {'rate':>15} {'of the limit':>14} {'peak extra':>12}"
)


@dataclass
class Row:
    """One variant of one work: milliseconds, and what follows from them."""

    work: str
    shape: str
    variant: str
    median_ms: float
    low_ms: float  # 20th percentile
    high_ms: float  # 80th percentile
    rounds: int
    ratio: float  # the baseline's median over this one's
    rate: float
    unit: str  # of rate: GFLOP/s, GB/s or images/s
    limit: str  # "copy", the bytes at copy bandwidth, or the bare work: a name of BARE
    share: float  # the limit's time over this one's
    extra_mb: float  # peak of one call above what was held before, the result included
    launches: int | None = None  # of one call on a GPU; None on the CPU, or where not counted
    call_ms: float | None = None  # of one call after the other on a GPU, the host's time included
    clock: str = "host"  # what the times hold: "host", "gpu", or "gpu and host" for calls that wait
    phases: dict[str, float] | None = None  # of a training step of ours: milliseconds of each


def group_text(title: str, rows: list[Row], notes: list[str]) -> str:
    """The rows of one work under its title."""
    lines = [title]
    for row in rows:
        times = "".join(" " + time_text(ms) for ms in (row.median_ms, row.low_ms, row.high_ms))
        rate = f"{row.rate:.3g} {row.unit}"
        share = f"{row.share:.0%} {row.limit}"
        lines.append(
            f"  {row.variant:<20}{times} {row.ratio:7.2f}x {rate:>15} {share:>14}"
            f" {row.extra_mb:9.1f} MB"
        )
        if row.launches is not None:
            lines[-1] += f" {row.launches:4} launches"
        if row.clock == "gpu and host":
            notes = [*notes, f"{row.variant} waits for the GPU: the host's time is in its figures"]
        if row.phases is not None:
            notes = [*notes, _phases_text(row)]
    return "\n".join(lines + [f"  {note}" for note in notes])


def _phases_text(row: Row) -> str:
    whole = sum(row.phases.values())
    largest = sorted(row.phases.items(), key=lambda phase: -phase[1])
    shares = ", ".join(f"{name} {ms / whole:.1%}" for name, ms in largest)
    return f"phases of {row.variant}: {shares}"


def time_text(ms: float) -> str:
    return f"{ms:7.2f} ms" if ms >= 0.1 else f"{1e3 * ms:7.2f} us"


def machine(device: str) -> dict[str, object]:
    """Where and when this was measured."""
    name = f"{_cpu_name()}, {torch.backends.cpu.get_cpu_capability()}"
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "cpu": name,
        "device": torch.cuda.get_device_name() if device == "cuda" else name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **({"triton": _version("triton")} if device == "cuda" else {}),
        "commit": _commit(),
    }


def machine_text(facts: dict) -> str:
    if rates := facts.get("matmul_tflop_per_s"):
        products = ", ".join(f"{kind} {rate:.0f}" for kind, rate in rates.items())
        return (
            f"torch {facts['torch']}, triton {facts['triton']}, {facts['device']}, copy "
            f"{facts['copy_gb_per_s']:.0f} GB/s, square matrix products in TFLOP/s: {products}"
        )
    return (
        f"torch {facts['torch']}, {facts['threads']} threads, {facts['device']}, "
        f"copy {facts['copy_gb_per_s']:.1f} GB/s, "
        f"square matrix product {facts['matmul_gflop_per_s']:.0f} GFLOP/s"
    )


def write_json(rows: list[Row], facts: dict, path: str) -> None:
    content = {**facts, "rows": [asdict(row) for row in rows]}
    Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_json(path: str) -> dict:
    """An earlier result; SystemExit with one line where the file is none."""
    try:
        base = json.loads(Path(path).read_text(encoding="utf-8"))
        _medians(base)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"--base {path}: not a result of --json ({error!r})") from None
    return base


def compare(rows: list[Row], facts: dict, base: dict) -> tuple[list[str], bool]:
    """Lines for the terminal, and whether one of our variants lost over 10%."""
    lines = []
    for name in ("device", "threads", "torch"):
        if base.get(name) != facts[name]:
            lines.append(f"base: other {name}: {base.get(name)}, here {facts[name]}")
    earlier = _medians(base)
    shared = [row for row in rows if (row.work, row.shape, row.variant) in earlier]
    lost = False
    for row in shared:
        before = earlier[row.work, row.shape, row.variant]
        if row.median_ms > LOSS * before:
            mine = row.variant in OURS
            lost = lost or mine
            lines.append(
                f"{'LOSS' if mine else 'slower, not ours'}: {row.work}, {row.shape}, "
                f"{row.variant}: {before:.2f} -> {row.median_ms:.2f} ms"
            )
    verdict = "ours lost over 10%" if lost else "none of ours lost over 10%"
    if not shared:
        verdict = "nothing to compare"
    lines.append(f"base: {len(shared)} of {len(rows)} rows are in it: {verdict}")
    return lines, lost


def require_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise SystemExit("--plot needs matplotlib: pip install matplotlib") from None


def plot(rows: list[Row], facts: dict, path: str) -> None:
    """Bars of the medians, grouped by work; the line in each is from the 20th to the 80th."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    places, titles = _places(rows)
    bottom = max(places) + 1
    figure = Figure(figsize=(11, 1.1 + 0.19 * bottom), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    medians = [row.median_ms for row in rows]
    spread = [
        [row.median_ms - row.low_ms for row in rows],
        [row.high_ms - row.median_ms for row in rows],
    ]
    colours = [_colour(row.variant) for row in rows]
    axes.barh(places, medians, 0.85, color=colours, xerr=spread, error_kw={"lw": 0.8})
    for place, row in zip(places, rows, strict=True):
        text = f"  {row.median_ms:.3g} ms, {row.ratio:.2f}x"
        axes.text(row.high_ms, place, text, va="center", fontsize=7)
    for place, title in titles:
        axes.text(
            0.003, place, title, va="center", fontsize=8, weight="bold",
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip
    axes.set_yticks(places, [row.variant for row in rows], fontsize=7)
    axes.set_ylim(bottom, -1)
    axes.set_xscale("log")
    axes.set_xlim(0.5 * min(medians), 4 * max(row.high_ms for row in rows))
    axes.set_xlabel("milliseconds (log); x: speed against the first of each group")
    axes.set_title(machine_text(facts), fontsize=8)
    axes.grid(axis="x", lw=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def _places(rows: list[Row]) -> tuple[list[int], list[tuple[int, str]]]:
    """The line of every row, top down, and the lines of the titles between them."""
    places, titles, line, last = [], [], 0, None
    for row in rows:
        title = f"{row.work}, {row.shape}"
        if title != last:
            titles.append((line, title))
            line += 1
            last = title
        places.append(line)
        line += 1
    return places, titles


def _colour(variant: str) -> str:
    if variant in OURS:
        return "#d1495b"
    return COLOURS.get(variant, "#6b6b6b")


def _medians(result: dict) -> dict[tuple[str, str, str], float]:
    return {
        (row["work"], row.get("shape", ""), row["variant"]): float(row["median_ms"])
        for row in result["rows"]
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    return next(
        (line.split(":")[1].strip() for line in text.splitlines() if "model name" in line), "cpu"
    )
