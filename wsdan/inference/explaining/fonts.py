"""Names in a figure: those of users, in any script, whose font may not be there."""

import unicodedata
from functools import cache

from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

from wsdan.errors import printable

FONT = "DejaVu Sans"  # comes with matplotlib
PLACEHOLDERS = "Last Resort"  # so does this font, which draws a box for every character


def fitting(text: str, longest: int) -> str:
    """The text as it can be drawn: in one line, characters that no font has escaped, and shortened
    in its middle to `longest` columns, of which a wide character, as in Chinese, takes two."""
    text = printable(text)
    missing = _fonts(text)[1]
    text = "".join(
        char.encode("unicode_escape").decode() if char in missing else char for char in text
    )
    if _columns(text) <= longest:
        return text
    head, tail = text, text
    while _columns(head) > (longest - 1) // 2:
        head = head[:-1]
    while _columns(tail) > longest // 2:
        tail = tail[1:]
    return f"{head}…{tail}"


def text_style(text: str) -> dict:
    """Arguments of matplotlib's texts: the fonts that have the characters, and no formulas, which
    a name with two dollars would be."""
    return {"fontfamily": list(_fonts(text)[0]), "parse_math": False}


@cache
def _fonts(text: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """Families of installed fonts that together have the characters, and those that none has."""
    paths: dict[str, str] = {FONT: findfont(FontProperties(family=FONT))}
    missing = set()
    for char in dict.fromkeys(text):
        if any(_has(path, char) for path in paths.values()):
            continue
        found = _search(char)
        if found is None:
            missing.add(char)
        else:
            paths[found[0]] = found[1]
    return tuple(paths), frozenset(missing)


@cache
def _search(char: str) -> tuple[str, str] | None:
    """The first family with a character, and its file; None if no installed font has it."""
    families = {entry.name: entry.fname for entry in reversed(fontManager.ttflist)}
    for name, path in families.items():
        if not name.startswith(PLACEHOLDERS) and _has(path, char):
            return name, path
    return None


def _has(path: str, char: str) -> bool:
    return get_font(path).get_char_index(ord(char)) != 0


def _columns(text: str) -> int:
    return sum(1 + (unicodedata.east_asian_width(char) in "WF") for char in text)
