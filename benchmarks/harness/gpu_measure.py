"""Measures groups of rows for gpu_check, in a process of its own: a kernel that fails ends it.

python -m benchmarks.harness.gpu_measure --out DIR --seconds S GROUP ... appends to the figures in
DIR (checking/figures.py): the machine, then every work as soon as it is measured, then what became
of its group. A group that outlasts its own time ends the process by SIGALRM, wherever it hangs;
with less than LEAST_SECONDS left the process ends by itself.
"""

import argparse
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from checking.figures import Writer
from harness import gpu, gpu_rows, run

REPEATS = 50
LEAST_SECONDS = 8  # with less left, no further group is begun
GRAPH = "graph"  # the variant of a step
Emit = Callable[[dict], None]


def measure_group(
    group: str, copy_bytes_per_s: float, emit: Emit, device: str = gpu.NAME, repeats: int = REPEATS
) -> None:
    """Emit every work of the group: its rows, its targets, its notes.

    A step whose CUDA graph fails or differs is measured without it, before that error is raised.
    """
    entry, sizes = gpu_rows.entry_of(group)
    failure = None
    for work in entry.make(sizes, device):
        if not group.endswith(gpu_rows.AGAIN):
            work.variants.pop(run.COMPILED, None)
        bits = gpu_rows.same_bits(work)
        try:
            run.check(work)
        except Exception as error:
            if work.variants.pop(GRAPH, None) is None:
                raise
            failure = error
            run.check(work)
        rows = run.measure(work, repeats, copy_bytes_per_s)
        found = gpu_rows.checks(work, rows, sizes["B"], entry, bits)
        emit({
            "group": group, "rows": [asdict(row) for row in rows],
            "checks": [asdict(check) for check in found], "notes": work.notes,
        })  # fmt: skip
    if failure is not None:
        raise failure


def measure(groups: list[str], seconds_left: Callable[[], float], emit: Emit) -> int:
    """Measure the groups; 1 at the first that fails, since a fault can outlive it on the GPU."""
    facts = run.machine(gpu.NAME)
    emit({"machine": facts})
    for group in groups:
        seconds = min(seconds_left(), gpu_rows.entry_of(group)[0].seconds)
        if seconds < LEAST_SECONDS:
            break
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            measure_group(group, 1e9 * facts["copy_gb_per_s"], emit)
        except Exception as error:
            traceback.print_exc()
            text = (str(error).strip() or type(error).__name__).splitlines()[0]
            emit({"failed": group, "error": text})
            return 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        emit({"done": group})
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    parser.add_argument("--seconds", type=float, required=True, help="time for all groups")
    parser.add_argument("groups", nargs="+", choices=gpu_rows.groups(), metavar="GROUP")
    options = parser.parse_args()
    if reason := run.use(gpu.NAME):
        print(reason)
        return 2
    end = time.monotonic() + options.seconds
    return measure(options.groups, lambda: end - time.monotonic(), Writer(options.out).write)


if __name__ == "__main__":
    raise SystemExit(main())
