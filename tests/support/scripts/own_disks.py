"""The wsdan command on few images, each rank in its own folder DISKS/rank, as on machines that
share no disk."""

import os
import sys
from pathlib import Path

from few_images import draw_few

from wsdan.cli import main

if __name__ == "__main__":
    draw_few()
    own = Path(os.environ["DISKS"], os.environ["RANK"])
    own.mkdir(parents=True, exist_ok=True)
    os.chdir(own)
    sys.exit(main())
