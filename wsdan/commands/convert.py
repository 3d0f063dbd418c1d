"""wsdan convert: a published code's checkpoint as one of wsdan."""

import argparse

from wsdan.config import ORIGINS
from wsdan.validation import check_file, check_output, image_size, split_weights

HELP = "convert a checkpoint of WS-DAN.PyTorch, CAL or WS_DAN_PyTorch"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="their checkpoint")
    parser.add_argument("--out", required=True, metavar="FILE", help="the file to write")
    parser.add_argument(
        "--classes", metavar="FILE", help="class names, one per line, or CUB's classes.txt"
    )
    parser.add_argument(
        "--image-size",
        type=image_size,
        metavar="N",
        help="side or HEIGHTxWIDTH of its training images, which SOURCE does not tell "
        "(default: 448)",
    )
    parser.add_argument(
        "--origin", choices=ORIGINS, help="the code that wrote SOURCE, where the file does not tell"
    )


def run(options: dict) -> None:
    check_file("convert", split_weights(options["source"])[0])
    check_output("--out", options["out"])
    if options["classes"] is not None:
        check_file("--classes", options["classes"])

    from wsdan.networks.convert import convert

    found = convert(**options)
    print(f"{options['source']}: {found}; written to {options['out']}")
