"""The published settings: a YAML file each, and the figure that was published for it.

They are part of the package, so that `wsdan reproduce` finds them wherever it is installed.
"""

from pathlib import Path
from typing import NamedTuple

from wsdan.errors import UserError

FOLDER = Path(__file__).parent


class Published(NamedTuple):
    """What was published for a setting.

    dataset: its name. images: of the test. accuracy: top-1 in percent; None where nothing is
    published. score: what it is of, a name of wsdan.inference.evaluate.VIEWS. source: where it
    stands. differs: lines on how the published set-up differs from the setting.
    """

    dataset: str
    images: int
    accuracy: float | None
    score: str
    source: str
    differs: tuple[str, ...]


_WSDAN = (
    "published by the official TensorFlow code, from its ImageNet weights; here torchvision's",
    "one published run; epoch and checkpoint of the figure are not stated",
)
_FIRST_CONV = ("published maps start from the weights of Mixed_7a's first branch; here at random",)
_CAL = (
    "published with four processes of 4 images and synchronized batch norm, as torchrun "
    "--nproc-per-node 4 with --batch-size 4 --sync-batchnorm; by default one process of 16",
    "published from torchvision's first ImageNet weights (resnet101-63fe2227.pth, for --weights); "
    "here from its newest",
    "published figures are of the epoch, and of the better of two scores, that are best on the "
    "test images: compare with the best epoch",
)
_CALNC = (
    "published learning rates were chosen among 0.03, 0.01, 0.003 and 0.001 on held-out images, "
    "and which it was is not stated; here 0.01, the default of the code",
    "published with autocast to fp16 (--precision fp16), gradients clipped to norm 1, rates that "
    "end at 1e-5, images resized to 300 px (bicubic) and no colour jitter; here 256 px, bilinear",
    "the size is the default of the code, 224 px; the table does not state it",
    "published boxes are of maps resized bicubically",
)
_MODERN = ("a setting of this project, of which nothing is published",)

_PAPER = "arXiv:1901.09891"
_CAL_PAPER = "arXiv:2108.08728"
_CALMIX_PAPER = "arXiv:2605.18700, table 3 (CAL-NC)"
_CUB = ("CUB-200-2011", 5794)
_AIRCRAFT = ("FGVC-Aircraft", 3333)
_CARS = ("Stanford Cars", 8041)
_DOGS = ("Stanford Dogs", 8580)

SETTINGS = {
    "cub-wsdan-inception448": Published(*_CUB, 89.4, "mean", _PAPER, _WSDAN + _FIRST_CONV),
    "aircraft-wsdan-inception448": Published(
        *_AIRCRAFT, 93.0, "mean", _PAPER, _WSDAN + _FIRST_CONV
    ),
    "cars-wsdan-inception448": Published(*_CARS, 94.5, "mean", _PAPER, _WSDAN + _FIRST_CONV),
    "dogs-wsdan-inception448": Published(*_DOGS, 92.2, "mean", _PAPER, _WSDAN),
    "cub-cal-resnet101": Published(*_CUB, 90.6, "tta", _CAL_PAPER, _CAL),
    "aircraft-cal-resnet101": Published(*_AIRCRAFT, 94.2, "tta", _CAL_PAPER, _CAL),
    "cars-cal-resnet101": Published(*_CARS, 95.5, "tta", _CAL_PAPER, _CAL),
    "cub-calnc-convnextb224": Published(*_CUB, 91.54, "raw", _CALMIX_PAPER, _CALNC),
    "aircraft-calnc-convnextb224": Published(*_AIRCRAFT, 92.80, "raw", _CALMIX_PAPER, _CALNC),
    "cub-calnc-swinb224": Published(*_CUB, 90.75, "raw", _CALMIX_PAPER, _CALNC),
    "aircraft-calnc-swinb224": Published(*_AIRCRAFT, 91.60, "raw", _CALMIX_PAPER, _CALNC),
    "cub-modern-convnextb384": Published(*_CUB, None, "mean", "-", _MODERN),
    "aircraft-modern-convnextb384": Published(*_AIRCRAFT, None, "mean", "-", _MODERN),
    "cub-modern-swinb384": Published(*_CUB, None, "mean", "-", _MODERN),
    "aircraft-modern-swinb384": Published(*_AIRCRAFT, None, "mean", "-", _MODERN),
}


def setting_name(name: str) -> str:
    """The setting of this name; a dataset (cub, aircraft, cars, dogs) stands for its first one.

    Raises UserError for an unknown name, with those that there are.
    """
    found = next((full for full in SETTINGS if name in (full, full.partition("-")[0])), None)
    if found is None:
        raise UserError(f"no setting {name!r}; there are {', '.join(SETTINGS)}")
    return found


def setting_file(name: str) -> Path:
    """The YAML file of a setting, as --config takes it."""
    return FOLDER / f"{name}.yaml"
