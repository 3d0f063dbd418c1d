"""State dicts in files of other programs: reading them, and finding the one that fits a network."""

import warnings
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wsdan.checkpoint import reason_of
from wsdan.errors import UserError
from wsdan.validation import check_file

_MAX_LISTED = 5  # keys in an error message
_MAX_SHOWN = 60  # characters of each
# Keys under which training checkpoints of other programs hold the state dict.
_STATE_DICT_KEYS = ("state_dict", "model")
_COUNT = "num_batches_tracked"  # not in files of PyTorch before 0.4.1


class _Placeholder:
    """Stands for an unpickled object that is not needed: ignores its arguments and its state."""

    def __init__(self, *_: object):
        pass

    def __setstate__(self, _: object) -> None:
        pass


# What unpickling the options of a script, or a number or an array of numpy, calls; numpy's by their
# old and their current module names.
_HARMLESS = [
    (_Placeholder, name)
    for name in (
        "argparse.Namespace", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
        "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct", "numpy.dtype",
        "numpy.ndarray",
    )
]  # fmt: skip


@dataclass(frozen=True)
class StateDicts:
    """The state dicts of a file.

    source: names the file in messages. named: by their key in the file, "" if the file is one.
    key: the one that was asked for, or the prefix within one; None to take the only one that fits.
    """

    source: str
    named: dict[str, dict[str, Tensor]]
    key: str | None = None


@dataclass(frozen=True)
class Fit:
    """A state dict of a file, and the prefix without which its keys are those of a network."""

    name: str
    prefix: str
    state: dict[str, Tensor]

    @property
    def path(self) -> str:
        """NAME.PREFIX, by which it can be asked for."""
        return f"{self.name}.{self.prefix}".strip(".")


def read_weights_file(path: str | Path, option: str) -> dict:
    """Load the dict of a .safetensors or torch.save file, without running code from it.

    Options of a script (argparse.Namespace) and numpy's numbers and arrays are left out.

    Raises UserError, which names the option, for a missing, damaged or foreign file.
    """
    path = Path(path)
    check_file(option, path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path, option)
    try:
        _check_zip(path)
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old storages and of sparse tensors
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises exceptions of many types for foreign files
        raise UserError(f"{option}: {path}: cannot be read: {reason_of(error)}") from None
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UserError(f"{option}: {path}: must hold weights by name; got a {kind}")
    return content


