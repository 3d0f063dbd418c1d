"""The wsdan command, in a process that a test can stop."""

import sys

from wsdan.cli import main

if __name__ == "__main__":
    sys.exit(main())
