"""wsdan predict: classify images."""

import argparse
import dataclasses
import json

from wsdan.commands._checkpoint import add_checkpoint, load_classifier
from wsdan.config import check_given
from wsdan.parser import add_setting_options
from wsdan.validation import check_checkpoint_file, check_images, check_text

HELP = "classify images: the top 5 classes and the object's box"


def add_options(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    add_setting_options(parser, "refine_threshold", "refine_padding")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.add_argument(
        "--figure", metavar="DIR", help="save a figure of each image's views there, as NAME.png"
    )


def run(options: dict) -> None:
    check_checkpoint_file(options["checkpoint"])
    check_images(options["images"])
    if options["figure"] is not None:
        check_text("--figure", options["figure"])
    changes = {name: options.pop(name) for name in ("refine_threshold", "refine_padding")}
    changes = {name: value for name, value in changes.items() if value is not None}
    check_given(changes)

    from wsdan.inference.predict import figure_paths, prediction_text, save_figure

    classifier = load_classifier(options)
    classifier.config = dataclasses.replace(classifier.config, **changes)
    figures = [None] * len(options["images"])
    if options["figure"] is not None:
        figures = figure_paths(options["images"], options["figure"])
    for path, figure in zip(options["images"], figures, strict=True):
        result = classifier(path).to_dict()
        if figure is not None:
            save_figure(classifier, path, figure, result)
        print(json.dumps(result) if options["json"] else prediction_text(result))
