"""The wsdan command on few pictures; the second process is killed once, at the step of DIE_AT."""

import os
import signal
import sys

import few_pictures

import wsdan.train
from wsdan.cli import main
from wsdan.data import loaders
from wsdan.step import build_step

if __name__ == "__main__":
    loaders.SYNTHETIC_TRAIN, loaders.SYNTHETIC_VAL = few_pictures.TRAIN, few_pictures.VAL
    dies = os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"

    def build(*arguments):
        step, taken = build_step(*arguments), []

        def mortal(*batch):
            taken.append(batch)
            if dies and len(taken) == int(os.environ["DIE_AT"]):
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*batch)

        return mortal

    wsdan.train.build_step = build
    sys.exit(main())
