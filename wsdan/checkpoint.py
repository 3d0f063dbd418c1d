"""Checkpoints: one dict in a file, written atomically and read without executing pickled code."""

import dataclasses
import json
import pickle
import re
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from wsdan.checkpoint_content import check_content
from wsdan.config import RENAMED, Config
from wsdan.errors import UserError, shown
from wsdan.files import written_whole
from wsdan.remote.addresses import RemotePath, is_remote
from wsdan.remote.files import local_copy
from wsdan.validation import check_checkpoint_file, check_installed

FORMAT = "wsdan-checkpoint"
SAFETENSORS = ".safetensors"  # the suffix of a file of weights, config and classes without a run
VERSION = 3  # 3 renamed what `_upgrade` lists; 1 and 2 can still be read
_REFUSED = re.compile(r"GLOBAL ([\w.]{1,100})")  # the class that torch.load refuses to make


class NotSavedError(UserError):
    """A checkpoint could not be written, e.g. to a full disk; the old file is intact."""


def save_checkpoint(path: Path, config: Config, classes: list[str], state: dict) -> None:
    """Write `state` (tensors, numbers and text in dicts and lists) with its configuration.

    If the process is killed, `path` is either the old file or the new one.

    Raises NotSavedError, and leaves the old file, if the system refuses.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "config": dataclasses.asdict(config),
        "classes": classes,
        **state,
    }
    try:
        with written_whole(path, "wb") as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError
        cause = error if isinstance(error, OSError) else error.__context__
        reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(error)
        kept = "the earlier one is whole" if path.exists() else "there is no earlier one"
        raise NotSavedError(f"cannot write {path}: {reason.splitlines()[0]}; {kept}") from None


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict:
    """Read a checkpoint, of this or an earlier version; its "config" is a Config. path: of a file,
    or a remote address.

    Raises UserError for a missing, truncated, damaged or foreign file, and for one whose content is
    wrong, see `check_content`.
    """
    if isinstance(path, str) and is_remote(path):
        return _load_remote(path, device)
    path = Path(path)
    check_checkpoint_file(path)
    read = _read_safetensors if path.suffix == SAFETENSORS else _read_archive
    try:
        content = read(path, device)
    except UserError:
        raise
    except Exception as error:  # torch.load raises exceptions of many types for foreign files
        raise UserError(f"checkpoint {path}: truncated or not ours: {reason_of(error)}") from None
    check_any_version(content, path)
    return content


def _load_remote(address: str, device: torch.device | str) -> dict:
    """The same of the object of an address; messages name the address."""
    with local_copy(RemotePath(address)) as copy:
        try:
            return load_checkpoint(copy, device)
        except UserError as error:
            raise UserError(str(error).replace(str(copy), address)) from None


def _read_archive(path: Path, device: torch.device | str) -> object:
    """What save_checkpoint wrote."""
    with zipfile.ZipFile(path) as archive:  # torch.load does not check the checksums
        damaged = archive.testzip()
    if damaged is not None:
        raise UserError(f"checkpoint {path}: damaged: the checksum of {damaged} is wrong")
    return torch.load(path, map_location=device, weights_only=True)


def _read_safetensors(path: Path, device: torch.device | str) -> object:
    """What save_safetensors wrote, as a checkpoint without a run."""
    check_installed(f"checkpoint {path}", ("safetensors",), "export")
    from safetensors import safe_open

    with safe_open(path, framework="pt", device=str(device)) as file:
        content = json.loads((file.metadata() or {}).get(FORMAT, "null"))
        if isinstance(content, dict):
            content["model"] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return content


def save_safetensors(
    path: Path, config: Config, classes: list[str], weights: dict[str, Tensor]
) -> None:
    """Write a model's weights as a .safetensors file that load_checkpoint reads too.

    Its metadata is JSON under the name "wsdan-checkpoint": format, version, config and classes.
    Raises NotSavedError, and leaves an old file, if the system refuses.
    """
    from safetensors.torch import save

    about = {"format": FORMAT, "version": VERSION, "config": dataclasses.asdict(config)}
    text = json.dumps({**about, "classes": classes})
    data = save(
        {name: value.contiguous() for name, value in weights.items()},
        {"format": "pt", FORMAT: text},  # "pt" is what other readers of such files look for
    )
    try:
        with written_whole(path, "wb") as file:
            file.write(data)
    except OSError as error:
        raise NotSavedError(f"cannot write {path}: {error.strerror}") from None


def check_any_version(content: object, path: str | Path) -> None:
    """Check what the file `path` holds, and bring it to the current version in place.

    Raises UserError.
    """
    if not isinstance(content, dict) or not _is_ours(content.get("format")):
        raise UserError(f"checkpoint {path}: was not written by wsdan train")
    version = content.get("version")
    if type(version) is not int or version < 1:
        raise UserError(f"checkpoint {path}: version must be an integer; got {shown(version)}")
    if version > VERSION:
        raise UserError(f"checkpoint {path}: written by a newer wsdan (version {shown(version)})")
    if version < 3:
        try:
            _upgrade(content)
        except (AttributeError, KeyError, TypeError):
            raise UserError(f"checkpoint {path}: was not written by wsdan train") from None
    check_content(content, f"checkpoint {path}")


def _is_ours(name: object) -> bool:
    return isinstance(name, str) and name == FORMAT  # a tensor compares by element


def _upgrade(content: dict) -> None:
    """Rename in place what versions 1 and 2 called otherwise."""
    _rename(content, "schedule", "lr_scheduler")
    for old, new in RENAMED.items():
        _rename(content["config"], old, new)
    for rank in content.get("ranks", []):
        _rename(rank["progress"]["totals"], "pictures", "images")


def _rename(values: dict, old: str, new: str) -> None:
    if old in values:
        values[new] = values.pop(old)


def reason_of(error: Exception) -> str:
    """Why torch.load refused a file, without its advice on a pickle to execute the code in it."""
    if isinstance(error, pickle.UnpicklingError):
        refused = _REFUSED.search(str(error))
        if refused is not None:
            return (
                f"it holds a {refused[1]}; only tensors, numbers and text are read (of a whole "
                "model, save the state_dict)"
            )
        return "it was not written by torch.save, or is damaged"
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
