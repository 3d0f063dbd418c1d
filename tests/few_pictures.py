"""The wsdan command on few embedded pictures, so that a run takes a second."""

import os
import sys

from wsdan.cli import main
from wsdan.data import loaders

TRAIN, VAL = int(os.environ.get("FEW_PICTURES", "48")), 17

if __name__ == "__main__":
    loaders.SYNTHETIC_TRAIN, loaders.SYNTHETIC_VAL = TRAIN, VAL
    sys.exit(main())
