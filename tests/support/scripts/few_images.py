"""The wsdan command on few synthetic images, so that a run takes a second."""

import os
import sys

from wsdan.cli import main
from wsdan.data import loaders


def draw_few() -> None:
    """Have this process train on FEW_IMAGES (default 48) images and validate on 17."""
    loaders.SYNTHETIC_TRAIN, loaders.SYNTHETIC_VAL = int(os.environ.get("FEW_IMAGES", "48")), 17


if __name__ == "__main__":
    draw_few()
    sys.exit(main())
