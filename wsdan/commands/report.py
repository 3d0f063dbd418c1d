"""wsdan report: a checkpoint's evaluation as one page for the browser."""

import argparse
from pathlib import Path

from wsdan.commands._checkpoint import (
    add_checkpoint,
    add_evaluation_settings,
    check_evaluation_options,
    evaluation_config,
    load_classifier,
)
from wsdan.errors import UserError
from wsdan.files import written_whole
from wsdan.validation import check_new_output

HELP = "a checkpoint's evaluation as one page for the browser"


def add_options(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    add_evaluation_settings(parser)
    parser.add_argument(
        "--out", default="report.html", metavar="FILE", help="the page (default: report.html)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the page if it is there")


def run(options: dict) -> None:
    check_evaluation_options(options)
    out, checkpoint = options.pop("out"), options["checkpoint"]
    check_new_output("--out", out, options.pop("overwrite"), ".html")

    from wsdan.data.loaders import val_loader
    from wsdan.distributed import launched
    from wsdan.reporting.report import report

    if launched():
        raise UserError("wsdan report runs in one process; start it without torchrun")
    classifier = load_classifier(options)
    classifier.config = evaluation_config(classifier, options)
    page = report(classifier, val_loader(classifier.config, classifier.classes), checkpoint)
    try:
        with written_whole(Path(out)) as file:
            file.write(page)
    except OSError as error:
        raise UserError(f"--out: cannot write {out}: {error.strerror}") from None
    print(f"written to {out}: {len(page) / 1e6:.1f} MB; open it in a browser")
