"""wsdan serve: a web page and an HTTP API."""

import argparse
import dataclasses
import re

from wsdan.commands._checkpoint import (
    VIEW_SETTINGS,
    add_checkpoint,
    load_classifier,
    pop_settings,
)
from wsdan.errors import UserError, shortened
from wsdan.parser import add_setting_options
from wsdan.validation import check_between, check_checkpoint, check_installed, check_text

HELP = "a web page and an HTTP API that classify images"
NEEDED = ("fastapi", "uvicorn", "python_multipart")
NUMBERS = {  # option -> type, default, lowest, highest, help
    "port": (int, 8000, 0, 65535, "port to listen on; 0 is a free one"),
    "max_batch": (int, 16, 1, 1024, "images that pass the network at once"),
    "max_wait": (float, 5.0, 0, 1000, "milliseconds that an image waits for others of its batch"),
    "queue": (int, 256, 1, 10**6, "images in work or waiting; more are refused with 429"),
    "max_upload": (float, 32.0, 0.001, 4096, "megabytes of a request; more are refused with 413"),
    "timeout": (float, 60.0, 0.1, 86400, "seconds for a request, its upload included"),
    "grace": (float, 30.0, 0, 86400, "seconds for the requests in flight when it is stopped"),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    add_setting_options(parser, *VIEW_SETTINGS)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on; 0.0.0.0 is all of this machine (default: 127.0.0.1)",
    )
    for name, (kind, default, _, _, text) in NUMBERS.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            default=default,
            metavar="N" if kind is int else "X",
            help=f"{text} (default: {default:g})",
        )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="answer requests for this host name too, as of a proxy; may be repeated",
    )
    parser.add_argument(
        "--access-log", action="store_true", help="print a line for each request to stderr"
    )


def run(options: dict) -> int:
    check_checkpoint(options["checkpoint"])
    check_text("--host", options["host"])
    for name in options["allow_host"]:
        check_host_name(name)
    for name, (_, _, low, high, _) in NUMBERS.items():
        check_between(f"--{name.replace('_', '-')}", options[name], low, high)
    changes = pop_settings(options, VIEW_SETTINGS)
    check_installed("wsdan serve", NEEDED, "serve")

    from wsdan.serving.app import build_app
    from wsdan.serving.rendering import draw
    from wsdan.serving.server import bound_socket, serve
    from wsdan.serving.service import Service

    settings = _settings(options)
    with bound_socket(options["host"], options["port"], settings.timeout) as bound:
        classifier = load_classifier(options)
        classifier.config = dataclasses.replace(classifier.config, **changes)
        service = Service(classifier, settings, draw)
        service.warm_up()
        return serve(build_app(service), service, bound, access_log=options["access_log"])


def check_host_name(name: str) -> None:
    """Raise UserError for what is in no Host header, or with its port."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:]*::[0-9A-Fa-f:]*", name):
        raise UserError(f"--allow-host {shortened(name)}: a host name, without port, is expected")


def _settings(options: dict):
    """The Settings of the options. A service of this machine alone answers to no other name."""
    from wsdan.serving.gate import LOOPBACK
    from wsdan.serving.settings import MEGABYTE, Settings

    names = frozenset(name.lower() for name in options["allow_host"])
    if options["host"].lower() in LOOPBACK:
        names |= LOOPBACK
    return Settings(
        max_batch=options["max_batch"],
        max_wait=options["max_wait"] / 1000,
        queue=options["queue"],
        max_upload=int(options["max_upload"] * MEGABYTE),
        timeout=options["timeout"],
        grace=options["grace"],
        hosts=names or None,
    )
