"""What a checkpoint must hold: checked once, when it is read, whatever for.

The file may be well formed and still be wrong inside. After `check_content` only the fit of weights
and optimizer to a model is left to check.
"""

import dataclasses
import math
import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from wsdan.config import Config, from_dict
from wsdan.errors import UserError, shown
from wsdan.recipes import PLAIN, RECIPES
from wsdan.validation import LARGEST_FLOAT, check_choices, check_ranges

LARGEST_COUNT = 2**53  # of steps or images
# What "ranks" comes with: a checkpoint without it holds a model and no run.
RUN = ("optimizer", "lr_scheduler", "scaler", "step_size", "ranks")
SAME_IN_ALL_RANKS = ("epoch", "seen", "trained")
TOTALS = ("loss", "correct", "finite", "images")  # of an epoch with steps, among others
CUDA_STATE_BYTES = 16
Check = Callable[[object, str], None]


def check_content(content: dict, source: str) -> None:
    """Check a checkpoint's content, of the current version; its "config" becomes a Config.

    Raises UserError, which begins with `source` and names the entry that is wrong.
    """
    classes = content.get("classes")
    named = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    if not named or len(classes) < 2 or len(set(classes)) < len(classes):
        raise _wrong(f"{source}: classes", "a list of two or more different names", classes)
    config = content["config"] = _config(content.get("config"), f"{source}: config")
    _check_weights(content.get("model"), f"{source}: model")
    if "ema" in content:
        _check_weights(content["ema"], f"{source}: ema")
    if "data" in content:
        _check_data(content["data"], f"{source}: data")
    if "ranks" in content:
        _check_run(content, source, config)


def _config(values: object, source: str) -> Config:
    """The resolved configuration; settings that no longer exist are left out."""
    if not isinstance(values, dict):
        raise _wrong(source, "a dict", values)
    known = {item.name for item in dataclasses.fields(Config)}
    values = PLAIN | values
    config = from_dict({name: values[name] for name in known & set(values)}, source)
    missing = [name for name in RECIPES["paper"] if getattr(config, name) is None]
    if missing:
        raise UserError(f"{source} has no {', '.join(missing)}")
    try:
        check_choices(config)
        check_ranges(config)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    return config


def _check_weights(state: object, where: str) -> None:
    if not isinstance(state, dict) or not state:
        raise _wrong(where, "weights by name", state)
    for name, value in state.items():
        if not isinstance(name, str) or not _is_dense(value):
            raise _wrong(f"{where}: {shown(name)}", "a name and its tensor", value)


def _check_data(data: object, where: str) -> None:
    """The fingerprints of the splits, see wsdan/data/fingerprint.py."""
    _check_entries(data, where, dict.fromkeys(("train", "val"), _check_fingerprint))


def _check_fingerprint(value: object, where: str) -> None:
    right = _is_dense(value) and value.dtype == torch.int64
    if not right or value.dim() != 2 or value.shape[1] != 2:
        raise _wrong(where, "a tensor (n, 2) of int64", value)


def _check_run(content: dict, source: str, config: Config) -> None:
    """The state of a run, in the middle of an epoch or between two."""
    for name in RUN:
        if name not in content:
            raise UserError(f"{source} has no {name}")
    _whole(1)(content["step_size"], f"{source}: step_size")
    if "ema" in content:
        _whole(0)(content.get("ema_steps"), f"{source}: ema_steps")
    _check_optimizer(content["optimizer"], f"{source}: optimizer")
    groups = len(content["optimizer"]["param_groups"])
    rates = _list_of(_number(0), groups)
    counts = dict.fromkeys(("last_epoch", "_step_count"), _whole(0))
    schedule = {**counts, "_last_lr": rates}
    _check_entries(content["lr_scheduler"], f"{source}: lr_scheduler", schedule)
    _check_scaler(content["scaler"], f"{source}: scaler")
    ranks = content["ranks"]
    if not isinstance(ranks, list) or not ranks:
        raise _wrong(f"{source}: ranks", "a list, one entry a rank", ranks)
    for number, rank in enumerate(ranks):
        where = f"{source}: ranks: {number}"
        _check_entries(rank, where, {"rng": _check_generators, "progress": _check_progress})
        for name in SAME_IN_ALL_RANKS:
            if rank["progress"][name] != ranks[0]["progress"][name]:
                raise UserError(f"{where}: progress: {name} must be that of rank 0")
    progress, step_size = ranks[0]["progress"], content["step_size"]
    if progress["seen"] % step_size and not progress["trained"]:
        raise UserError(f"{source}: seen must be a multiple of step_size {step_size}")
    epoch = progress["epoch"]
    if epoch > config.epochs:
        raise UserError(f"{source}: epoch must be at most the {config.epochs} set; got {epoch}")


def _check_progress(progress: object, where: str) -> None:
    _check_entries(progress, where, PROGRESS)
    unknown = [name for name in progress if name not in PROGRESS]
    if unknown:
        raise UserError(f"{where}: unknown: {shown(unknown[0])}")
    for name in ("steps", "bad"):
        _whole(0, progress["seen"])(progress[name], f"{where}: {name}")
    missing = [name for name in TOTALS if name not in progress["totals"]]
    if progress["steps"] and missing:
        raise UserError(f"{where}: totals has no {', '.join(missing)}")


