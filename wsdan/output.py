"""Printing where the reader may have left, the disk be full, or the stream be closed."""

import contextlib
import os
import sys
from typing import TextIO


def open_closed_streams() -> None:
    """Give a program that was started without stdin, stdout or stderr (`>&-`) null ones.

    Otherwise the first files that it opens would take their descriptors.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor
    sys.stdout = sys.stdout or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    sys.stderr = sys.stderr or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


def escape_what_is_not_encodable() -> None:
    """Escape on stdout and stderr what the terminal cannot show, an ASCII one for instance."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not of a stream that a caller put there
            stream.reconfigure(errors="backslashreplace")


def print_if_possible(text: str, error: bool = False) -> None:
    """Print a line to stdout or stderr, and go on if it cannot be written."""
    stream = sys.stderr if error else sys.stdout
    with contextlib.suppress(OSError):
        print(text, file=stream, flush=True)


def warn(text: str) -> None:
    """Print a warning of one line to stderr, if possible."""
    print_if_possible(f"wsdan: warning: {text}", error=True)


def unwritable(stream: TextIO, text: str = "") -> OSError | None:
    """Why the stream does not take `text` and what it holds, as after `| head -1` or on a full
    disk; None if it does.

    What a stream could not write is dropped: Python would try again, and fail, at its end.
    """
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        return error
    return None
