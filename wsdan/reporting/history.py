"""The epochs of a run, from the metrics.jsonl beside its checkpoint."""

import json
import math
from pathlib import Path

from wsdan.validation import file_fault

METRICS = "metrics.jsonl"
MOST_EPOCHS = 400  # that a curve shows; of more, evenly spaced ones
MOST_BYTES = 200_000_000  # of the file; a longer one is none of a run


def history(checkpoint: str | Path) -> list[dict[str, float]]:
    """The records of the epochs in order, of many epochs some: see `every_epoch`."""
    records = every_epoch(checkpoint)
    step = max(1, math.ceil(len(records) / MOST_EPOCHS))
    return records[::-1][::step][::-1]  # the last one always


def every_epoch(checkpoint: str | Path) -> list[dict[str, float]]:
    """The records of the epochs in order, numbers alone; [] where there is no file.

    Lines that are no record, as a kill or an editor leaves, are left out. Of an epoch that stands
    there twice, the last record counts.
    """
    path = Path(checkpoint).resolve().with_name(METRICS)
    if file_fault(path) is not None or path.stat().st_size > MOST_BYTES:
        return []
    found = {}
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            record = _record(line)
            if record is not None:
                found[record["epoch"]] = record
    return [found[epoch] for epoch in sorted(found)]


def _record(line: str) -> dict[str, float] | None:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or type(values.get("epoch")) is not int:
        return None
    return {name: value for name, value in values.items() if _is_finite(value)}


def _is_finite(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300  # False for NaN
