"""Checkpoints: one dict, written whole or not at all, read without running any code in it."""

import dataclasses
import os
import pickle
import zipfile
from pathlib import Path

import torch

from wsdan.config import Config
from wsdan.errors import UserError

FORMAT = "wsdan-checkpoint"
VERSION = 1


def save_checkpoint(path: Path, config: Config, classes: list[str], state: dict) -> None:
    """Write `state` (tensors, numbers and text in dicts and lists) with its configuration.

    The file is complete under a temporary name before it replaces the old one.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "config": dataclasses.asdict(config),
        "classes": classes,
        **state,
    }
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict:
    """Read a checkpoint; its "config" is a Config.

    Raises UserError for a missing, truncated or foreign file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"checkpoint {path}: truncated or not ours: {reason}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"checkpoint {path}: was not written by wsdan train")
    if content["version"] > VERSION:
        raise UserError(
            f"checkpoint {path}: written by a newer wsdan (version {content['version']})"
        )
    known = {item.name for item in dataclasses.fields(Config)}
    content["config"] = Config(
        **{name: value for name, value in content["config"].items() if name in known}
    )
    return content
