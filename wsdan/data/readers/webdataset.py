"""WebDataset shards: train*.tar and val*.tar (or test*.tar) in one folder, with random access.

Members KEY.jpg (or another image format) and KEY.cls, or KEY.json with "label", are one sample. The
tar headers are read once; images are then read by their offset, so that shuffling, distributing and
resuming work exactly as with files.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path, PurePath
from tarfile import TarInfo
from typing import BinaryIO

from wsdan.data.formats import is_image_name
from wsdan.data.readers._layout import SPLIT_NAMES, read_lines
from wsdan.data.readers._remote import exists, find
from wsdan.data.readers._tar import damage_line, read_members
from wsdan.data.samples import ImageRecord, Listing, TarMember, sort_class_names
from wsdan.errors import UserError
from wsdan.remote.addresses import RemotePath
from wsdan.remote.files import open_index
from wsdan.validation import file_fault

# As in the WebDataset format, the key ends at the first dot of the file's name.
NAME = re.compile(r"^((?:.*/)?[^./]+)\.([^/]+)$")
LAYOUT = "train*.tar and val*.tar (or test*.tar), not compressed"
CLASSES = "classes.txt"
MAX_LABEL = 1 << 20  # bytes of a label file
MAX_NAME = 200  # characters of a label
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")


def recognises(root: Path) -> bool:
    """Whether the folder holds a file train*.tar."""
    return any(root.glob("train*.tar"))


def read(root: Path | RemotePath, split: str) -> Listing:
    """The images of one split.

    With root/classes.txt, one class name per line, integer labels are indices into it, and other
    labels are names of it. Without it, all labels are class names.

    Damaged shards are named in the listing, with the samples that are left in `records`.

    Raises UserError for no shard, a compressed one, or a sample without a valid label.
    """
    shards = _find(root, SPLIT_NAMES[split])
    classes = None
    if exists(root / CLASSES):
        classes = [line.strip() for line in read_lines(root / CLASSES, "webdataset")]
    records, left_out, damage = [], Counter(), []
    for shard in shards:
        found, line = _read(shard, classes, left_out)
        records += found
        damage += [line] if line else []
    if classes is None:
        classes = sort_class_names({record.class_name for record in records})
    where = f"--data webdataset: {split} of {root}"
    return Listing(where, classes, records, left_out=left_out, damage=tuple(damage))


def _find(root: Path | RemotePath, names: tuple[str, ...]) -> list:
    for name in names:
        compressed = [path for path in find(root, f"{name}*") if path.name.endswith(COMPRESSED)]
        if compressed:
            raise UserError(
                f"--data webdataset: shards must be uncompressed .tar files; got {compressed[0]}"
            )
        shards = find(root, f"{name}*.tar")
        if shards:
            return shards
    wanted = " or ".join(f"{name}*.tar" for name in names)
    raise UserError(f"--data webdataset: {root} has no {wanted}")


def _read(
    shard: Path | RemotePath, classes: list[str] | None, left_out: Counter
) -> tuple[list[ImageRecord], str | None]:
    """The samples of one shard, in their order; and a line about its damage, if it has any."""
    fault = file_fault(shard) if isinstance(shard, Path) else None
    if fault is not None:
        raise UserError(f"{shard}: {fault}")
    try:
        with open(shard, "rb") if isinstance(shard, Path) else open_index(shard) as file:
            members, damage = read_members(file)
            images, labels, others = _sort(shard, members, left_out)
            texts = {key: _content(file, *item, f"{shard}/{key}") for key, item in labels.items()}
    except OSError as error:
        raise UserError(f"{shard}: cannot be read: {error.strerror}") from None
    halves = labels.keys() ^ images.keys()
    if not damage:
        _require_pairs(shard, images, labels, others)
    records = [
        ImageRecord(image, _class_name(_label(*texts[key], where), classes, where))
        for key, image in images.items()
        if key in labels and (where := f"{shard}/{key}")
    ]
    lost = f"; of at least {len(halves)} samples a part is lost, {len(records)} are whole"
    return records, damage_line(shard, damage) + lost if damage else None


def _sort(shard: Path, members: list, left_out: Counter) -> tuple[dict, dict, dict]:
    """By key: the image, as a TarMember; the label's member and its kind, "cls" or "json"; and the
    names of images of other kinds, such as KEY.mask.png."""
    images, labels, others = {}, {}, {}
    for member in filter(TarInfo.isfile, members):
        match = NAME.match(member.name)
        key, kind = (match[1], match[2].lower()) if match else (None, "")
        if is_image_name(f"a.{kind}") and "." not in kind:
            if key in images:
                raise UserError(f"{shard}/{key}: a sample must have one image")
            images[key] = TarMember(shard, member.name, member.offset_data, member.size)
        elif kind == "cls" or (kind == "json" and key not in labels):
            labels[key] = member, kind
        elif is_image_name(f"a.{kind}"):
            others[key] = member.name
        elif kind != "json":
            left_out[PurePath(member.name).suffix.lower()] += 1
    return images, labels, others


def sample_images(members: Iterable[TarInfo]) -> Iterator[TarInfo]:
    """The images among the members of a shard, in their order and as they are read.

    Of a sample with KEY.jpg, other images such as KEY.mask.png are left out. Labels are not needed.
    """
    named = ((NAME.match(item.name), item) for item in filter(TarInfo.isfile, members))
    found = ((match, item) for match, item in named if match and is_image_name(item.name))
    for _, sample in groupby(found, key=lambda pair: pair[0][1]):
        images = list(sample)
        plain = [item for match, item in images if "." not in match[2]]
        yield from plain or [item for _, item in images]


def _require_pairs(shard: Path, images: dict, labels: dict, others: dict) -> None:
    """Raise UserError for a sample of a whole shard without an image or without a label."""
    for key in others.keys() - images.keys():
        raise UserError(
            f"{shard}/{others[key]}: a key ends at the first dot of the name, and the sample "
            f"{key!r} has no image; rename the file"
        )
    for key in labels.keys() ^ images.keys():
        lacking = "label (.cls or .json)" if key in images else "image"
        raise UserError(f"{shard}/{key}: the sample has no {lacking}")


def _content(file: BinaryIO, member: TarInfo, kind: str, where: str) -> tuple[bytes, str]:
    """The content of a label file, and its kind."""
    if member.size > MAX_LABEL:
        raise UserError(f"{where}.{kind}: {member.size} bytes are too many for a label")
    file.seek(member.offset_data)
    return file.read(member.size), kind


def _label(content: bytes, kind: str, where: str) -> str:
    """The label of KEY.cls or KEY.json as text."""
    try:
        label = json.loads(content)["label"] if kind == "json" else content.decode().strip()
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f'{where}.{kind}: holds no label (JSON: {{"label": ...}})') from None
    name = str(label) if isinstance(label, int | str) and not isinstance(label, bool) else ""
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        got = f"a {type(label).__name__}" if isinstance(label, list | dict) else repr(label)
        got = got if len(got) <= MAX_NAME else f"{got[:MAX_NAME]}... ({len(got)} characters)"
        raise UserError(f"{where}.{kind}: the label must be a number or a name; got {got}")
    return name


def _class_name(label: str, classes: list[str] | None, where: str) -> str:
    if classes is None or (label in classes and not label.isdecimal()):
        return label
    if label.isdecimal() and int(label) < len(classes):
        return classes[int(label)]
    raise UserError(
        f"{where}: the label must be in 0..{len(classes) - 1} or a name of {CLASSES}; got {label}"
    )
