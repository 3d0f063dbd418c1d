"""The wsdan command on few pictures, in a process whose files may grow to 64 KiB."""

import resource
import sys

import few_pictures

from wsdan.cli import main
from wsdan.data import loaders

if __name__ == "__main__":
    loaders.SYNTHETIC_TRAIN, loaders.SYNTHETIC_VAL = few_pictures.TRAIN, few_pictures.VAL
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))
    sys.exit(main())
