"""wsdan predict: classify images."""

import argparse
import contextlib
import dataclasses
import os
import sys

from wsdan.commands._checkpoint import (
    VIEW_SETTINGS,
    add_checkpoint,
    load_classifier,
    pop_settings,
    tell_precision,
    with_precision,
)
from wsdan.config import check_given
from wsdan.data.sources import STDIN, Listing, check_sources, is_pattern
from wsdan.errors import UserError, one_line, printable, shown
from wsdan.output import print_if_possible
from wsdan.parser import add_setting_options
from wsdan.validation import check_checkpoint, check_new_folder, check_new_output

HELP = "classify images: the best classes and the object's box"
BATCH_SIZE = 16
SETTINGS = ("precision", *VIEW_SETTINGS)


def add_options(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    add_setting_options(parser, *SETTINGS)
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="images, folders, patterns such as 'a/**/*.jpg', csv files with a column path, "
        "WebDataset shards (.tar), or - for a list of names on standard input",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=BATCH_SIZE,
        metavar="N",
        help=f"images that pass the network at once (default: {BATCH_SIZE})",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that load images (default: one a core, at most 8)",
    )
    parser.add_argument(
        "--top", type=int, default=5, metavar="K", help="classes of each image (default: 5)"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.0,
        metavar="P",
        help='best scores below it are labelled "unknown", in [0, 1] (default: 0)',
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.add_argument(
        "--csv", metavar="FILE", help="write one row an image there, and print no text"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --csv")
    parser.add_argument(
        "--save-crops",
        metavar="DIR",
        help="save what the model zoomed to, cut from the original image, in this new folder",
    )


def run(options: dict) -> int:
    """Status 1 if an image could not be read."""
    check_checkpoint(options["checkpoint"])
    changes = pop_settings(options, SETTINGS)
    numbers = {name: options[name] for name in ("batch_size", "workers")}
    check_given({name: value for name, value in numbers.items() if value is not None})
    _check(options)

    from wsdan.data.stream import default_workers
    from wsdan.distributed import process_group
    from wsdan.inference.predict import Recorder, predictions
    from wsdan.inference.tables import Table

    classifier = load_classifier(options)
    config = dataclasses.replace(classifier.config, **changes)
    classifier.config = with_precision(config, classifier.device)
    crops = options["save_crops"]
    if crops is not None and classifier.config.method != "wsdan":
        raise UserError("--save-crops: the checkpoint is of a plain classifier, without a box")
    listing = Listing(options["sources"], None if crops is None else _made(crops))
    top = min(options["top"], len(classifier.classes))
    table = None if options["csv"] is None else Table(top)
    lines = "json" if options["json"] else "text" if table is None else None
    with process_group(classifier.device):
        tell_precision(changes.get("precision"), classifier.config)
        outcomes = predictions(
            classifier,
            listing,
            batch_size=options["batch_size"],
            workers=default_workers() if options["workers"] is None else options["workers"],
            top=top,
            threshold=options["threshold"],
        )
        total, bad = _write(outcomes, Recorder(classifier, lines, table, crops), options)
        _summarise(total, bad, listing.notes, options)
    return 1 if bad else 0


def _check(options: dict) -> None:
    """Raise UserError for options that are out of range, and for files that are not there, or that
    are and would be replaced."""
    if options["top"] < 1:
        raise UserError(f"--top must be at least 1; got {shown(options['top'])}")
    if not 0 <= options["threshold"] <= 1:
        raise UserError(f"--threshold must be in [0, 1]; got {options['threshold']}")
    check_sources(options["sources"])
    table, crops = options["csv"], options["save_crops"]
    if table is not None:
        check_new_output("--csv", table, options["overwrite"])
        for source in filter(os.path.isfile, options["sources"]):
            if os.path.isfile(table) and os.path.samefile(table, source):
                raise UserError(f"--csv: {table} would replace a source; name another file")
    if crops is not None:
        check_new_folder("--save-crops", crops)


def _made(folder: str) -> tuple[int, int]:
    """Make the folder; its identity, by which the listing of a folder above leaves it out."""
    try:
        os.makedirs(folder, exist_ok=True)
        state = os.stat(folder)
    except OSError as error:
        raise UserError(f"--save-crops: cannot make {folder}: {error.strerror}") from None
    return state.st_dev, state.st_ino


def _write(outcomes, record, options: dict) -> tuple[int, int]:
    """Write all outcomes, of all ranks, in the order of the sources; returns the number of images
    and of those that could not be read."""
    from tqdm import tqdm

    from wsdan.distributed import gather_objects, is_main
    from wsdan.inference.tables import TableFile

    total, bad = 0, 0
    plain = all(map(_is_image, options["sources"]))
    with contextlib.ExitStack() as stack:
        table = None
        if record.table is not None and is_main():
            table = stack.enter_context(TableFile("--csv", options["csv"], record.table))
        bar = tqdm(
            total=len(options["sources"]) if plain else None,
            unit=" images",
            disable=None if is_main() else True,
        )
        stack.enter_context(bar)
        for batch in outcomes:
            parts = gather_objects([record(outcome) for outcome in batch])
            records = [item for part in parts for item in part]
            total += len(records)
            bad += sum(item.error is not None for item in records)
            if is_main():
                with bar.external_write_mode():
                    _print(records)
            if table is not None:
                table.write([item.row for item in records])
            bar.update(len(records))
    return total, bad


def _is_image(source: str) -> bool:
    """Whether a source is one image, as far as its name tells."""
    several = source == STDIN or is_pattern(source) or os.path.isdir(source)
    return not (several or source.lower().endswith((".csv", ".tar")))


def _print(records: list) -> None:
    for item in records:
        if item.error is not None:
            print_if_possible(f"wsdan: error: {one_line(item.error)}", error=True)
        if item.line is not None:
            print(item.line)
    sys.stdout.flush()  # whoever reads the output sees it now, and an end of the reader is seen


def _summarise(total: int, bad: int, notes: list[str], options: dict) -> None:
    from wsdan.distributed import print_main, warn_main

    for note in notes:
        warn_main(one_line(note))
    if bad > 0:
        warn_main(f"{bad} of {total} images could not be read")
    if options["csv"] is not None and not options["json"]:
        print_main(f"{total} images: {printable(options['csv'])}")
