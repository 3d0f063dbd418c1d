"""The harness of the benchmarks: rows timed in turn on the same inputs, and one table."""

import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch


@dataclass
class Row:
    """One timing: milliseconds, and how often the baseline's median is this one's."""

    work: str
    variant: str
    median_ms: float
    low_ms: float  # 20th percentile
    high_ms: float  # 80th percentile
    ratio: float


def measure(
    work: str, variants: dict[str, Callable[[], object]], baseline: str, repeats: int = 15
) -> list[Row]:
    """Time the variants in turn, `repeats` rounds after one warm-up; ratios against `baseline`."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for round_number in range(repeats + 1):
        for name, call in variants.items():
            started = time.perf_counter()
            call()
            if round_number > 0:
                times[name].append(1e3 * (time.perf_counter() - started))
    medians = {name: _percentile(values, 0.5) for name, values in times.items()}
    return [
        Row(
            work,
            name,
            medians[name],
            _percentile(values, 0.2),
            _percentile(values, 0.8),
            medians[baseline] / medians[name],
        )
        for name, values in times.items()
    ]


def table(rows: list[Row], baseline: str) -> str:
    """The rows as text; the last column is the speed against the baseline."""
    lines = [f"{'work':<34} {'variant':<12} {'median':>9} {'20 %':>9} {'80 %':>9}  vs {baseline}"]
    for row in rows:
        figures = f"{row.median_ms:6.2f} ms {row.low_ms:6.2f} ms {row.high_ms:6.2f} ms"
        lines.append(f"{row.work:<34} {row.variant:<12} {figures}  {row.ratio:6.2f}x")
    lines.append(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    return "\n".join(lines)


def write_json(rows: list[Row], path: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        content = {
            "torch": torch.__version__,
            "cpu": f"{_cpu_name()}, {torch.backends.cpu.get_cpu_capability()}",
            "threads": torch.get_num_threads(),
            "rows": [asdict(row) for row in rows],
        }
        json.dump(content, file, indent=1)


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    return next(
        (line.split(":")[1].strip() for line in text.splitlines() if "model name" in line), "cpu"
    )


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[round(share * (len(values) - 1))]
