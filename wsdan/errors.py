"""What ends the program with one line instead of a traceback."""

import signal


class UserError(Exception):
    """A mistake in the arguments or the data; the message names it and says what is expected."""


class StoppedError(Exception):
    """A signal ended the run, after it had saved what it holds; the message says where."""

    def __init__(self, number: signal.Signals, message: str):
        super().__init__(message)
        self.status = 128 + number  # as a shell reports it
