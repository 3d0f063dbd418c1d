"""The wsdan command on few images, in a process whose files are limited to 64 KiB."""

import resource
import sys

from few_images import draw_few

from wsdan.cli import main

if __name__ == "__main__":
    draw_few()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))
    sys.exit(main())
