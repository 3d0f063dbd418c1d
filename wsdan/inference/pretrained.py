"""A classifier as a folder in the Hugging Face convention, on disk or on the hub.

config.json holds the classes, the settings and what the run measured, model.safetensors the
weights, preprocessor_config.json how images are prepared, README.md the model card.
"""

import hashlib
import json
import math
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from wsdan.checkpoint import load_checkpoint
from wsdan.checkpoint_content import check_content
from wsdan.config import Config
from wsdan.constants import NORMALIZATION
from wsdan.data.transforms import input_side
from wsdan.errors import UserError, one_line, shown
from wsdan.files import written_whole
from wsdan.inference.model_card import model_card
from wsdan.remote.addresses import RemotePath, is_remote
from wsdan.remote.store import info
from wsdan.validation import (
    HUB,
    PRETRAINED,
    check_installed,
    check_text,
    file_fault,
    height_and_width,
)

WEIGHTS, PREPROCESSOR, CARD = "model.safetensors", "preprocessor_config.json", "README.md"
FILES = (PRETRAINED, WEIGHTS, PREPROCESSOR, CARD)
FORMAT, VERSION = "wsdan-pretrained", 1
METRICS = "metrics.jsonl"  # of a run, beside its checkpoints
JSON_LIMIT = 10**7  # bytes of a file of JSON
ARCHITECTURES = {"wsdan": "WSDAN", "baseline": "PlainClassifier"}
# What belongs to one run on one machine, and is not told to others.
PRIVATE = (
    "root", "weights", "out", "resume", "overwrite", "allow_changed_data", "profile",
    "ignore_classifier", "cache",
)  # fmt: skip
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Loaded:
    """A classifier's parts, as a checkpoint or a folder of `save_pretrained` holds them.

    path: of the file or folder. weights: a state dict, the averaged one where there is one and it
    was not declined. metrics: of the validation of just these weights in their run; {} if unknown.
    """

    path: Path | RemotePath
    config: Config
    classes: list[str]
    weights: dict[str, Tensor] = field(repr=False)
    metrics: dict[str, float]


def load_parts(source: str | Path | RemotePath, *, raw_weights: bool = False) -> Loaded:
    """Read a checkpoint, a folder of `save_pretrained`, or "hf:ID" or "hf:ID@REVISION" of the hub,
    or a checkpoint behind a remote address.

    Raises UserError.
    """
    if is_remote(source):
        return _load_remote(str(source), raw_weights)
    text = os.fspath(source)
    if text.startswith(HUB):
        name, _, revision = text.removeprefix(HUB).partition("@")
        return _load_folder(_download(name, revision or None))
    if os.path.isfile(os.path.join(text, PRETRAINED)):
        return _load_folder(Path(text))
    state = load_checkpoint(text)
    weights = _weights(state, raw_weights)
    measured = weights is (state.get("ema") or state["model"])
    metrics = _metrics_beside(Path(text), state) if measured else {}
    return Loaded(Path(text), state["config"], state["classes"], weights, metrics)


def _load_remote(address: str, raw_weights: bool) -> Loaded:
    """The checkpoint of an address; its metrics are not looked for."""
    path = RemotePath(address)
    state = load_checkpoint(address)
    return Loaded(path, state["config"], state["classes"], _weights(state, raw_weights), {})


def _weights(state: dict[str, Any], raw_weights: bool) -> dict[str, Tensor]:
    averaged = state.get("ema")
    return state["model"] if raw_weights or not averaged else averaged


def signature(path: Path | RemotePath) -> list[tuple[int, int]] | str:
    """By which a checkpoint's file, or the files of a folder, are known to be as they were."""
    if isinstance(path, RemotePath):
        return info(path).stamp
    files = [path / name for name in (PRETRAINED, WEIGHTS)] if path.is_dir() else [path]
    return [(item.stat().st_mtime_ns, item.stat().st_size) for item in files]


