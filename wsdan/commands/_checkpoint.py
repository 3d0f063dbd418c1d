"""What the commands that run a checkpoint have in common: its options, and loading it."""

import argparse
import dataclasses

from wsdan.config import DEVICES, Config, check_given
from wsdan.data.readers import detect
from wsdan.output import print_if_possible
from wsdan.parser import add_setting_options
from wsdan.validation import check_checkpoint, check_folder, check_ranges

# What is classified, and the refined view's box.
VIEW_SETTINGS = ("views", "refine_threshold", "refine_smoothing", "refine_padding")


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="FILE",
        help="last.pt or best.pt, or an address of one (s3://, https://, ...), a folder of "
        "save_pretrained, or hf:ID of Hugging Face's hub",
    )
    parser.add_argument("--device", choices=DEVICES, default="auto", help="device to run on")
    parser.add_argument(
        "--raw-weights",
        action="store_true",
        help="use the trained weights instead of their moving average (--ema)",
    )
    parser.add_argument(
        "--max-pixels", type=int, metavar="N", help="pixels of the largest image that is decoded"
    )


def add_evaluation_settings(parser: argparse.ArgumentParser) -> None:
    """The settings of an evaluation; those that are not given are the checkpoint's."""
    names = ("data", "root", "image_size", "zoom", "batch_size", "workers", "precision", "final")
    add_setting_options(parser, *names, "tta", *VIEW_SETTINGS)
    parser.add_argument(
        "--skip-bad-images", action="store_true", help="skip unreadable images and count them"
    )


def pop_settings(options: dict, names: tuple[str, ...]) -> dict:
    """The settings of these names that are given, which `options` loses. Raises UserError for one
    out of range."""
    found = {name: options.pop(name) for name in names}
    found = {name: value for name, value in found.items() if value is not None}
    check_given(found)
    return found


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


def tell_precision(asked: str | None, config: Config) -> None:
    """Say, in the first process and on stderr, which precision --precision auto stands for."""
    from wsdan.distributed import is_main

    if asked == "auto" and is_main():
        print_if_possible(f"wsdan: --precision auto: {config.precision}", error=True)


def with_precision(config: Config, device) -> Config:
    """The configuration with the precision that --precision auto stands for on the device."""
    from wsdan.precision import pick_precision

    return dataclasses.replace(config, precision=pick_precision(config.precision, device))


def check_evaluation_options(options: dict) -> None:
    """Raise UserError for a checkpoint or a --root that is not there, or a setting out of range."""
    check_checkpoint(options["checkpoint"])
    if options["root"] is not None:
        check_folder("--root", options["root"])
    settings = {item.name for item in dataclasses.fields(Config)}
    check_given({n: value for n, value in options.items() if n in settings and value is not None})


def evaluation_config(classifier, options: dict) -> Config:
    """The resolved configuration of a checkpoint's evaluation, with the settings in `options` that
    are not None. Raises UserError for images that the model does not take."""
    from wsdan.networks.model import check_image_size

    changes = {name: value for name, value in options.items() if value is not None}
    trained_on_none = classifier.config.root is None  # on the embedded dataset, or it is unknown
    if "root" in changes and "data" not in changes and trained_on_none:
        changes["data"] = detect(changes["root"])
    if changes.get("data") == "synthetic":
        changes["root"] = None
    config = dataclasses.replace(
        classifier.config, resume=False, overwrite=False, cache=None, decode="cpu", **changes
    ).resolved()
    check_image_size(classifier.model, config.input_size, config.in_channels)
    return with_precision(config, classifier.device)
