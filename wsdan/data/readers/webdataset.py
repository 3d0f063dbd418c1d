"""WebDataset shards: train*.tar and val*.tar (or test*.tar) in a folder, read in any order.

Members KEY.jpg (or another image) and KEY.cls, or KEY.json with "label", are one sample. The
headers are read once; an image is then read by its offset, so that a run can shuffle, share out
and go on exactly as with files.
"""

import json
import re
import tarfile
from pathlib import Path

from wsdan.data.images import EXTENSIONS
from wsdan.data.readers._layout import read_lines
from wsdan.data.samples import Entry, Listing, Member, sorted_names
from wsdan.errors import UserError

# As the format has it: the key ends at the first dot of the file's name.
NAME = re.compile(r"^((?:.*/)?[^./]+)\.([^/]+)$")
CLASSES = "classes.txt"
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")


def read(root: Path, split: str) -> Listing:
    """The images of one split.

    Where root/classes.txt is there, one name a line, whole numbers are indices into it and other
    labels its names; without it all labels are names.

    Raises UserError for no shard, a compressed or damaged one, and a sample without a valid label.
    """
    shards = _find(root, ("train",) if split == "train" else ("val", "test"))
    known = None
    if (root / CLASSES).exists():
        known = [line.strip() for line in read_lines(root / CLASSES, "webdataset")]
    entries = [entry for shard in shards for entry in _read(shard, known)]
    names = sorted_names({entry.name for entry in entries}) if known is None else known
    return Listing(f"--data webdataset: {split} of {root}", names, entries)


def _find(root: Path, names: tuple[str, ...]) -> list[Path]:
    for name in names:
        compressed = [path for kind in COMPRESSED for path in root.glob(f"{name}*{kind}")]
        if compressed:
            raise UserError(
                f"--data webdataset: shards must be uncompressed .tar files; got {compressed[0]}"
            )
        shards = sorted(root.glob(f"{name}*.tar"))
        if shards:
            return shards
    wanted = " or ".join(f"{name}*.tar" for name in names)
    raise UserError(f"--data webdataset: {root} has no {wanted}")


def _read(shard: Path, known: list[str] | None) -> list[Entry]:
    """The samples of one shard, in its order."""
    images: dict[str, Member] = {}
    labels: dict[str, tuple[bytes, str]] = {}  # the content of a file, and of which kind it is
    others: dict[str, str] = {}  # images of other kinds, such as KEY.mask.png
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                match = NAME.match(member.name) if member.isfile() else None
                if match is None:
                    continue
                key, kind = match[1], match[2].lower()
                if f".{kind}" in EXTENSIONS:
                    if key in images:
                        raise UserError(f"{shard}/{key}: a sample must have one image")
                    images[key] = Member(shard, member.name, member.offset_data, member.size)
                elif kind == "cls" or (kind == "json" and key not in labels):
                    labels[key] = tar.extractfile(member).read(), kind
                elif kind.endswith(EXTENSIONS):
                    others[key] = member.name
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{shard}: not an uncompressed, whole tar file: {error}") from None
    for key in others.keys() - images.keys():
        raise UserError(
            f"{shard}/{others[key]}: a key ends at the first dot of the name, and the sample "
            f"{key!r} has no image; rename the file"
        )
    for key in labels.keys() ^ images.keys():
        lacking = "label (.cls or .json)" if key in images else "image"
        raise UserError(f"{shard}/{key}: the sample has no {lacking}")
    return [
        Entry(image, _name(_label(*labels[key], f"{shard}/{key}"), known, f"{shard}/{key}"))
        for key, image in images.items()
    ]


def _label(content: bytes, kind: str, where: str) -> str:
    """The label of KEY.cls or KEY.json as text."""
    try:
        label = json.loads(content)["label"] if kind == "json" else content.decode().strip()
    except (ValueError, KeyError, TypeError):
        raise UserError(f'{where}.{kind}: holds no label (JSON: {{"label": ...}})') from None
    if isinstance(label, bool) or not isinstance(label, int | str) or label == "":
        raise UserError(f"{where}.{kind}: the label must be a number or a name; got {label!r}")
    return str(label)


def _name(label: str, known: list[str] | None, where: str) -> str:
    if known is None or (label in known and not label.isdecimal()):
        return label
    if label.isdecimal() and int(label) < len(known):
        return known[int(label)]
    raise UserError(
        f"{where}: the label must be in 0..{len(known) - 1} or a name of {CLASSES}; got {label}"
    )
