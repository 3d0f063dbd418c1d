"""The wsdan command on few images; the second process is killed once, at the step of DIE_AT."""

import os
import signal
import sys
from functools import partial

from few_images import draw_few
from runs import acting_at

import wsdan.training.loop
from wsdan.cli import main

if __name__ == "__main__":
    draw_few()
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        die = partial(os.kill, os.getpid(), signal.SIGKILL)
        wsdan.training.loop.build_step = acting_at(int(os.environ["DIE_AT"]), die)
    sys.exit(main())
