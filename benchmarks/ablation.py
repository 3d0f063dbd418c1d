"""What each part of the method brings: rows trained with several seeds and an equal budget.

python benchmarks/ablation.py --data embedded|groceries --study parts [--root DIR] [--seeds 0 1 2]
Rows and data sets are in evidence/studies.py. The budget is in passes of an image through the
network, and --passes changes it. Every run is one line of --results, and a run that is there is not
run again: a call that was interrupted goes on where it ended, and several calls may share the file
if their rows or seeds differ. --table prints the table of the runs that are there. --held-out
validates on a part of train/, to choose settings on. --quick trains two rows, in two minutes of one
core, and fails if the method has not learned.
"""

import argparse
import json
import tempfile
from pathlib import Path

from evidence.runs import Results, Trial, result
from evidence.studies import ADAMW, DATA, PLAIN, STUDIES, WHOLE, Row
from evidence.table import Line, at_threshold, plot, summary, table
from harness.report import require_matplotlib

from wsdan.errors import StoppedError, UserError
from wsdan.validation import threshold

RESULTS = Path(__file__).parent / "results"
QUICK_BUDGET = 6  # passes
QUICK_BOUND = 10.0  # percent; chance is 6.25 with a standard error of 0.86


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", default="embedded", choices=DATA, help="data set (default: %(default)s)")
    add("--study", default="parts", choices=STUDIES, help="rows (default: %(default)s)")
    add("--rows", nargs="+", metavar="NAME", help="only these rows of it")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2; one round each")
    add("--passes", type=int, help="budget in passes of an image (default: the data set's)")
    add("--base", metavar="NAME", help="the row that others are compared with")
    add("--root", metavar="DIR", help="the folder of the data set's train/ and val/")
    add("--weights", metavar="FILE", help="weights of the backbone that training starts from")
    add("--held-out", action="store_true", help="validate on a fourth of train/, not on val/")
    add("--results", metavar="FILE", help="JSON lines of all runs (default: benchmarks/results/)")
    text = "of the refined view in the table: a number or auto (default: the row's own)"
    add("--threshold", type=threshold, metavar="T", help=text)
    add("--json", metavar="FILE", help="write the table to this file too")
    add("--plot", metavar="FILE.png", help="draw the table (needs matplotlib)")
    add("--table", action="store_true", help="make no run: print the table of those in --results")
    add("--quick", action="store_true", help="two rows on the embedded set, as a check")
    options = parser.parse_args(arguments)
    if options.quick:
        options.data, options.study, options.seeds = "embedded", "parts", [0]
        options.rows, options.passes = [PLAIN.name, WHOLE.name], QUICK_BUDGET
    options.rows = _rows(parser, options)
    if DATA[options.data].root and options.root is None and not options.table:
        parser.error(f"--data {options.data} needs --root")
    if options.held_out and not DATA[options.data].root:
        parser.error(f"--held-out: take other seeds; each draws its own images of {options.data}")
    return options


def _rows(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[Row]:
    """The rows asked for, in the study's order; `options.base` becomes one of them."""
    rows = {row.name: row for row in STUDIES[options.study]}
    chosen = options.rows or list(rows)
    default = next((row.name for row in (WHOLE, ADAMW) if row.name in rows), next(iter(rows)))
    for name in (*chosen, options.base or default):
        if name not in rows:
            parser.error(f"no row {name!r} in {options.study}; it has: {', '.join(rows)}")
    options.base = rows[options.base or default]
    return [row for name, row in rows.items() if name in chosen]


def trial(options: argparse.Namespace, row: Row, seed: int) -> Trial:
    budget = options.passes or DATA[options.data].budget
    weights, held_out = options.weights, options.held_out
    return Trial(row, options.data, seed, budget, options.root, weights, held_out)


def run_all(options: argparse.Namespace, results: Results) -> None:
    """Make the runs that are not among the results: all rows with the first seed, then the next."""
    todo = [trial(options, row, seed) for seed in options.seeds for row in options.rows]
    for item in todo:  # a wrong budget or setting ends the call before the first run
        item.key()
    for number, item in enumerate(todo, start=1):
        if results.find(item) is None:
            print(f"run {number} of {len(todo)}: {item.row.name}, seed {item.seed}", flush=True)
            results.add(result(item))


def lines_of(options: argparse.Namespace, results: Results) -> list[Line]:
    """The rows that have a result."""
    lines = []
    for row in options.rows:
        found = {seed: results.find(trial(options, row, seed)) for seed in options.seeds}
        records = {seed: record for seed, record in found.items() if record is not None}
        if options.threshold is not None:
            records = {
                seed: at_threshold(item, options.threshold) for seed, item in records.items()
            }
        if records:
            lines.append(Line(row, records))
    return lines


def check_quick(lines: list[Line]) -> None:
    """Raises SystemExit unless both rows ran and the whole method learned."""
    finals = {line.row.name: line.final()[0] for line in lines}
    if set(finals) != {PLAIN.name, WHOLE.name} or finals[WHOLE.name] < QUICK_BOUND:
        raise SystemExit(f"--quick: expected {QUICK_BOUND} % of {WHOLE.name}, but got {finals}")


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if options.plot:
        require_matplotlib()
    with tempfile.TemporaryDirectory() as folder:
        default = Path(folder) if options.quick else RESULTS
        path = options.results or default / f"ablation-{options.data}.jsonl"
        results = Results(Path(path))
        try:
            if not options.table:
                run_all(options, results)
            lines = lines_of(options, results)
        except (UserError, StoppedError, ValueError) as error:
            raise SystemExit(f"ablation: {error}") from None
    if not lines:
        raise SystemExit(f"ablation: {path} holds no run of these rows")
    base = next((line for line in lines if line.row == options.base), lines[0])
    print(table(lines, base))
    if options.json:
        content = {
            "data": options.data, "study": options.study, "base": base.row.name,
            "threshold": options.threshold, "rows": summary(lines, base),
        }  # fmt: skip
        Path(options.json).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        title = f"{options.data}: mean (large) and each seed (small); dashed: {base.row.name}"
        plot(lines, base, title, options.plot)
    if options.quick:
        check_quick(lines)


if __name__ == "__main__":
    main()
