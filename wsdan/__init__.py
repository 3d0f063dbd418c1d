"""WS-DAN (arXiv:1901.09891): attention-guided fine-grained classification.

The public names are imported at their first use, so that `wsdan --help` need not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsdan.config import Config
    from wsdan.inference.classifier import Classifier
    from wsdan.inference.evaluate import evaluate
    from wsdan.inference.results import Result
    from wsdan.networks.model import WSDAN
    from wsdan.training.loop import train
    from wsdan.training.objective import wsdan_objective

__all__ = ["WSDAN", "Classifier", "Config", "Result", "evaluate", "train", "wsdan_objective"]

_MODULES = {
    "WSDAN": "wsdan.networks.model",
    "Classifier": "wsdan.inference.classifier",
    "Config": "wsdan.config",
    "Result": "wsdan.inference.results",
    "evaluate": "wsdan.inference.evaluate",
    "train": "wsdan.training.loop",
    "wsdan_objective": "wsdan.training.objective",
}


if not TYPE_CHECKING:  # else a checker would take any name

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module 'wsdan' has no attribute {name!r}")
        return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
