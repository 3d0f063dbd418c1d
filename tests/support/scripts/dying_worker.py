"""The wsdan command on few images; rank 1 is killed once, before step DIE_AT."""

import os
import signal
import sys
from functools import partial

from few_images import draw_few
from runs import acting_at

import wsdan.training.run
from wsdan.cli import main

if __name__ == "__main__":
    draw_few()
    assert os.environ["TORCHELASTIC_MAX_RESTARTS"] == "1"  # which wsdan reads
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        die = partial(os.kill, os.getpid(), signal.SIGKILL)
        wsdan.training.run.build_step = acting_at(int(os.environ["DIE_AT"]), die)
    sys.exit(main())
