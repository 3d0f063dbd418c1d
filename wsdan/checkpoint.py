"""Checkpoints: one dict, written whole or not at all, read without running any code in it."""

import contextlib
import dataclasses
import os
import pickle
import zipfile
from pathlib import Path

import torch

from wsdan.config import Config
from wsdan.errors import UserError

FORMAT = "wsdan-checkpoint"
VERSION = 2
TEMPORARY = ".tmp"  # after the name of a file that is being written


class NotSavedError(UserError):
    """A checkpoint could not be written, for want of space for instance; the old one is whole."""


def save_checkpoint(path: Path, config: Config, classes: list[str], state: dict) -> None:
    """Write `state` (tensors, numbers and text in dicts and lists) with its configuration.

    The file is complete on the disk under a temporary name before it replaces the old one: whenever
    the process is killed, `path` is one or the other.

    Raises NotSavedError, and leaves the old file, where the system refuses.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "config": dataclasses.asdict(config),
        "classes": classes,
        **state,
    }
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch's writer says RuntimeError, in its own words
        with contextlib.suppress(OSError):  # a disk that has become read-only
            temporary.unlink(missing_ok=True)
        cause = error if isinstance(error, OSError) else error.__context__
        reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(error)
        kept = "the earlier one is whole" if path.exists() else "there is no earlier one"
        raise NotSavedError(f"cannot write {path}: {reason.splitlines()[0]}; {kept}") from None


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict:
    """Read a checkpoint; its "config" is a Config.

    Raises UserError for a missing, truncated, damaged or foreign file.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"checkpoint {path}: is a folder; name the file in it, such as best.pt")
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not look at the checksums
            damaged = archive.testzip()
        if damaged is not None:
            raise UserError(f"checkpoint {path}: damaged: the checksum of {damaged} is wrong")
        content = torch.load(path, map_location=device, weights_only=True)
    except UserError:
        raise
    except Exception as error:  # torch's reader raises of every kind for what others have made
        raise UserError(f"checkpoint {path}: truncated or not ours: {reason_of(error)}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"checkpoint {path}: was not written by wsdan train")
    for name, kind in {"version": int, "config": dict, "classes": list}.items():
        if not isinstance(content.get(name), kind):
            raise UserError(f"checkpoint {path}: was not written by wsdan train: no {name} in it")
    if content["version"] > VERSION:
        raise UserError(
            f"checkpoint {path}: written by a newer wsdan (version {content['version']})"
        )
    known = {item.name for item in dataclasses.fields(Config)}
    content["config"] = Config(
        **{name: value for name, value in content["config"].items() if name in known}
    )
    return content


def reason_of(error: Exception) -> str:
    """Why torch.load refused a file. Its own words on a pickle advise to run the code in it."""
    if isinstance(error, pickle.UnpicklingError):
        return (
            "it was not written by torch.save, or holds more than tensors, numbers and text "
            "(of a whole model, save the state_dict)"
        )
    return (str(error).splitlines() or [type(error).__name__])[0]


def _sync_folder(folder: Path) -> None:
    """Have the folder's entries on the disk, so that a power cut does not undo the renaming."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
