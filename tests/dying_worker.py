"""The wsdan command on few pictures; the second process is killed once, at the step of DIE_AT."""

import os
import signal
import sys
from functools import partial

from few_pictures import draw_few
from runs import acting_at

import wsdan.train
from wsdan.cli import main

if __name__ == "__main__":
    draw_few()
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        die = partial(os.kill, os.getpid(), signal.SIGKILL)
        wsdan.train.build_step = acting_at(int(os.environ["DIE_AT"]), die)
    sys.exit(main())
