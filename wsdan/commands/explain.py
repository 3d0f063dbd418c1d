"""wsdan explain: a figure of what the model looked at in each image."""

import argparse
import dataclasses
import json
import os
from collections import Counter
from pathlib import Path

from wsdan.commands._checkpoint import (
    VIEW_SETTINGS,
    add_checkpoint,
    load_classifier,
    pop_settings,
)
from wsdan.data.sources import Listing, Unreadable, check_sources
from wsdan.errors import UserError, one_line, printable, shown
from wsdan.files import written_whole
from wsdan.output import print_if_possible
from wsdan.parser import add_setting_options
from wsdan.validation import check_checkpoint, check_text

HELP = "show what the model looked at: a figure of each image"
OUT = "explained"
MOST_CLASSES = 10  # that a figure has room for
DPI = 150  # figures are 10 inches wide


def add_options(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    add_setting_options(parser, *VIEW_SETTINGS)
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="images, folders, or patterns such as 'a/*.jpg'"
    )
    parser.add_argument(
        "--out", metavar="DIR", default=OUT, help=f"folder of the figures (default: {OUT})"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace figures that exist")
    parser.add_argument(
        "--top", type=int, default=5, metavar="K", help="classes of the figure (default: 5)"
    )
    parser.add_argument(
        "--truth",
        metavar="CLASS",
        help="true class of the images; default: the name of an image's folder, if it is a class",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")


def run(options: dict) -> int:
    check_checkpoint(options["checkpoint"])
    changes = pop_settings(options, VIEW_SETTINGS)
    if not 1 <= options["top"] <= MOST_CLASSES:
        raise UserError(f"--top must be from 1 to {MOST_CLASSES}; got {shown(options['top'])}")
    check_text("--out", options["out"])
    images, unreadable = _image_files(options["images"], options["out"])
    figures = _figure_paths(images, options["out"], options["overwrite"])

    classifier = load_classifier(options)
    classifier.config = dataclasses.replace(classifier.config, **changes)
    if classifier.config.method != "wsdan":
        raise UserError("explain: the checkpoint is of a plain classifier, which has no attention")
    truth = options["truth"]
    if truth is not None and truth not in classifier.classes:
        raise UserError(f"--truth: {shown(truth)} is no class of the checkpoint")
    for line in unreadable:
        print_if_possible(f"wsdan: error: {one_line(line)}", error=True)
    bad = len(unreadable)
    for image, figure in zip(images, figures, strict=True):
        folder = os.path.basename(os.path.dirname(os.path.abspath(image)))
        known = folder if truth is None and folder in classifier.classes else truth
        bad += not _explain(classifier, image, figure, known, options)
    return 1 if bad else 0


def _explain(classifier, image: str, figure: Path, truth: str | None, options: dict) -> bool:
    """Write the figure of an image and print a line; False for an unreadable image."""
    from wsdan.inference.explaining.explain import draw, explain

    try:
        explanation = explain(classifier, image, truth, top=options["top"])
    except UserError as error:
        print_if_possible(f"wsdan: error: {one_line(error)}", error=True)
        if options["json"]:
            print(json.dumps({"image": image, "error": one_line(error)}))
        return False
    try:
        with written_whole(figure, "wb") as file:
            draw(explanation).savefig(file, format="png", dpi=DPI, pil_kwargs={"compress_level": 3})
    except OSError as error:
        raise UserError(f"--out: cannot write {figure}: {error.strerror}") from None
    found = {**explanation.to_dict(), "figure": str(figure)}
    print(json.dumps(found) if options["json"] else _line(found))
    return True


def _line(found: dict) -> str:
    """The result of one image as a line of text."""
    score = "not finite" if found["score"] is None else f"{100 * found['score']:.1f} %"
    text = f"{found['image']}: {found['label']} {score}"
    if found["truth"] is not None:
        text += " (right)" if found["truth"] == found["label"] else f" (it is {found['truth']})"
    return printable(f"{text}: {found['figure']}")


def _image_files(sources: list[str], out: str) -> tuple[list[str], list[str]]:
    """The image files of the sources, and a line for each that cannot be read. Figures of earlier
    calls, in the folder `out` below a source, are left out.

    Raises UserError for a source that is not there, if none holds an image, and for shards.
    """
    check_sources(sources)
    skip = None
    if os.path.isdir(out) and not any(
        os.path.samefile(out, source) for source in filter(os.path.isdir, sources)
    ):
        skip = (os.stat(out).st_dev, os.stat(out).st_ino)
    files, bad = [], []
    for source in Listing(sources, skip):
        if isinstance(source, Unreadable):
            bad.append(f"{source.name}: {source.reason}")
        elif isinstance(source, str):
            files.append(source)
        else:
            raise UserError(f"{source}: explain takes image files, not images in shards")
    return files, bad


def _figure_paths(images: list[str], out: str, overwrite: bool) -> list[Path]:
    """The path OUT/NAME.png for each image NAME.*, or OUT/FOLDER-NAME.png where several images of
    different folders have this name; creates the folder.

    Raises UserError for two images with the same figure, a figure that would replace one of the
    images or exists, or a folder that cannot be created.
    """
    count = Counter(Path(image).stem for image in images)
    names = []
    for image in images:
        path = Path(os.path.abspath(image))
        names.append(path.stem if count[path.stem] == 1 else f"{path.parent.name}-{path.stem}")
    twice = next((name for name, number in Counter(names).items() if number > 1), None)
    if twice is not None:
        raise UserError(f"--out: two images would have the figure {twice}.png")
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out: cannot make the folder {out}: {error.strerror}") from None
    figures = [Path(out) / f"{name}.png" for name in names]
    sources = {os.path.realpath(image) for image in images}
    for figure in figures:
        if os.path.realpath(figure) in sources:
            raise UserError(f"--out: {figure} would replace an image; name another folder")
        if os.path.lexists(figure) and not overwrite:
            raise UserError(f"--out: {figure} exists; pass --overwrite to replace it")
    return figures
