"""wsdan export: a checkpoint as a file for other programs."""

import argparse
import dataclasses
import os
import shutil
from pathlib import Path

from wsdan.commands._checkpoint import (
    VIEW_SETTINGS,
    add_checkpoint,
    check_evaluation_options,
    evaluation_config,
    load_classifier,
)
from wsdan.errors import UserError
from wsdan.files import size_text
from wsdan.parser import add_setting_options
from wsdan.validation import (
    check_between,
    check_folder,
    check_installed,
    check_new_output,
    option_name,
)

HELP = "write a checkpoint as ONNX, a torch.export program, compiled code, or safetensors"
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2", "aoti": ".pt2", "safetensors": ".safetensors"}
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "safetensors": ("safetensors",)}
SETTINGS = (*VIEW_SETTINGS, "final")
CALIBRATION_IMAGES = 200


def add_options(parser: argparse.ArgumentParser) -> None:
    """Settings that are not given are those of the checkpoint."""
    add_checkpoint(parser)
    parser.set_defaults(device="cpu")
    parser.add_argument("--format", required=True, choices=SUFFIXES, help="what to write")
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="the file, .onnx, .pt2 or .safetensors"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    parser.add_argument(
        "--input",
        choices=("uint8", "float"),
        help="images of 0..255 or of [0,1], resized and cropped (default: uint8)",
    )
    add_setting_options(parser, *SETTINGS)
    parser.add_argument(
        "--int8", action="store_true", help="an ONNX file whose backbone computes with 8 bits"
    )
    parser.add_argument(
        "--calibration", metavar="DIR", help="images that --int8 is calibrated with"
    )
    parser.add_argument(
        "--calibration-images",
        type=int,
        metavar="N",
        help=f"how many of them (default: {CALIBRATION_IMAGES})",
    )
    add_setting_options(parser, "data", "root", "batch_size", "workers")


def run(options: dict) -> None:
    _check(options)
    kind, out = options.pop("format"), Path(options.pop("out"))
    pixels, int8 = options.pop("input") or "uint8", options.pop("int8")
    folder, count = options.pop("calibration"), options.pop("calibration_images")
    options.pop("overwrite")
    changes = {name: options[name] for name in SETTINGS if options[name] is not None}
    if kind == "safetensors":
        return _write_weights(options, changes, out)

    from wsdan.data.loaders import val_loader
    from wsdan.exporting.export import export
    from wsdan.exporting.reports import report

    calibration = None
    if int8:
        from wsdan.exporting.quantization import calibration_images

        calibration = calibration_images(Path(folder), count or CALIBRATION_IMAGES)
    classifier = load_classifier(options)
    batches = None
    if options["root"] is not None or options["data"] is not None:
        batches = val_loader(evaluation_config(classifier, options), classifier.classes)
    classifier.config = dataclasses.replace(classifier.config, **changes)
    exported = export(
        classifier, kind, out, pixels=pixels, calibration=calibration, batches=batches
    )
    print(report(exported, out))
    return None


def _check(options: dict) -> None:
    """Raise UserError for options that are wrong, or do not go together, before torch is loaded."""
    kind = options["format"]
    check_evaluation_options(options)
    check_new_output("--out", options["out"], options["overwrite"], SUFFIXES[kind])
    if kind in ("onnx", "safetensors") and options["device"] == "cuda":
        raise UserError(f"--device cuda is for --format torch and aoti; {kind} is of no device")
    if kind in ("onnx", "safetensors"):
        options["device"] = "cpu"
    if kind == "safetensors":
        for name in ("input", "data", "root"):
            if options[name] is not None:
                raise UserError(f"--{name} is for programs; --format safetensors writes weights")
    if options["int8"] and kind != "onnx":
        raise UserError(f"--int8 is for --format onnx; got {kind}")
    if options["int8"] and options["calibration"] is None:
        raise UserError("--int8 needs --calibration, a folder of images like those to classify")
    for name in ("calibration", "calibration_images"):
        if options[name] is not None and not options["int8"]:
            raise UserError(f"{option_name(name)} is for --int8")
    if options["calibration"] is not None:
        check_folder("--calibration", options["calibration"])
    if options["calibration_images"] is not None:
        check_between("--calibration-images", options["calibration_images"], 1, 10**6)
    check_installed(f"wsdan export --format {kind}", PACKAGES.get(kind, ()), "export")
    if kind == "aoti" and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise UserError("--format aoti needs a C++ compiler: there is no g++, and CXX names none")


def _write_weights(options: dict, changes: dict, out: Path) -> None:
    from wsdan.checkpoint import save_safetensors
    from wsdan.inference.pretrained import load_parts

    parts = load_parts(options["checkpoint"], raw_weights=options["raw_weights"])
    config, weights = dataclasses.replace(parts.config, **changes), parts.weights
    save_safetensors(out, config, parts.classes, weights)
    print(f"{out}: {size_text(out)}, {len(weights)} tensors")
    print(f"wsdan predict --checkpoint {out} IMAGE")
