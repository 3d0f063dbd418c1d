"""What an NVIDIA GPU can prove of this package, without a network: in two calls, or in one.

python -m benchmarks.gpu_check [--only PART ...] [--results DIR] [--seconds S]: the parts are build,
smoke (every kernel once), measure (the works of gpu_rows.py against their targets), tests (those
that run on a GPU), sanitize (every kernel under compute-sanitizer) and, only where it is named,
tune. Everything goes to DIR, figures as soon as each is known; --table prints the table of what is
there, with no GPU, also after a kill. A call into the same DIR adds to it.
Exit status 0: all that was begun is as it must be; 1: it is not; 2: no GPU.
"""

import argparse
import signal
import sys
from pathlib import Path

from checking import figures, parts, table
from checking.jobs import ROOT, Clock
from harness import report, run

SECONDS = 520  # for everything: a call of nine minutes, less what starts and ends it


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--only", nargs="+", choices=figures.PARTS, default=list(figures.PARTS[:5]),
        metavar="PART", help=f"of {', '.join(figures.PARTS)} (default: all but tune)")  # fmt: skip
    add("--results", type=Path, nargs="+", default=[ROOT / "build" / "gpu-check"], metavar="DIR",
        help="where everything is written (default: build/gpu-check); of --table also several, "
             "whose result goes to the first")  # fmt: skip
    add("--seconds", type=float, default=SECONDS, help="for everything (default: %(default)s)")
    add("--rows", default="", metavar="TEXT", help="measure only groups with this in their name")
    add("--kernel", default="", metavar="TEXT", help="tune only kernels with this in their name")
    add("--table", action="store_true", help="run nothing; print the table of what is in DIR")
    options = parser.parse_args(arguments)
    if len(options.results) > 1 and not options.table:
        parser.error(
            f"--results: one DIR, but got {len(options.results)}; several with --table only"
        )
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.table:
        return finish(*options.results)
    (folder,) = options.results
    if reason := run.use("cuda"):
        print(f"gpu-check: {reason}")
        return 2
    # As a KeyboardInterrupt: the processes are ended and the table is made.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    check = parts.Check(folder, Clock(options.seconds), options)
    check.writer.write({"machine": report.machine("cuda")})
    try:
        for part in [part for part in figures.PARTS if part in options.only]:
            print(f"{part}, {check.clock.left():.0f} s left", flush=True)
            parts.PARTS[part](check)
    finally:
        status = finish(folder)
    return status


def finish(*folders: Path) -> int:
    """Write the result to the first, print the table; the exit status."""
    for folder in folders:
        if not figures.path_in(folder).exists():
            print(f"gpu-check: no figures in {folder}")
            return 2
    found = figures.read(*folders)
    print("\n".join(table.summary(found, table.write(found, folders[0]))), flush=True)
    return 0 if found.passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
