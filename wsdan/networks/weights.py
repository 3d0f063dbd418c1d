"""Pretrained weights: published ones, and files given as --weights."""

import pickle
import re
import socket
import ssl
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from wsdan.checkpoint import reason_of
from wsdan.errors import UserError
from wsdan.validation import check_file

_TIMEOUT = 10.0  # seconds to wait for a server's answer
_MAX_LISTED = 5  # keys in an error message
# Keys under which training checkpoints of other programs hold the state dict.
_STATE_DICT_KEYS = ("state_dict", "model")


class _Placeholder:
    """Stands for an unpickled object that is not needed: ignores its arguments and its state."""

    def __init__(self, *_: object):
        pass

    def __setstate__(self, _: object) -> None:
        pass


# What unpickling a number or an array of numpy calls, by its old and its current module name.
_NUMPY = [
    (_Placeholder, f"numpy{name}")
    for name in (
        ".core.multiarray.scalar", "._core.multiarray.scalar", ".core.multiarray._reconstruct",
        "._core.multiarray._reconstruct", ".dtype", ".ndarray",
    )
]  # fmt: skip


@dataclass(frozen=True)
class PublishedWeights:
    """ImageNet weights that can be downloaded.

    backbone: whose. build_model: creates the model with these weights, which downloads `url` unless
    it is cached. url: of the file, "" or None where none was published. folder: where the file may
    be put by hand.
    """

    backbone: str
    build_model: Callable[[], nn.Module]
    url: str | None
    cached: bool
    folder: str | None = None


def fetch_weights(published: PublishedWeights) -> dict[str, Tensor]:
    """The published weights as a state dict; what is downloaded from where is printed.

    Does not advance the random generator, so that --pretrained and --weights give the same run.

    Raises UserError if there are none, or within about 10 s if their server cannot be reached.
    """
    others = "--weights FILE takes a file of yours, --no-pretrained starts from random weights"
    if not published.url:
        raise UserError(f"--pretrained: no weights of {published.backbone} are known; {others}")
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)  # of each wait; torch's downloader has none of its own
    try:
        if not published.cached:
            print(f"downloading {published.url}", flush=True)
            _check_reachable(published.url)
        with torch.random.fork_rng(devices=[]):
            return published.build_model().state_dict()
    except Exception as error:  # the hub client raises errors of its HTTP library
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        place = f"put the file into {published.folder}; " if published.folder else ""
        raise UserError(
            f"--pretrained: cannot fetch {published.url} ({reason}); {place}{others}"
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)


def _check_reachable(url: str) -> None:
    """Raise URLError or OSError unless the server answers: hub clients retry for half a minute."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD")).close()
    except urllib.error.HTTPError:
        pass  # it answered
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):  # a client may have other certificates
            raise


def read_weights_file(path: str | Path, option: str, with_numpy: bool = False) -> dict:
    """Load the dict of a .safetensors or torch.save file, without running code from it.

    with_numpy: the file may also hold numbers and arrays of numpy, which are not read.

    Raises UserError, which names the option, for a missing, damaged or foreign file.
    """
    path = Path(path)
    check_file(option, path)
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


def extract_state_dict(content: dict, source: str) -> dict[str, Tensor]:
    """The state dict in the content of a file, without the prefix of nn.DataParallel.

    Raises UserError, which begins with `source`, if there is none.
    """
    inner = next(
        (content[key] for key in _STATE_DICT_KEYS if isinstance(content.get(key), dict)), content
    )
    others = [str(key) for key, value in inner.items() if not isinstance(value, Tensor)]
    if others or not inner:
        found = f"got also {list_keys(others)}" if others else "got nothing"
        raise UserError(f"{source}: must hold weights by name; {found}")
    if all(key.startswith("module.") for key in inner):
        return {key.removeprefix("module."): value for key, value in inner.items()}
    return dict(inner)


def load_backbone_weights(
    network: nn.Module, state: dict[str, Tensor], model_keys: set[str], name: str
) -> None:
    """Load all weights of a backbone from the state dict of the whole model.

    model_keys: the keys of the whole model, of which `network` is a part. The others, such as the
    classifier's, are ignored, whatever their shape.

    Raises UserError that lists the keys that are missing, unknown or of another shape.
    """
    state = {_current_key(key): value for key, value in state.items()}
    wanted = network.state_dict()
    for key in wanted:
        if key.endswith("num_batches_tracked"):  # not in files of PyTorch before 0.4.1
            state.setdefault(key, wanted[key])
    used = {key: value for key, value in state.items() if key in wanted}
    check_state_dict(used, wanted, f"--weights of --backbone {name}")
    unknown = [key for key in state if key not in wanted and key not in model_keys]
    if unknown:
        raise UserError(f"--weights of --backbone {name}: unknown: {list_keys(unknown)}")
    network.load_state_dict(used)


def check_state_dict(state: dict[str, Tensor], wanted: dict[str, Tensor], source: str) -> None:
    """Raise UserError for keys of `state` that are missing, unknown or of another shape."""
    missing = [key for key in wanted if key not in state]
    unknown = [key for key in state if key not in wanted]
    wrong = [
        f"{key} {tuple(value.shape)} for {tuple(wanted[key].shape)}"
        for key, value in state.items()
        if key in wanted and value.shape != wanted[key].shape
    ]
    faults = {"missing": missing, "unknown": unknown, "of another shape": wrong}
    text = "; ".join(f"{fault}: {list_keys(keys)}" for fault, keys in faults.items() if keys)
    if text:
        raise UserError(f"{source}: {text}")


def list_keys(keys: list[str]) -> str:
    """The first few keys and the number of all, for an error message."""
    text = ", ".join(keys[:_MAX_LISTED])
    return text if len(keys) <= _MAX_LISTED else f"{text}, ... ({len(keys)} keys)"


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


def _current_key(key: str) -> str:
    """Published files of DenseNets have keys with norm.1 and conv.1 for norm1 and conv1."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key)
