"""Which backbone names there are, read from the packages' sources: torch is not imported."""

import difflib
import importlib.util
import re
from functools import cache
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
    names = closest(model, [*declared, "tiny"] if package == "torchvision" else declared, prefix)
    raise UserError(
        f"--backbone {backbone}: {package} has no model {model!r}; the closest are {names}"
    )


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


def closest(name: str, names: list[str], prefix: str = "") -> str:
    """The three of the names most like `name`, those that begin with it first, in words."""
    alike = difflib.get_close_matches(name, names, n=3, cutoff=0.0)
    longer = [item for item in names if item.startswith(name)]
    return ", ".join(prefix + item for item in dict.fromkeys([*longer, *alike][:3]))