def pretrained_folder(
    source: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """The folder of a saved classifier: `source` itself, or the hub's repository of that name,
    downloaded. Raises UserError."""
    text = os.fspath(source).removeprefix(HUB)
    check_text("from_pretrained", text)
    if os.path.isdir(text):
        if not os.path.isfile(os.path.join(text, PRETRAINED)):
            raise UserError(f"{text}: holds no {PRETRAINED}; save_pretrained writes such a folder")
        return Path(text)
    if os.path.exists(text):
        raise UserError(f"{text}: is a file; Classifier(FILE) loads a checkpoint")
    if not _HUB_ID.fullmatch(text):
        raise UserError(f"{text}: no such folder")
    return _download(text, revision, token, cache_dir)


def _download(
    name: str,
    revision: str | None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """The files of a repository of the hub, from its cache or the network. Raises UserError."""
    check_installed(f"{HUB}{name}", ("huggingface_hub", "safetensors"), "hub")
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(
            name,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            allow_patterns=list(FILES),
            library_name="wsdan",
        )
    except (OSError, ValueError, huggingface_hub.errors.EntryNotFoundError) as error:
        raise _hub_error(name, error) from None
    return Path(str(folder))


def _hub_error(name: str, error: Exception) -> UserError:
    from huggingface_hub import errors

    reasons = {
        errors.GatedRepoError: "its owner must grant you access first",
        errors.RepositoryNotFoundError: (
            "no such folder, and no such repository on the hub; for a private one: hf auth login"
        ),
        errors.RevisionNotFoundError: "the repository has no such revision",
        errors.OfflineModeIsEnabled: "HF_HUB_OFFLINE is set",
        errors.LocalEntryNotFoundError: (
            "no such folder, nor in the hub's cache, and the hub cannot be reached"
        ),
    }
    texts = [text for kind, text in reasons.items() if isinstance(error, kind)]
    text = texts[0] if texts else (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(f"{HUB}{name}: {one_line(text)}")


def save_parts(parts: Loaded, config: Config, folder: str | Path, overwrite: bool) -> None:
    """Write the four files of a classifier. config: the settings it has now; what was measured
    is written only if they are still those of its run. Raises UserError."""
    check_installed("save_pretrained", ("safetensors",), "hub")
    from safetensors.torch import save

    check_text("save_pretrained", os.fspath(folder))
    folder = Path(folder)
    there = [name for name in FILES if os.path.lexists(folder / name)]
    if there and not overwrite:
        raise UserError(f"{folder}: holds {', '.join(there)}; overwrite=True replaces them")
    weights = save(
        {name: value.contiguous() for name, value in parts.weights.items()}, {"format": "pt"}
    )
    metrics = parts.metrics if config == parts.config else {}
    contents = {
        WEIGHTS: weights,
        PREPROCESSOR: _json(preprocessing(config)),
        CARD: model_card(config, parts.classes, metrics).encode(errors="backslashreplace"),
        PRETRAINED: _json(_config_json(config, parts.classes, metrics, weights)),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            with written_whole(folder / name, "wb") as file:
                file.write(content)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from None


def upload_folder(
    name: str, folder: str, private: bool | None, token: str | bool | None, message: str
) -> str:
    """Upload a folder to the hub's repository, which is made where there is none. Returns its
    address. Raises UserError."""
    check_installed("push_to_hub", ("huggingface_hub",), "hub")
    import huggingface_hub

    try:
        api = huggingface_hub.HfApi(token=token, library_name="wsdan")
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message=message)
    except (OSError, ValueError) as error:
        raise _hub_error(name, error) from None
    return str(address)


def preprocessing(config: Config) -> dict[str, Any]:
    """How images are prepared, in the words of Hugging Face's image processors."""
    mean, std = NORMALIZATION[config.in_channels]
    side = input_side(config.input_size, config.data == "synthetic")
    sizes = dict(zip(("height", "width"), height_and_width(side), strict=True))
    crop = dict(zip(("height", "width"), config.input_size, strict=True))
    return {
        "do_convert_rgb": config.in_channels == 3,
        "do_resize": True,
        "size": sizes,
        "resample": 2,  # bilinear
        "do_center_crop": True,
        "crop_size": crop,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }


def _config_json(
    config: Config, classes: list[str], metrics: dict[str, float], weights: bytes
) -> dict[str, Any]:
    settings = {name: value for name, value in asdict(config).items() if name not in PRIVATE}
    return {
        "architectures": [ARCHITECTURES[config.method]],
        "model_type": "wsdan",
        "id2label": {str(label): name for label, name in enumerate(classes)},
        "label2id": {name: label for label, name in enumerate(classes)},
        "wsdan": {
            "format": FORMAT,
            "version": VERSION,
            "settings": settings,
            "metrics": metrics,
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
        },
    }


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _load_folder(folder: Path) -> Loaded:
    """Raises UserError for files that are missing, damaged or do not fit each other."""
    path = folder / PRETRAINED
    content = _read_json(path)
    own = content.get("wsdan")
    if not isinstance(own, dict) or own.get("format") != FORMAT:
        raise UserError(f"{path}: was not written by save_pretrained of wsdan")
    if type(own.get("version")) is not int or own["version"] != VERSION:
        raise UserError(f"{path}: version must be {VERSION}; got {shown(own.get('version'))}")
    state = {
        "classes": _classes(content.get("id2label"), path),
        "config": own.get("settings"),
        "model": _read_weights(folder / WEIGHTS, own.get("weights_sha256")),
    }
    check_content(state, str(path))
    config = state["config"]
    if os.path.lexists(folder / PREPROCESSOR):
        found = _read_json(folder / PREPROCESSOR)
        for name, value in preprocessing(config).items():
            if found.get(name) != value:
                rule = f"must be {json.dumps(value)} as {PRETRAINED} says"
                got = shown(found.get(name))
                raise UserError(f"{folder / PREPROCESSOR}: {name} {rule}; got {got}")
    metrics = _metrics(own.get("metrics", {}), path)
    return Loaded(folder, config, state["classes"], state["model"], metrics)


def _read_json(path: Path) -> dict[str, Any]:
    """Raises UserError."""
    fault = file_fault(path)
    if fault is None and path.stat().st_size > JSON_LIMIT:
        fault = f"has more than {JSON_LIMIT} bytes"
    if fault is not None:
        raise UserError(f"{path}: {fault}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold a JSON object; got {shown(content)}")
    return content


def _classes(names: object, path: Path) -> list[object]:
    """The classes of id2label, in the order of their labels; `check_content` checks the names."""
    labels = [str(label) for label in range(len(names))] if isinstance(names, dict) else []
    if not isinstance(names, dict) or set(names) != set(labels):
        raise UserError(f"{path}: id2label must have a class for each of 0, 1, ...")
    return [names[label] for label in labels]


def _read_weights(path: Path, digest: object) -> dict[str, Tensor]:
    """Raises UserError. digest: without it, a changed weight would not be seen."""
    check_installed(str(path), ("safetensors",), "hub")
    from safetensors import SafetensorError
    from safetensors.torch import load

    fault = file_fault(path)
    if fault is not None:
        raise UserError(f"{path}: {fault}")
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise UserError(f"{path}: damaged: its SHA-256 is not the one in {PRETRAINED}")
        return load(data)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {one_line(error)}") from None


def _metrics(values: object, path: Path) -> dict[str, float]:
    """Raises UserError unless these are finite numbers by name."""
    if not isinstance(values, dict) or not all(map(_is_number, values.values())):
        raise UserError(f"{path}: metrics must be finite numbers by name")
    return values


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _metrics_beside(checkpoint: Path, state: dict[str, Any]) -> dict[str, float]:
    """What the run measured with the weights of a checkpoint: the numbers of the epoch that it was
    saved at the end of, out of metrics.jsonl in its folder. {} where that is not known."""
    path = checkpoint.parent / METRICS
    ranks = state.get("ranks")
    if not ranks or file_fault(path) is not None:
        return {}
    progress = ranks[0]["progress"]
    if progress["seen"] > 0:  # within an epoch
        return {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # a line that a kill left unfinished
            continue
        if isinstance(record, dict) and record.get("epoch") == progress["epoch"] - 1:
            return {
                name.removeprefix("val_"): value
                for name, value in record.items()
                if name.startswith("val_") and _is_number(value)
            }
    return {}
