"""The wsdan command on few embedded pictures, so that a run takes a second."""

import sys

from wsdan.cli import main
from wsdan.data import loaders

TRAIN, VAL = 48, 17

if __name__ == "__main__":
    loaders.SYNTHETIC_TRAIN, loaders.SYNTHETIC_VAL = TRAIN, VAL
    sys.exit(main())
