"""What ends the program with one line instead of a traceback."""

import re
import signal

LONGEST_VALUE = 200  # characters of a value in a message
_LONGEST_MESSAGE = 2000
_LONG_WORD = re.compile(rf"\S{{{LONGEST_VALUE + 1},}}")


class UserError(Exception):
    """A mistake in the arguments or the data; the message names it and says what is expected."""


class StoppedError(Exception):
    """A signal ended the run, after it had saved what it holds; the message says where."""

    def __init__(self, number: signal.Signals, message: str):
        super().__init__(message)
        self.status = 128 + number  # as a shell reports it


def shown(value: object) -> str:
    """A value as a message shows it: a literal of at most 200 characters, or its type."""
    if isinstance(value, int) and value.bit_length() > 660:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, str):
        return repr(shortened(value))
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    return f"a {type(value).__name__}"


def shortened(text: str) -> str:
    """The text, or the start and the end of a long one: at most 200 characters."""
    if len(text) <= LONGEST_VALUE:
        return text
    half = (LONGEST_VALUE - len("...")) // 2
    return f"{text[:half]}...{text[-half:]}"


def one_line(message: object) -> str:
    """A message as it is printed: one line, without a long value or a control character."""
    text = printable(str(message))
    text = _LONG_WORD.sub(lambda found: shortened(found[0]), text)
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + "..."


def printable(text: str) -> str:
    """The text with line breaks, control characters and lone surrogates as Python escapes them."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
