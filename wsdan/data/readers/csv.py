"""CSV files: train.csv and val.csv (or test.csv), `path,label` with optional boxes."""

import csv
from pathlib import Path

from wsdan.data.readers._layout import SPLIT_NAMES, read_lines, require_images
from wsdan.data.readers._remote import there, with_stamps
from wsdan.data.samples import Box, ImageRecord, Listing, sort_class_names
from wsdan.errors import UserError
from wsdan.remote.addresses import RemotePath, is_remote

LAYOUT = "train.csv with the header path,label, and val.csv (or test.csv)"
EDGES = ("x1", "y1", "x2", "y2")
HEADERS = ({"path", "label"}, {"path", "label", *EDGES})


def recognises(root: Path) -> bool:
    """Whether the folder holds a train.csv with a header of ours."""
    path = root / "train.csv"
    if not path.is_file():
        return False
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        header = file.readline(1000)
    return {name.strip() for name in header.split(",")} in HEADERS


def read(root: Path | RemotePath, split: str) -> Listing:
    """The images of one split. Labels are class names; paths are relative to root, or addresses.

    The box of a row may be empty. Raises UserError for a wrong header or row, or missing images.
    """
    path = _find(root, SPLIT_NAMES[split])
    header, rows = _read(path)
    if set(header) not in HEADERS or len(set(header)) < len(header):
        raise UserError(
            f"--data csv: {path}: the header must be path,label or path,label,{','.join(EDGES)}; "
            f"got {','.join(header) or 'nothing'}"
        )
    records = [_record(row, f"--data csv: {path}, row {i}", root) for i, row in enumerate(rows, 1)]
    local = [record for record in records if isinstance(record.source, Path)]
    if len(local) == len(records):
        require_images(records, "csv", path)
    elif local:
        raise UserError(f"--data csv: {path}: all paths must be remote, or none")
    else:
        records = with_stamps(records, "csv", path)
    classes = sort_class_names({record.class_name for record in records})
    return Listing(f"--data csv: {path}", classes, records)


def _find(root: Path | RemotePath, names: tuple[str, ...]) -> Path | RemotePath:
    for name in names:
        if there(root / f"{name}.csv"):
            return root / f"{name}.csv"
    wanted = " or ".join(f"{name}.csv" for name in names)
    raise UserError(f"--data csv: {root} has no {wanted} with the header path,label")


def _read(path: Path | RemotePath) -> tuple[list[str], list[dict]]:
    """The names in the header, and each row as a dict."""
    lines = [f"{line}\n" for line in read_lines(path, "csv")]  # a line break within a field stays
    rows = csv.DictReader(lines, skipinitialspace=True)
    try:
        rows.fieldnames = [name.strip() for name in rows.fieldnames or []]
        return rows.fieldnames, list(rows)
    except csv.Error as error:
        raise UserError(f"--data csv: {path}: {error}; is a quotation mark not closed?") from None


def _record(row: dict, where: str, root: Path | RemotePath) -> ImageRecord:
    if None in row or None in row.values():
        raise UserError(f"{where}: more or fewer fields than the header has")
    values = {name: value.strip() for name, value in row.items()}
    if any("\n" in value for value in values.values()):
        raise UserError(
            f"{where}: a field goes on in the next line; a quotation mark is not closed"
        )
    for name in ("path", "label"):
        if not values[name]:
            raise UserError(f"{where}: the {name} is empty")
    return ImageRecord(_source(root, values["path"]), values["label"], _box(values, where))


def _source(root: Path | RemotePath, path: str) -> Path | RemotePath:
    return RemotePath(path) if is_remote(path) else root / path


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
