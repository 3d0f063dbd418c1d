"""What a data set is: a list of samples and the names of the classes."""

from pathlib import Path
from typing import NamedTuple

from wsdan.errors import UserError

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in the image's pixels, half-open


class Member(NamedTuple):
    """An image inside an uncompressed tar file: `size` bytes from `offset` on."""

    shard: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.shard}/{self.name}"


Source = Path | Member


class Sample(NamedTuple):
    """An image, the index of its class and, where it is known, the object's box."""

    source: Source
    label: int
    box: Box | None


class Split(NamedTuple):
    """The images to train on, or those to validate on."""

    samples: list[Sample]
    classes: list[str]


class Entry(NamedTuple):
    """An image as a reader finds it: with the name of its class."""

    source: Source
    name: str
    box: Box | None = None


class Listing(NamedTuple):
    """What a reader found: `where` is named in errors, `names` are the classes in label order."""

    where: str
    names: list[str]
    entries: list[Entry]


def sorted_names(names: set[str]) -> list[str]:
    """Class names in label order: as numbers where all are whole numbers, else as text."""
    try:
        return sorted(names, key=lambda name: (int(name), name))
    except ValueError:
        return sorted(names)


def make_split(listing: Listing, classes: list[str] | None) -> Split:
    """Labelled samples; `classes` are those a model was trained on, None takes the listing's own.

    Raises UserError for fewer than two classes or two of one name, a class not in `classes`, or no
    image.
    """
    where, names, entries = listing
    if classes is None and len(names) < 2:
        raise UserError(f"{where}: at least two classes are needed; found {len(names)}")
    classes = names if classes is None else classes
    labels = {name: label for label, name in enumerate(classes)}
    if len(labels) < len(classes):
        raise UserError(f"{where}: two classes have the same name")
    for entry in entries:
        if entry.name not in labels:
            raise UserError(f"{where}: class {entry.name!r} is not among the training classes")
    if not entries:
        raise UserError(f"{where}: holds no image")
    samples = [Sample(entry.source, labels[entry.name], entry.box) for entry in entries]
    return Split(samples, classes)
