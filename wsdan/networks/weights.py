"""Weights from elsewhere: published ones, and files given as --weights."""

import pickle
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from wsdan.checkpoint import reason_of
from wsdan.errors import UserError

_SHOWN = 5
# Where a file holds more than weights, they are under one of these.
_WRAPPERS = ("state_dict", "model")


class _Nothing:
    """Stands for what is not wanted of a file: takes any arguments and any state, keeps none."""

    def __init__(self, *_: object):
        pass

    def __setstate__(self, _: object) -> None:
        pass


# What a pickled number or array of numpy calls, in the module's old name and the present one.
_NUMPY = [
    (_Nothing, f"numpy{name}")
    for name in (
        ".core.multiarray.scalar", "._core.multiarray.scalar", ".core.multiarray._reconstruct",
        "._core.multiarray._reconstruct", ".dtype", ".ndarray",
    )
]  # fmt: skip


@dataclass(frozen=True)
class Fetchable:
    """Published weights: `build` makes the model with them, which may download the file of `url`;
    `advice` says what to do with that file where this machine cannot fetch it."""

    build: Callable[[], nn.Module]
    url: str
    advice: str


def fetch(published: Fetchable) -> dict[str, Tensor]:
    """The published weights as a state dict. Raises UserError where they cannot be had.

    Draws no random number, so that --pretrained and --weights start alike.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            return published.build().state_dict()
    except Exception as error:  # the hub's client raises errors of its HTTP library
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--pretrained: cannot fetch {published.url} ({reason}); {published.advice}"
        ) from None


def read_file(path: str | Path, option: str, with_numpy: bool = False) -> dict:
    """The dict in a .safetensors file or one of torch.save, read without running code in it.

    with_numpy: the file may also hold numpy's numbers and arrays, which come without their value.

    Raises UserError, which names the option, for a missing, broken or foreign file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{option}: {path}: {'is a folder' if path.is_dir() else 'no such file'}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path, option)
    try:
        with torch.serialization.safe_globals(_NUMPY if with_numpy else []):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError,
        LookupError, AttributeError, TypeError,
    ) as error:  # fmt: skip
        raise UserError(f"{option}: {path}: cannot be read: {reason_of(error)}") from None
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UserError(f"{option}: {path}: must hold weights by name; got a {kind}")
    return content


def state_of(content: dict, source: str) -> dict[str, Tensor]:
    """The weights in what a file holds, without the prefix that nn.DataParallel adds.

    Raises UserError, which begins with `source`, where there are none.
    """
    inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)), content)
    others = [str(key) for key, value in inner.items() if not isinstance(value, Tensor)]
    if others or not inner:
        found = f"got also {named(others)}" if others else "got nothing"
        raise UserError(f"{source}: must hold weights by name; {found}")
    if all(key.startswith("module.") for key in inner):
        return {key.removeprefix("module."): value for key, value in inner.items()}
    return dict(inner)


def fit_weights(network: nn.Module, state: dict[str, Tensor], known: set[str], name: str) -> None:
    """Load a backbone's weights, all of them.

    known: the names of the whole model, of which `network` is a part: what is left of them, as the
    classifier, may have any shape and is not used.

    Raises UserError that names every key which is missing, unknown or of another shape.
    """
    state = {_present_name(key): value for key, value in state.items()}
    wanted = network.state_dict()
    for key in wanted:
        if key.endswith("num_batches_tracked"):  # not in files older than it
            state.setdefault(key, wanted[key])
    used = {key: value for key, value in state.items() if key in wanted}
    check_fit(used, wanted, f"--weights of --backbone {name}")
    unknown = [key for key in state if key not in wanted and key not in known]
    if unknown:
        raise UserError(f"--weights of --backbone {name}: unknown: {named(unknown)}")
    network.load_state_dict(used)


def check_fit(state: dict[str, Tensor], wanted: dict[str, Tensor], source: str) -> None:
    """Raise UserError for keys of `state` that are missing, too many or of another shape."""
    missing = [key for key in wanted if key not in state]
    unknown = [key for key in state if key not in wanted]
    wrong = [
        f"{key} {tuple(value.shape)} for {tuple(wanted[key].shape)}"
        for key, value in state.items()
        if key in wanted and value.shape != wanted[key].shape
    ]
    faults = {"missing": missing, "unknown": unknown, "of another shape": wrong}
    text = "; ".join(f"{fault}: {named(keys)}" for fault, keys in faults.items() if keys)
    if text:
        raise UserError(f"{source}: {text}")


def named(keys: list[str]) -> str:
    """The first few keys, and how many there are."""
    text = ", ".join(keys[:_SHOWN])
    return text if len(keys) <= _SHOWN else f"{text}, ... ({len(keys)} keys)"


def _read_safetensors(path: Path, option: str) -> dict:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(f"{option}: {path}: needs pip install safetensors") from None
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{option}: {path}: cannot be read: {reason_of(error)}") from None


def _present_name(key: str) -> str:
    """torchvision's files of DenseNets have their norms and convolutions as norm.1 for norm1."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key)
