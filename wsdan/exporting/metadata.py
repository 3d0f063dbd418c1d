"""What a program needs to know to use an exported model: its classes, and how images are made."""

import torch

import wsdan_kernels
from wsdan.config import Config
from wsdan.constants import NORMALIZATION
from wsdan.data.transforms import input_side
from wsdan.data.zoom import canvas_size
from wsdan.inference.classifier import Classifier
from wsdan.validation import height_and_width


def describe(classifier: Classifier, pixels: str, outputs: tuple[str, ...]) -> dict[str, object]:
    """The metadata of a file, of what JSON has.

    pixels: "uint8" or "float", of INPUTS. outputs: names of the program's outputs, in its order.
    """
    config = classifier.config
    mean, std = NORMALIZATION[config.in_channels]
    side = input_side(config.image_size, classifier.whole_image)
    return {
        "classes": classifier.classes,
        "preprocessing": {
            "mode": {1: "L", 3: "RGB", 4: "RGBA"}[config.in_channels],
            "exif_orientation": True,
            "resize": list(height_and_width(side)),  # height, width; the aspect is not kept
            "interpolation": "bilinear, antialiased",
            "center_crop": list(config.input_size),
            "layout": "NCHW",
            "dtype": "uint8" if pixels == "uint8" else "float32",
            "range": [0, 255] if pixels == "uint8" else [0, 1],
            **({} if config.zoom == 1 else _zoom(config)),
        },
        "normalization": {"mean": mean, "std": std, "in_graph": True},
        "outputs": outputs,
        "prediction": {
            "method": config.method,
            "views": config.views,
            "refine_threshold": config.refine_threshold,
            "refine_smoothing": config.refine_smoothing,
            "refine_padding": config.refine_padding,
            "final": config.final,
            "boxes": "x1 y1 x2 y2, half-open, in pixels of the center crop",
        },
        "model": {
            "backbone": config.backbone,
            "num_attentions": config.num_attentions,
            "in_channels": config.in_channels,
            "image_size": list(config.input_size),
        },
        "versions": {"wsdan": wsdan_kernels.__version__, "torch": torch.__version__},
    }


def _zoom(config: Config) -> dict[str, object]:
    """How images larger than the input are given; docs/export.md has the steps in words."""
    return {"zoom": config.zoom, "canvas": list(canvas_size(config.image_size, config.zoom))}
