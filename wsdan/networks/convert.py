"""`wsdan convert`: converts checkpoints of other implementations, recognized by their keys."""

import dataclasses
from pathlib import Path

from torch import Tensor, nn

from wsdan.checkpoint import FORMAT, save_checkpoint
from wsdan.config import Config
from wsdan.constants import NORMALIZATION
from wsdan.errors import UserError
from wsdan.networks.model import build_model
from wsdan.networks.published import Converted, from_sequential, from_wvinzh
from wsdan.networks.state_dicts import (
    check_state_dict,
    find_state_dicts,
    list_keys,
    read_weights_file,
    the_only_one,
)
from wsdan.validation import split_weights

# How the training logs of the two name their losses.
_LOSSES = {"guyuc": ("Drop Acc", "(Drop) Loss"), "cal": ("Aux Acc",)}
_ANCHORS = ("fc_new.weight", "attentions.conv.weight")  # in the files of all three
_LOG_BYTES = 2**22


def convert(
    source: str,
    out: str,
    classes: str | None = None,
    origin: str | None = None,
    image_size: int | str | None = None,
) -> str:
    """Convert the checkpoint `source` to a wsdan checkpoint `out`; returns a one-line summary.

    classes: a file of class names, one per line in label order, or CUB's classes.txt with lines
    `1 001.Name`; without it they are "0", "1" and so on. origin: "guyuc" or "cal", for a file that
    may be from either. image_size: pixels, or text HEIGHTxWIDTH, of the images it was
    trained on; the file does not hold it, and without it the paper's 448 is taken.

    Raises UserError for a file that cannot be converted, listing the unknown and missing weights.
    """
    if Path(out).exists():
        raise UserError(f"--out: {out} exists already")
    source, key = split_weights(source)
    content = read_weights_file(source, "convert")
    if content.get("format") == FORMAT:
        raise UserError(f"convert: {source} is a checkpoint of ours already")
    found = the_only_one(find_state_dicts(content, f"convert: {source}", key))
    state = {
        key: value.float() if value.is_floating_point() else value
        for key, value in _without_prefix(found).items()
    }
    if "fc_new.weight" in state:
        converted, centers = from_wvinzh(state, source), content.get("center")
    else:
        origin = origin or _origin(content.get("logs"), state, Path(source))
        converted = from_sequential(state, origin, source)
        centers = content.get("feature_center")
    count = len(converted.state_dict["classifier.weight"])
    first = next(value for value in state.values() if value.dim() == 4)  # a convolution of images
    start = {
        "data": "folder", "root": source, "pretrained": False, "image_size": image_size,
        "precision": "fp32",  # so that it predicts what the published code does
    }  # fmt: skip
    if first.shape[1] in NORMALIZATION:
        start["in_channels"] = first.shape[1]
    config = Config(**start, **converted.settings).resolved()
    config = dataclasses.replace(config, root=None)  # the path of the images is unknown
    names = _class_names(classes, count)
    model = build_model(config, count)
    _load(model, converted.state_dict, centers, source)
    save_checkpoint(Path(out), config, names, {"model": model.state_dict()})
    return _summary(config, converted, count, centers)


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what stands before the source's own names, such as module. of nn.DataParallel."""
    prefixes = {
        key.removesuffix(name)
        for name in _ANCHORS
        for key in state
        if f".{key}".endswith(f".{name}")
    }
    prefix = prefixes.pop() if len(prefixes) == 1 else ""
    state = {key.removeprefix(prefix): value for key, value in state.items()}
    state.pop("n_averaged", None)  # of torch's AveragedModel
    return state


def _origin(logs: object, state: dict[str, Tensor], source: Path) -> str:
    """Which of two implementations with the same keys wrote the file: the classifier of CAL has no
    bias, and the log in the file, or the log files beside it, name the losses."""
    if "fc.bias" in state:
        return "guyuc"
    text = logs.get("train_info") if isinstance(logs, dict) else None
    found = _origins_in(text) if isinstance(text, str) else set()
    if not found:
        found = set().union(*(_origins_in(_read_log(path)) for path in source.parent.glob("*.log")))
    if len(found) == 1:
        return found.pop()
    raise UserError(
        f"convert: {source} may be of WS-DAN.PyTorch or of CAL, which name their weights alike; "
        "pass --origin guyuc or --origin cal"
    )


def _origins_in(text: str) -> set[str]:
    return {origin for origin, words in _LOSSES.items() if any(word in text for word in words)}


def _read_log(path: Path) -> str:
    """The beginning of a log file, which has an epoch's losses within it; "" if unreadable."""
    try:
        with open(path, "rb") as file:
            return file.read(_LOG_BYTES).decode(errors="replace")
    except OSError:  # another file's, as likely as not: --origin is asked for
        return ""


def _class_names(path: str | None, count: int) -> list[str]:
    if path is None:
        return [str(label) for label in range(count)]
    try:
        names = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--classes: cannot read {path}: {error}") from None
    names = _without_numbers([name.strip() for name in names if name.strip()])
    if len(set(names)) != count or len(names) != count:
        different = f"{len(names)} names, {len(set(names))} of them different"
        raise UserError(f"--classes: {path} must have {count} different names; got {different}")
    return names


def _without_numbers(lines: list[str]) -> list[str]:
    """The names of lines `NUMBER NAME` that are numbered from 0 or 1 on; else the lines."""
    pairs = [line.partition(" ") for line in lines]
    if not all(number.isdecimal() and name for number, _, name in pairs):
        return lines
    names = {int(number): name.strip() for number, _, name in pairs}
    first = min(names, default=0)
    if first > 1 or sorted(names) != list(range(first, first + len(lines))):
        return lines
    return [names[number] for number in sorted(names)]


def _load(model: nn.Module, state: dict[str, Tensor], centers: object, source: str) -> None:
    """Load converted weights and, unless None, the centers (N,M*C)."""
    wanted = model.state_dict()
    defaults = {key: value for key, value in wanted.items() if key.endswith("num_batches_tracked")}
    defaults["centers.centers"] = wanted["centers.centers"]
    if centers is not None:
        if not isinstance(centers, Tensor):
            kind = type(centers).__name__
            raise UserError(f"convert: {source}: the centers must be a tensor; got a {kind}")
        defaults["centers.centers"] = centers.float()
    state = {**defaults, **state}
    check_state_dict(state, wanted, f"convert: {source}")
    model.load_state_dict(state)


def _summary(config: Config, converted: Converted, count: int, centers: object) -> str:
    text = f"{config.backbone}, {config.num_attentions} maps ({config.attention}), {count} classes"
    text += f", {config.image_size} px"
    text += ", no centers: they start at 0" if centers is None else ", centers"
    if converted.unused:
        text += f"; left out, as unused by the source itself: {list_keys(converted.unused)}"
    return text
