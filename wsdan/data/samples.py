"""What a reader returns, and the labelled samples that are made of it."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from wsdan.errors import UserError
from wsdan.remote.addresses import RemotePath

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in the image's pixels, half-open


class TarMember(NamedTuple):
    """An image inside an uncompressed tar file: `size` bytes from `offset` on."""

    shard: Path | RemotePath
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.shard}/{self.name}"


class Encoded(NamedTuple):
    """An image in memory: the bytes of a file, with a name for messages."""

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name


# A path is text where a dataset has millions of images: half the memory of a Path, made faster.
Source = str | Path | TarMember | RemotePath


class ImageRecord(NamedTuple):
    """One image as a reader finds it, with the name of its class and, if known, its box."""

    source: Source
    class_name: str
    box: Box | None = None


class Listing(NamedTuple):
    """One split of a dataset as a reader finds it.

    where: names the split in error messages. classes: all class names, in label order. empty:
    class folders without an image, which are among the classes. left_out: how many files there are
    that are no images, by suffix. damage: lines about archives that are damaged. notes: other
    warnings.
    """

    where: str
    classes: list[str]
    records: list[ImageRecord]
    empty: tuple[str, ...] = ()
    left_out: Mapping[str, int] = MappingProxyType({})
    damage: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Sample(NamedTuple):
    """One image with the index of its class and, if known, the box of its object."""

    source: Source
    label: int
    box: Box | None


class Split(NamedTuple):
    """The training or the validation samples; a label is an index into `classes`."""

    samples: list[Sample]
    classes: list[str]


def sort_class_names(names: set[str]) -> list[str]:
    """Class names in label order: as numbers if all are integers, else as text."""
    try:
        return sorted(names, key=lambda name: (int(name), name))
    except ValueError:
        return sorted(names)


def assign_labels(listing: Listing, classes: list[str] | None) -> Split:
    """Replace class names by labels: indices into `classes`, or into the listing's own if None.

    Raises UserError for fewer than two classes, two classes of the same name, a class that is not
    in `classes`, or no image.
    """
    where = listing.where
    if classes is None and len(listing.classes) < 2:
        found = ": only " + listing.classes[0] if listing.classes else ""
        raise UserError(
            f"{where}: at least two classes are needed; found {len(listing.classes)}{found}"
        )
    classes = listing.classes if classes is None else classes
    labels = {name: label for label, name in enumerate(classes)}
    if len(labels) < len(classes):
        raise UserError(f"{where}: two classes have the same name")
    for record in listing.records:
        if record.class_name not in labels:
            raise UserError(_unknown_class(where, record.class_name, classes))
    if not listing.records:
        raise UserError(f"{where}: holds no image")
    samples = [
        Sample(record.source, labels[record.class_name], record.box) for record in listing.records
    ]
    return Split(samples, classes)


def _unknown_class(where: str, name: str, classes: list[str]) -> str:
    text = f"{where}: class {name!r} is not among the training classes"
    if classes == [str(label) for label in range(len(classes))]:
        text += ", which are numbers; `wsdan convert --classes FILE` gives a checkpoint their names"
    return text
