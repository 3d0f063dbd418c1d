"""Every setting of a run, its defaults by recipe, and its checks.

A setting left None takes the value of the recipe of its data: `synthetic` is tuned so that a run
ends in under three minutes on two CPU cores, `folder` is the paper's recipe (arXiv:1901.09891
section 4.1 and the official code).
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from wsdan.data.synthetic import MIN_IMAGE_SIZE
from wsdan.errors import UserError

METHODS = ("wsdan", "baseline")
DATA = ("synthetic", "folder")
OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("step", "cosine")
ATTENTIONS = ("conv", "slice")
DEVICES = ("auto", "cpu", "cuda")

RECIPES = {
    "synthetic": {
        "backbone": "tiny",
        "image_size": 128,
        "epochs": 16,
        "batch_size": 32,
        "num_attentions": 8,
        "optimizer": "adamw",
        "lr": 8e-3,
        "classifier_lr_scale": 0.1,
        "weight_decay": 1e-2,
        "schedule": "cosine",
        "warmup": 0.1,
        "refine_threshold": 0.4,
        "refine_padding": 0.1,
        "attention_bias": -1.0,
        "eval_every": 4,
        "workers": 0,
    },
    "folder": {
        "backbone": "inception_v3",
        "image_size": 448,
        "epochs": 80,
        "batch_size": 12,
        "num_attentions": 32,
        "optimizer": "sgd",
        "lr": 1e-3,
        "classifier_lr_scale": 1.0,
        "weight_decay": 1e-5,
        "schedule": "step",
        "warmup": 0.0,
        "refine_threshold": 0.1,
        "refine_padding": 0.05,
        "attention_bias": 0.0,
        "eval_every": 1,
        "workers": 2,
    },
}
# A WS-DAN step passes three views through the network: at this many epochs a baseline has the same
# budget of passes.
VIEWS_PER_STEP = 3


def _setting(default, text: str, choices: tuple[str, ...] | None = None):
    return field(default=default, metadata={"help": text, "choices": choices})


@dataclass(frozen=True)
class Config:
    """Settings of one run. None stands for the recipe's value; `resolved` fills it in."""

    data: str = _setting("synthetic", "the embedded pictures, or an image folder", DATA)
    root: str | None = _setting(None, "folder with train/ and val/ (or test/), one folder a class")
    out: str | None = _setting(None, "output folder (default: a new numbered folder under runs/)")
    method: str = _setting(
        "wsdan", "wsdan, or the plain backbone with the same budget of passes", METHODS
    )
    backbone: str | None = _setting(None, "tiny, a torchvision model, NAME:LAYER, or timm/NAME")
    pretrained: bool = _setting(False, "start from published ImageNet weights (downloads them)")
    epochs: int | None = _setting(None, "passes over the training pictures")
    batch_size: int | None = _setting(None, "pictures a step")
    image_size: int | None = _setting(None, "side of the square input, pixels")
    num_attentions: int | None = _setting(None, "attention maps (M)")
    lr: float | None = _setting(None, "learning rate")
    seed: int = _setting(0, "of the weights, the order of the pictures and the views")
    device: str = _setting("auto", "where to run", DEVICES)
    workers: int | None = _setting(None, "processes that load pictures")
    optimizer: str | None = _setting(None, "sgd (momentum 0.9) or adamw", OPTIMIZERS)
    weight_decay: float | None = _setting(None, "weight decay")
    classifier_lr_scale: float | None = _setting(
        None, "factor on the learning rate of the classifier"
    )
    schedule: str | None = _setting(None, "step: x0.9 every 2 epochs; cosine: down to 0", SCHEDULES)
    warmup: float | None = _setting(None, "share of the steps over which the rate rises")
    attention: str = _setting(
        "conv", "maps from a 1x1 convolution, or the first channels of the features", ATTENTIONS
    )
    attention_bias: float | None = _setting(
        None, "initial bias of the attention's batch norm; below 0 the maps start sparse"
    )
    beta: float = _setting(0.05, "step of the feature centers")
    center_weight: float = _setting(1.0, "weight of the center loss")
    refine_threshold: float | None = _setting(None, "share of the mean map's peak that is object")
    refine_padding: float | None = _setting(None, "padding of the object's box, share of the side")
    skip_bad_images: bool = _setting(False, "count unreadable pictures and go on")
    eval_every: int | None = _setting(None, "epochs between evaluations")
    resume: bool = _setting(False, "go on from last.pt in --out")
    overwrite: bool = _setting(False, "replace the run in --out")
    cuda_graph: bool = _setting(
        False,
        "on a GPU, launch a whole batch's step as one CUDA graph; losses equal but for rounding",
    )
    profile: bool = _setting(False, "print where a step's time goes; on a GPU this slows the run")

    def resolved(self) -> "Config":
        """This configuration with every None that has a recipe filled in, and checked."""
        _check_choices(self)
        recipe = dict(RECIPES[self.data])
        if self.method == "baseline":
            recipe["epochs"] *= VIEWS_PER_STEP
            recipe["eval_every"] *= VIEWS_PER_STEP
        missing = {name: value for name, value in recipe.items() if getattr(self, name) is None}
        config = dataclasses.replace(self, **missing)
        _check_ranges(config)
        return config

    def to_yaml(self) -> str:
        """The settings for --config, less what belongs to one run alone."""
        settings = dataclasses.asdict(self)
        for name in ("out", "resume", "overwrite", "profile"):
            del settings[name]
        return yaml.safe_dump(settings, sort_keys=False)


