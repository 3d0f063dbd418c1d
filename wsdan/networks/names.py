"""Names of backbones, read from the packages' sources, and the closest to an unknown one.

Imports no torch.
"""

import heapq
import importlib.util
import re
from collections.abc import Iterable
from difflib import SequenceMatcher
from functools import cache
from itertools import takewhile
from pathlib import Path

from wsdan.errors import UserError

# torchvision and timm declare each model as a function under this decorator.
_DECLARED = re.compile(
    r"^@register_model\b.*\n"  # the decorator
    r"(?:[@ )].*\n)*"  # further ones, over several lines
    r"def (\w+)\(",
    re.MULTILINE,
)
# timm lists former names, which it still takes, as keys of a dict.
_KEY = re.compile(r"^ +['\"](\w+)['\"]:", re.MULTILINE)


def check_name(backbone: str) -> None:
    """Raise UserError for a name that neither torchvision nor timm has, with the three closest.

    Layers and stages are not checked, nor are names of a package that is not installed:
    `build_backbone` has the last word.
    """
    if backbone == "tiny":
        return
    package, prefix = ("timm", "timm/") if backbone.startswith("timm/") else ("torchvision", "")
    model = backbone.removeprefix(prefix).partition(":")[0]
    declared, former = _model_names(package)
    name = model.partition(".")[0]  # timm takes NAME.TAG too, the tag of its weights
    if not declared or name in declared or name in former:
        return
    text = closest_text(
        model, [*declared, "tiny"] if package == "torchvision" else declared, prefix
    )
    raise UserError(f"--backbone {backbone}: {package} has no model {model!r}; {text}")


@cache
def _model_names(package: str) -> tuple[list[str], set[str]]:
    """The models that `package`.models declares, and former names of theirs among other words.

    Both are empty where the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return [], set()
    folder = Path(spec.submodule_search_locations[0]) / "models"
    # Not of subfolders: torchvision has detection, segmentation and video models there.
    paths = sorted(folder.glob("*.py"))
    sources = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    return _DECLARED.findall(sources), set(_KEY.findall(sources))


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
