"""The closest known names, for errors about an unknown one. Imports no torch."""

import heapq
import os
from collections.abc import Iterable
from difflib import SequenceMatcher


def closest_names(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The `count` names that are most similar to `name`, best first.

    Equally similar names are ordered by the length of the prefix they share with `name`.
    """
    matcher = SequenceMatcher(b=name)

    def similarity(other: str) -> tuple[float, int, str]:
        matcher.set_seq1(other)
        return matcher.ratio(), len(os.path.commonprefix([name, other])), other

    return heapq.nlargest(count, known, key=similarity)


def closest_text(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of an error message: "the closest are A, B, C", each with `prefix`."""
    return "the closest are " + ", ".join(prefix + match for match in closest_names(name, known))