def from_dict(values: dict, source: str) -> Config:
    """A Config from named values; `source` is named in errors.

    Raises UserError for an unknown name or a value of the wrong type.
    """
    fields = {item.name: item for item in dataclasses.fields(Config)}
    checked = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in fields:
            raise UserError(f"{source}: unknown setting {key!r}")
        checked[name] = _converted(fields[name], value, f"{source}: {key}")
    return Config(**checked)


def load_yaml(path: str | Path) -> dict:
    """The name: value pairs of a configuration file; `from_dict` checks them."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UserError(f"--config: cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = str(error).replace("\n", " ")
        raise UserError(f"--config: {path} is not YAML: {line}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected `name: value` lines, got {type(values).__name__}")
    return values


def value_type(item: dataclasses.Field) -> type:
    """int, float, bool or str: the type of a setting apart from None."""
    kinds = {"int": int, "float": float, "bool": bool, "str": str}
    return item.type if isinstance(item.type, type) else kinds[str(item.type).split(" | ")[0]]


def _converted(item: dataclasses.Field, value, name: str):
    if value is None:
        return item.default
    kind = value_type(item)
    if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-3 as text
        except ValueError:
            pass
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{name} must be of type {kind.__name__}, got {value!r}")
    return value


def option_name(name: str) -> str:
    """The command-line option of a setting."""
    return "--" + name.replace("_", "-")


def _check_choices(config: Config) -> None:
    for item in dataclasses.fields(config):
        value, choices = getattr(config, item.name), item.metadata["choices"]
        if choices is not None and value is not None and value not in choices:
            raise UserError(
                f"{option_name(item.name)} must be one of {', '.join(choices)}; got {value}"
            )
    if config.data == "folder" and config.root is None:
        raise UserError("--data folder needs --root, a folder with train/ and val/ (or test/)")
    if config.data == "synthetic" and config.root is not None:
        raise UserError("--root is for --data folder; the synthetic pictures need no folder")
    if config.resume and config.overwrite:
        raise UserError("--resume and --overwrite exclude each other")
    if config.cuda_graph and config.profile:
        raise UserError("--cuda-graph and --profile exclude each other: a graph has no phases")
    if (config.resume or config.overwrite) and config.out is None:
        raise UserError("--resume and --overwrite need --out, the folder of the run")


def _check_ranges(config: Config) -> None:
    at_least = {
        "epochs": 1,
        "batch_size": 1,
        "image_size": MIN_IMAGE_SIZE if config.data == "synthetic" else 1,
        "num_attentions": 1,
        "eval_every": 1,
        "workers": 0,
        "seed": 0,
        "lr": 0.0,
        "weight_decay": 0.0,
        "classifier_lr_scale": 0.0,
        "center_weight": 0.0,
        "refine_padding": 0.0,
    }
    for name, low in at_least.items():
        if not getattr(config, name) >= low:
            raise UserError(
                f"{option_name(name)} must be at least {low}; got {getattr(config, name)}"
            )
    for name in ("beta", "refine_threshold", "warmup"):
        if not 0 <= getattr(config, name) <= 1:
            raise UserError(f"{option_name(name)} must be in [0, 1]; got {getattr(config, name)}")