def _check_totals(totals: object, where: str) -> None:
    if not isinstance(totals, dict):
        raise _wrong(where, "a dict", totals)
    for name, total in totals.items():
        single = _is_dense(total) and total.dim() == 0
        if not isinstance(name, str) or not single or not bool(total.isfinite()):
            raise _wrong(f"{where}: {shown(name)}", "a finite tensor of one number", total)


def _check_generators(state: object, where: str) -> None:
    """The states of the random generators: new ones must take them."""
    _check_entries(state, where, dict.fromkeys(("torch", "cuda", "python", "numpy"), _anything))
    try:
        torch.Generator().set_state(state["torch"].cpu())
        version, words, gauss = state["python"]
        _list_of(_whole(0, 2**32 - 1), 625)(words, f"{where}: python")
        random.Random().setstate((version, tuple(words), gauss))
        name, key, position, has_gauss, cached = state["numpy"]
        _list_of(_whole(0, 2**32 - 1), 624)(key, f"{where}: numpy")
        numbers = (name, np.array(key, dtype=np.uint32), position, has_gauss, cached)
        np.random.RandomState().set_state(numbers)
    except (TypeError, ValueError, AttributeError, RuntimeError, OverflowError, LookupError):
        raise UserError(f"{where} is no state of the random generators") from None
    if gauss is not None:
        _number()(gauss, f"{where}: python")
    _whole(0, 624)(position, f"{where}: numpy")  # beyond the key, numpy would read other memory
    _whole(0, 1)(has_gauss, f"{where}: numpy")
    _number()(cached, f"{where}: numpy")
    cuda = state["cuda"]
    bytes_of_cuda = _is_dense(cuda) and cuda.dtype == torch.uint8
    if cuda is not None and not (bytes_of_cuda and cuda.shape == (CUDA_STATE_BYTES,)):
        raise _wrong(f"{where}: cuda", f"None or {CUDA_STATE_BYTES} bytes", cuda)


def _check_optimizer(state: object, where: str) -> None:
    """Its form; `load_optimizer` checks that it fits the run's own."""
    _check_entries(state, where, {"state": _anything, "param_groups": _anything})
    groups = state["param_groups"]
    if not isinstance(groups, list) or not groups:
        raise _wrong(f"{where}: param_groups", "a list of groups", groups)
    ids = []
    for group in groups:
        _check_entries(group, f"{where}: param_groups", {"params": _anything, "lr": _number(0)})
        if not isinstance(group["params"], list):
            raise _wrong(f"{where}: params", "a list", group["params"])
        ids += group["params"]
    if any(type(item) is not int for item in ids) or ids != list(range(len(ids))):
        raise _wrong(f"{where}: params", "the numbers of all parameters", groups)
    if not isinstance(state["state"], dict) or not set(state["state"]) <= set(ids):
        raise _wrong(f"{where}: state", "a dict by parameter", state["state"])
    for values in state["state"].values():
        if not isinstance(values, dict) or not all(map(_is_dense, values.values())):
            raise _wrong(f"{where}: state", "tensors by name", values)


def _check_scaler(state: object, where: str) -> None:
    """The loss scaler's state, {} where the precision is not fp16."""
    if state == {}:
        return
    factors = dict.fromkeys(("scale", "growth_factor", "backoff_factor"), _number(1e-30))
    counts = {"growth_interval": _whole(1), "_growth_tracker": _whole(0)}
    _check_entries(state, where, {**factors, **counts})


def _check_entries(values: object, where: str, checks: dict[str, Check]) -> None:
    """Raise UserError unless `values` is a dict that has these entries, each as it must be."""
    if not isinstance(values, dict):
        raise _wrong(where, "a dict", values)
    for name, check in checks.items():
        if name not in values:
            raise UserError(f"{where} has no {name}")
        check(values[name], f"{where}: {name}")


def _anything(_value: object, _where: str) -> None:
    pass


def _is_dense(value: object) -> bool:
    """Whether this is a plain tensor of real numbers that holds its values."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not (value.is_meta or value.is_quantized or value.is_nested or value.is_complex())
    )


def _whole(low: int, high: int = LARGEST_COUNT) -> Check:
    def check(value: object, where: str) -> None:
        if type(value) is not int or not low <= value <= high:
            raise _wrong(where, f"an integer in [{low}, {high}]", value)

    return check


def _number(low: float = -math.inf, high: float = math.inf) -> Check:
    def check(value: object, where: str) -> None:
        largest = {int: LARGEST_COUNT, float: LARGEST_FLOAT}.get(type(value), -1)
        if largest < 0 or not abs(value) <= largest or not low <= value <= high:
            raise _wrong(where, f"a finite number in [{low}, {high}]", value)

    return check


def _list_of(check_item: Check, length: int) -> Check:
    def check(value: object, where: str) -> None:
        if not isinstance(value, list) or len(value) != length:
            raise _wrong(where, f"a list of {length}", value)
        for item in value:
            check_item(item, where)

    return check


def _flag(value: object, where: str) -> None:
    if not isinstance(value, bool):
        raise _wrong(where, "True or False", value)


def _wrong(where: str, rule: str, value: object) -> UserError:
    return UserError(f"{where} must be {rule}; got {shown(value)}")


# The entries of training.state.Progress.
PROGRESS: dict[str, Check] = {
    "epoch": _whole(0),
    "seen": _whole(0),
    "trained": _flag,
    "best": _number(-1, 100),
    "steps": _whole(0),
    "bad": _whole(0),
    "seconds": _number(0),
    "totals": _check_totals,
}
