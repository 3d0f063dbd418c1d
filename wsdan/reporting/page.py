"""The page: the content in the template, which jinja2 escapes."""

import base64
import hashlib
from importlib import resources
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from wsdan.errors import printable, shortened

PERCENT = "\u00a0%"  # does not break from its number
LONGEST_NAME = 80  # characters of a class or a file on the page
PAGE, STYLE, SCRIPT = "page.html", "page.css", "page.js"


def render(root: str | None, **content: Any) -> str:
    """The page as HTML, of the names that page.html uses.

    Everything but the page's own style and script is escaped. Files below `root` are named from
    there.
    """
    texts = {name: _resource(name) for name in (PAGE, STYLE, SCRIPT)}
    environment = Environment(
        loader=DictLoader(texts),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "name": shown_name,
        "file": lambda path: shown_name(path.removeprefix(f"{root}/"), from_end=True),
        "fact": lambda value: shortened(printable(str(value))),
        "images": lambda value: f"{value:,} image{'' if value == 1 else 's'}",
        "count": lambda value: f"{value:,}",
        "points": lambda value: "" if value is None else f"{value:.1f}{PERCENT}",
        "percent": lambda value: f"{100 * value:.1f}{PERCENT}",
    }
    digest = hashlib.sha256(texts[SCRIPT].encode()).digest()
    return environment.get_template(PAGE).render(
        style=Markup(texts[STYLE]),
        script=Markup(texts[SCRIPT]),
        script_hash=f"sha256-{base64.b64encode(digest).decode()}",
        **content,
    )


def shown_name(name: str, from_end: bool = False) -> str:
    """A name as the page shows it: printable, its middle or its start left out if it is long."""
    name = printable(name)
    if len(name) <= LONGEST_NAME:
        return name
    if from_end:
        return "..." + name[3 - LONGEST_NAME :]
    return name[: LONGEST_NAME - 20] + "..." + name[-17:]


def _resource(name: str) -> str:
    return resources.files("wsdan.reporting").joinpath(name).read_text(encoding="utf-8")
