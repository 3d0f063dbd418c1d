"""The command line, `wsdan COMMAND`, also as `python -m wsdan`: what ends it, and how.

torch is imported by the commands, after their arguments were checked: help and mistakes are told at
once. So nothing here, nor in the modules imported on top, may import it.
"""

import signal
import sys
from types import ModuleType

from wsdan.commands import (
    convert,
    eval,
    explain,
    export,
    info,
    predict,
    report,
    reproduce,
    serve,
    train,
)
from wsdan.errors import StoppedError, UserError, one_line
from wsdan.output import (
    escape_what_is_not_encodable,
    open_closed_streams,
    print_if_possible,
    unwritable,
)
from wsdan.parser import build_parser

COMMANDS: dict[str, ModuleType] = {  # in the order of the help
    "train": train,
    "eval": eval,
    "predict": predict,
    "explain": explain,
    "report": report,
    "serve": serve,
    "export": export,
    "convert": convert,
    "reproduce": reproduce,
    "info": info,
}
USER_MISTAKE = 2


def main(arguments: list[str] | None = None) -> int:
    """Run the program; returns the exit status: 0, or 2 for a user's mistake (one line)."""
    open_closed_streams()
    escape_what_is_not_encodable()
    try:
        status = _run(arguments)
    except OSError:
        if (error := unwritable(sys.stdout, "\n")) is None:
            raise  # another file's
    else:
        error = unwritable(sys.stdout)  # here, where a reader who has left is noticed
    if isinstance(error, BrokenPipeError):
        status = 128 + signal.SIGPIPE  # as a shell reports it
    elif error is not None:
        print_if_possible(f"wsdan: error: stdout cannot be written: {error.strerror}", error=True)
        status = USER_MISTAKE
    unwritable(sys.stderr)
    return status


def _run(arguments: list[str] | None) -> int:
    """The exit status of a command; its errors are a line on stderr."""
    try:
        options = vars(build_parser(COMMANDS).parse_args(arguments))
        return COMMANDS[options.pop("command")].run(options) or 0
    except SystemExit as end:  # of argparse, after a help
        return end.code
    except UserError as error:
        print_if_possible(f"wsdan: error: {one_line(error)}", error=True)
        return USER_MISTAKE
    except StoppedError as stop:
        from wsdan.distributed import is_main

        if is_main():
            print_if_possible(f"wsdan: {one_line(stop)}", error=True)
        return stop.status
    except KeyboardInterrupt:
        print_if_possible("wsdan: interrupted", error=True)
        return 130
