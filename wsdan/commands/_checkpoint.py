"""What the commands that run a checkpoint have in common: its options, and loading it."""

import argparse
import dataclasses

from wsdan.config import DEVICES
from wsdan.validation import check_ranges


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="last.pt or best.pt")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="device to run on")
    parser.add_argument(
        "--raw-weights",
        action="store_true",
        help="use the trained weights instead of their moving average (--ema)",
    )
    parser.add_argument(
        "--max-pixels", type=int, metavar="N", help="pixels of the largest image that is decoded"
    )


def load_classifier(options: dict):
    """The Classifier of --checkpoint, --device and --raw-weights, which `options` loses."""
    from wsdan.inference.classifier import Classifier
    from wsdan.training.launch import pick_device

    device = pick_device(options.pop("device"))
    classifier = Classifier(
        options.pop("checkpoint"), device, raw_weights=options.pop("raw_weights")
    )
    max_pixels = options.pop("max_pixels")
    if max_pixels is not None:
        classifier.config = dataclasses.replace(classifier.config, max_pixels=max_pixels)
        check_ranges(classifier.config)
    return classifier
