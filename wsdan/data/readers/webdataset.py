"""WebDataset shards: train*.tar and val*.tar (or test*.tar) in one folder, with random access.

Members KEY.jpg (or another image format) and KEY.cls, or KEY.json with "label", are one sample. The
tar headers are read once; images are then read by their offset, so that shuffling, distributing and
resuming work exactly as with files.
"""

import json
import re
import tarfile
from pathlib import Path

from wsdan.data.readers._layout import SPLIT_NAMES, read_lines
from wsdan.data.samples import ImageRecord, Listing, TarMember, sort_class_names
from wsdan.errors import UserError

# As in the WebDataset format, the key ends at the first dot of the file's name.
NAME = re.compile(r"^((?:.*/)?[^./]+)\.([^/]+)$")
LAYOUT = "train*.tar and val*.tar (or test*.tar), not compressed"
CLASSES = "classes.txt"
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")


def recognises(root: Path) -> bool:
    """Whether the folder holds a file train*.tar."""
    return any(root.glob("train*.tar"))


def read(root: Path, split: str) -> Listing:
    """The images of one split.

    With root/classes.txt, one class name per line, integer labels are indices into it, and other
    labels are names of it. Without it, all labels are class names.

    Raises UserError for no shard, a compressed or damaged one, or a sample without a valid label.
    """
    shards = _find(root, SPLIT_NAMES[split])
    classes = None
    if (root / CLASSES).exists():
        classes = [line.strip() for line in read_lines(root / CLASSES, "webdataset")]
    records = [record for shard in shards for record in _read(shard, classes)]
    if classes is None:
        classes = sort_class_names({record.class_name for record in records})
    return Listing(f"--data webdataset: {split} of {root}", classes, records)


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


def _read(shard: Path, classes: list[str] | None) -> list[ImageRecord]:
    """The samples of one shard, in their order."""
    from wsdan.data.images import EXTENSIONS

    images: dict[str, TarMember] = {}
    labels: dict[str, tuple[bytes, str]] = {}  # content and extension of the label file
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
                    images[key] = TarMember(shard, member.name, member.offset_data, member.size)
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
        ImageRecord(
            image, _class_name(_label(*labels[key], f"{shard}/{key}"), classes, f"{shard}/{key}")
        )
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


def _class_name(label: str, classes: list[str] | None, where: str) -> str:
    if classes is None or (label in classes and not label.isdecimal()):
        return label
    if label.isdecimal() and int(label) < len(classes):
        return classes[int(label)]
    raise UserError(
        f"{where}: the label must be in 0..{len(classes) - 1} or a name of {CLASSES}; got {label}"
    )
