"""wsdan predict: classify images."""

import argparse
import dataclasses
import json

from wsdan.commands._checkpoint import add_checkpoint, load_classifier
from wsdan.config import check_given
from wsdan.parser import add_setting_options
from wsdan.validation import check_checkpoint, check_images

HELP = "classify images: the top 5 classes and the object's box"


def add_options(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    add_setting_options(parser, "refine_threshold", "refine_padding")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")


def run(options: dict) -> None:
    check_checkpoint(options["checkpoint"])
    check_images(options["images"])
    changes = {name: options.pop(name) for name in ("refine_threshold", "refine_padding")}
    changes = {name: value for name, value in changes.items() if value is not None}
    check_given(changes)

    from wsdan.inference.predict import prediction_text

    classifier = load_classifier(options)
    classifier.config = dataclasses.replace(classifier.config, **changes)
    for path in options["images"]:
        result = classifier(path).to_dict()
        print(json.dumps(result) if options["json"] else prediction_text(result))
