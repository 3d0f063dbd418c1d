"""Measures groups of rows for gpu_check, in a process of its own: a kernel that fails ends it.

python -m benchmarks.harness.gpu_measure --out FILE --seconds S GROUP ... writes one JSON object a
line: the machine, then every work as soon as it is measured, then what became of its group.
"""

import argparse
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict

from harness import gpu, gpu_rows, run

REPEATS = 50
COMPILE_SECONDS = 90  # with less left, torch.compile is not begun: the other groups need them
Emit = Callable[[dict], None]


def measure_group(
    group: str,
    copy_bytes_per_s: float,
    seconds_left: Callable[[], float],
    emit: Emit,
    device: str = gpu.NAME,
) -> None:
    """Emit every work of the group: its rows, its targets, its notes."""
    entry, sizes = gpu_rows.entry_of(group)
    budget = entry.targets(sizes["B"])
    for work in entry.make(sizes, device):
        if run.COMPILED not in budget:
            work.variants.pop(run.COMPILED, None)
        elif seconds_left() < COMPILE_SECONDS:
            work.variants.pop(run.COMPILED)
            work.notes.append("compiled left out: no time")
        bits = gpu_rows.same_bits(work)
        run.check(work)
        rows = run.measure(work, REPEATS, copy_bytes_per_s)
        found = gpu_rows.checks(work, rows, sizes["B"], budget, bits)
        emit({
            "group": group, "rows": [asdict(row) for row in rows],
            "checks": [asdict(check) for check in found], "notes": work.notes,
        })  # fmt: skip


def measure(groups: list[str], seconds_left: Callable[[], float], emit: Emit) -> int:
    """Measure the groups; 1 at the first that fails, since a fault can outlive it on the GPU."""
    facts = run.machine(gpu.NAME)
    emit({"machine": facts})
    for group in groups:
        try:
            measure_group(group, 1e9 * facts["copy_gb_per_s"], seconds_left, emit)
        except Exception as error:
            traceback.print_exc()
            text = (str(error).strip() or type(error).__name__).splitlines()[0]
            emit({"failed": group, "error": text})
            return 1
        emit({"done": group})
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, metavar="FILE")
    parser.add_argument("--seconds", type=float, required=True, help="time for all groups")
    parser.add_argument("groups", nargs="+", choices=gpu_rows.groups(), metavar="GROUP")
    options = parser.parse_args()
    if reason := run.use(gpu.NAME):
        print(reason)
        return 2
    end = time.monotonic() + options.seconds
    with open(options.out, "a", encoding="utf-8") as file:

        def emit(content: dict) -> None:
            file.write(json.dumps(content) + "\n")
            file.flush()

        return measure(options.groups, lambda: end - time.monotonic(), emit)


if __name__ == "__main__":
    raise SystemExit(main())
