"""The closest known names, for errors about an unknown one. Imports no torch."""

import heapq
from collections.abc import Iterable
from difflib import SequenceMatcher
from itertools import takewhile


def closest_names(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The `count` names that are most similar to `name`, best first.

    Equally similar names are ordered by the length of the prefix they share with `name`.
    """
    matcher = SequenceMatcher(b=name)

    def similarity(other: str) -> tuple[float, int, str]:
        matcher.set_seq1(other)
        pairs = takewhile(lambda pair: pair[0] == pair[1], zip(name, other, strict=False))
        return matcher.ratio(), len(list(pairs)), other

    return heapq.nlargest(count, known, key=similarity)


def closest_text(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of an error message: "the closest are A, B, C", each with `prefix`."""
    return "the closest are " + ", ".join(prefix + match for match in closest_names(name, known))
