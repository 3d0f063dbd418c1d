"""Docstrings are plain text: their stars and angle brackets are no Markdown."""

import re

from griffe import Docstring, Extension, Object

_CODE = re.compile(r"(`[^`\n]+`)")


class PlainDocstrings(Extension):
    def on_object(self, *, obj: Object, **_) -> None:
        if isinstance(obj.docstring, Docstring):
            obj.docstring.value = escaped(obj.docstring.value)


def escaped(text: str) -> str:
    """The text with Markdown's signs escaped, except within backticks."""
    parts = _CODE.split(text)
    parts[::2] = [re.sub(r"([*>])", r"\\\1", part.replace("<", "&lt;")) for part in parts[::2]]
    return "".join(parts)