def _check_zip(path: Path) -> None:
    """Raise BadZipFile for a wrong checksum, which torch.load does not check."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")


def find_state_dicts(content: dict, source: str, key: str | None = None) -> StateDicts:
    """The state dicts in the content of a file: those it holds by name, or the content itself.

    Raises UserError, which begins with `source`, if there is none, for a name that is no text, and
    for tensors that hold no plain values.
    """
    named = {
        str(name): value
        for name, value in content.items()
        if isinstance(value, dict)
        and value
        and all(isinstance(tensor, Tensor) for tensor in value.values())
    }
    if not named:
        named = {"": _only_tensors(content, source)}
    for state in named.values():
        for name, tensor in state.items():
            if not isinstance(name, str):
                kind = type(name).__name__
                raise UserError(f"{source}: must hold weights by name; got a name of type {kind}")
            if (kind := _kind(tensor)) is not None:
                raise UserError(
                    f"{source}: {shown(name)} is a {kind} tensor; plain ones are needed"
                )
    return StateDicts(source, named, key)


def _only_tensors(content: dict, source: str) -> dict:
    """The content, or what it holds by a usual name. Raises UserError unless it is a state dict."""
    inner = next(
        (content[key] for key in _STATE_DICT_KEYS if isinstance(content.get(key), dict)), content
    )
    others = [str(key) for key, value in inner.items() if not isinstance(value, Tensor)]
    if others or not inner:
        found = f"got also {list_keys(others)}" if others else "got nothing"
        raise UserError(f"{source}: must hold weights by name; {found}")
    return inner


def _kind(tensor: Tensor) -> str | None:
    """What keeps a tensor from being the values of a parameter; None for a plain one."""
    kinds = {
        "nested": tensor.is_nested,
        "meta": tensor.is_meta,
        "quantized": tensor.is_quantized,
        "sparse": tensor.layout not in (torch.strided, torch.jagged),
        "complex": tensor.is_complex(),
    }
    return next((kind for kind, holds in kinds.items() if holds), None)


def the_only_one(dicts: StateDicts) -> dict[str, Tensor]:
    """The state dict that was asked for, or the only one. Raises UserError."""
    if dicts.key is not None and dicts.key in dicts.named:
        return dicts.named[dicts.key]
    if dicts.key is not None:
        raise UserError(
            f"{dicts.source}: holds no {shown(dicts.key)}; it holds {list_keys(dicts.named)}"
        )
    if len(dicts.named) > 1:
        raise UserError(_several(dicts, list(dicts.named)))
    return next(iter(dicts.named.values()))


def choose_fit(dicts: StateDicts, wanted: dict[str, Tensor]) -> Fit:
    """The state dict with all the keys `wanted`, in their shapes, behind a common prefix.

    Where none fits, the one with most of these keys. Raises UserError if there is nothing of the
    name asked for, or if several fit and none was asked for.
    """
    needed = {key for key in wanted if not key.endswith(_COUNT)}
    fits = [fit for name, state in dicts.named.items() for fit in _near_fits(name, state, needed)]
    if dicts.key is not None:
        asked = [fit for fit in fits if _is_called(fit, dicts.key)]
        if not asked:
            names = [fit.path for fit in fits if fit.path]
            found = f"; it holds {list_keys(names)}" if names else ""
            raise UserError(f"{dicts.source}: holds nothing called {shown(dicts.key)}{found}")
        fits = asked
    matching = [fit for fit in fits if _matches(fit, wanted, needed)]
    if len(matching) > 1:
        names = [fit.name for fit in matching]
        whole = len(set(names)) == len(names) and "" not in names
        raise UserError(_several(dicts, names if whole else [fit.path for fit in matching]))
    if matching:
        return matching[0]
    return max(fits, key=lambda fit: sum(fit.prefix + key in fit.state for key in needed))


def _near_fits(name: str, state: dict[str, Tensor], needed: set[str]) -> list[Fit]:
    """The prefixes before more than half of the needed keys of a state dict, else the best one."""
    counts = Counter({"": 0})
    depth = max(key.count(".") for key in needed)
    for key in state:
        *head, tail = key.rsplit(".", depth + 1)  # head: what no needed key is long enough for
        parts = [*head, tail] if len(head) <= depth else [*head[1:], tail]
        for start in range(len(parts)):
            suffix = ".".join(parts[start:])
            if suffix in needed:
                counts[key.removesuffix(suffix)] += 1
    best, _ = counts.most_common(1)[0]
    chosen = [prefix for prefix, count in counts.items() if 2 * count > len(needed)] or [best]
    return [Fit(name, prefix, state) for prefix in chosen]


def _is_called(fit: Fit, key: str) -> bool:
    """Whether `key` is its name, or begins its prefix, with or without the name before it."""
    return key == fit.name or any(
        f"{text.rstrip('.')}.".startswith(f"{key.rstrip('.')}.") for text in (fit.prefix, fit.path)
    )


def _matches(fit: Fit, wanted: dict[str, Tensor], needed: set[str]) -> bool:
    found = {key: fit.state.get(fit.prefix + key) for key in needed}
    return all(
        value is not None and value.shape == wanted[key].shape for key, value in found.items()
    )


def _several(dicts: StateDicts, names: list[str]) -> str:
    names = sorted(dict.fromkeys(names))
    return f"{dicts.source}: holds {list_keys(names)}; name one as FILE:{shown(names[0])}"


def check_state_dict(state: dict[str, Tensor], wanted: dict[str, Tensor], source: str) -> None:
    """Raise UserError for keys of `state` that are missing, unknown or of another shape."""
    missing = [shown(key) for key in wanted if key not in state]
    unknown = [shown(key) for key in state if key not in wanted]
    wrong = [
        f"{shown(key)} {tuple(value.shape)} for {tuple(wanted[key].shape)}"
        for key, value in state.items()
        if key in wanted and value.shape != wanted[key].shape
    ]
    faults = {"missing": missing, "unknown": unknown, "of another shape": wrong}
    text = "; ".join(f"{fault}: {_list(keys)}" for fault, keys in faults.items() if keys)
    if text:
        raise UserError(f"{source}: {text}")


def list_keys(keys: list[str] | dict[str, object]) -> str:
    """The first few keys and the number of all, for an error message."""
    return _list([shown(key) for key in keys])


def _list(texts: list[str]) -> str:
    text = ", ".join(texts[:_MAX_LISTED])
    return text if len(texts) <= _MAX_LISTED else f"{text}, ... ({len(texts)} keys)"


def shown(key: str) -> str:
    """A name out of a file, for a message of one line."""
    text = key if key.isprintable() else ascii(key)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


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
