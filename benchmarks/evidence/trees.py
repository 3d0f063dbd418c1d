"""The images of a trial: a folder of links to the data set's own."""

from pathlib import Path

from wsdan.data.formats import is_image

HELD_OUT = 4  # one image in so many of train/ validates with --held-out
STEP = 7  # so that neighbours by name, which look alike, do not have neighbouring sizes in a tail


def linked_tree(
    root: Path, folder: Path, *, held_out: bool = False, every: int = 1, tail: float = 1.0
) -> None:
    """Make `folder` an image folder of links to root/train and root/val.

    Args:
        held_out: every fourth image of a class of root/train, by name, validates; root/val is left
            alone.
        every: one class in so many, by name.
        tail: the share of its training images that the rarest class keeps, the first by name, at
            least two; the others' shares fall geometrically from 1 to it.
    """
    classes = sorted(path for path in (root / "train").iterdir() if path.is_dir())[::every]
    for number, directory in enumerate(classes):
        images = _images(directory)
        val = images[HELD_OUT - 1 :: HELD_OUT]
        train = [image for image in images if not (held_out and image in val)]
        if not held_out:
            val = _images(root / "val" / directory.name)
        place = number * STEP % len(classes) / max(len(classes) - 1, 1)
        kept = max(2, round(len(train) * tail**place))
        for split, paths in (("train", train[:kept]), ("val", val)):
            target = folder / split / directory.name
            target.mkdir(parents=True)
            for image in paths:
                (target / image.name).symlink_to(image.absolute())


def _images(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if is_image(path))
