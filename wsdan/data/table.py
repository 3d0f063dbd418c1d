"""Lists of pictures: train.csv and val.csv (or test.csv), `path,label` with optional boxes."""

import csv
from pathlib import Path

from wsdan.data.layout import expect_pictures, read_lines
from wsdan.data.samples import Box, Entry, Listing, sorted_names
from wsdan.errors import UserError

EDGES = ("x1", "y1", "x2", "y2")
HEADERS = ({"path", "label"}, {"path", "label", *EDGES})


def list_table(root: Path, split: str) -> Listing:
    """The pictures of one split. Labels are names; paths start from the list's folder.

    A row may leave its box empty. Raises UserError for a wrong header or row, or missing pictures.
    """
    path = _find(root, ("train",) if split == "train" else ("val", "test"))
    rows = csv.DictReader(read_lines(path, "csv"), skipinitialspace=True)
    header = [name.strip() for name in rows.fieldnames or []]
    if set(header) not in HEADERS or len(set(header)) < len(header):
        raise UserError(
            f"--data csv: {path}: the header must be path,label or path,label,{','.join(EDGES)}; "
            f"got {','.join(header) or 'nothing'}"
        )
    rows.fieldnames = header
    entries = [_entry(row, f"--data csv: {path}, row {i}", root) for i, row in enumerate(rows, 1)]
    expect_pictures(entries, "csv", path)
    return Listing(f"--data csv: {path}", sorted_names({entry.name for entry in entries}), entries)


def _find(root: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (root / f"{name}.csv").is_file():
            return root / f"{name}.csv"
    wanted = " or ".join(f"{name}.csv" for name in names)
    raise UserError(f"--data csv: {root} has no {wanted} with the header path,label")


def _entry(row: dict, where: str, root: Path) -> Entry:
    if None in row or None in row.values():
        raise UserError(f"{where}: more or fewer fields than the header has")
    values = {name: value.strip() for name, value in row.items()}
    for name in ("path", "label"):
        if not values[name]:
            raise UserError(f"{where}: the {name} is empty")
    return Entry(root / values["path"], values["label"], _box(values, where))


def _box(values: dict[str, str], where: str) -> Box | None:
    edges = [values.get(edge, "") for edge in EDGES]
    if not any(edges):
        return None
    try:
        x1, y1, x2, y2 = map(float, edges)
    except ValueError:
        raise UserError(f"{where}: the box must be four numbers; got {','.join(edges)}") from None
    if not (x1 < x2 and y1 < y2):
        raise UserError(f"{where}: the box must have x1 < x2 and y1 < y2; got {','.join(edges)}")
    return x1, y1, x2, y2
