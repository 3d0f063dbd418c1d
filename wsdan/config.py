"""Every setting of a run, its defaults by recipe, and its checks.

A setting left None takes the value of the run's recipe, see wsdan/recipes.py.
"""

import dataclasses
import difflib
import pkgutil
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from wsdan.constants import AUTO, MAX_PIXELS
from wsdan.errors import UserError, shown
from wsdan.recipes import NAMES, PLAIN, table
from wsdan.validation import (
    check_choices,
    check_ranges,
    check_text,
    check_together,
    height_and_width,
    image_size,
    threshold,
)

METHODS = ("wsdan", "baseline")
# One reader for each layout of a dataset on disk: the modules of wsdan/data/readers.
_READERS = pkgutil.iter_modules([str(Path(__file__).parent / "data" / "readers")])
DATA = ("synthetic", *(module.name for module in _READERS if not module.name.startswith("_")))
OPTIMIZERS = ("sgd", "adamw")
SAMPLERS = ("shuffled", "balanced")
SCHEDULES = ("step", "exponential", "cosine")
ATTENTIONS = ("conv", "conv3x3", "slice")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("fp32", "bf16", "fp16", "auto")
CACHES = ("ram", "disk")
DECODERS = ("cpu", "gpu")
FINAL = ("probabilities", "logits")
VIEWS = ("all", "raw")
TRAIN_VIEWS = ("crop+drop", "crop", "drop")
RENAMED = {"pictures": "log_images"}  # settings of earlier versions, and what they are called now
# Settings of which a text means something: how it is read, and the rule in words.
TEXTS = {
    "image_size": (image_size, "N or HEIGHTxWIDTH"),
    "refine_threshold": (threshold, f"a number or {AUTO}"),
}
UNPUBLISHED = "tiny"  # the backbone that has no published weights
ORIGINS = ("guyuc", "cal")  # of published checkpoints whose weights have the same names

# The settings' headings in the help, each from the setting named on.
GROUPS = {
    "data": "data",
    "method": "network",
    "epochs": "training",
    "eval_every": "evaluation",
    "device": "hardware",
    "out": "run",
}
# Settings of the views, which a baseline has of no recipe.
OF_VIEWS = ("counterfactual", "joint_views", "train_views", "views_after")


def _setting(
    default, text: str, choices: tuple[str, ...] | None = None, metavar: str | None = None
):
    return field(default=default, metadata={"help": text, "choices": choices, "metavar": metavar})


@dataclass(frozen=True)
class Config:
    """Settings of one run. None stands for the recipe's value; `resolved` fills it in."""

    data: str = _setting(
        "synthetic",
        "the embedded dataset, an image folder, a published dataset, csv or WebDataset lists",
        DATA,
    )
    root: str | None = _setting(
        None,
        "the dataset's folder, or an address such as s3://BUCKET/DIR; of --data folder: train/ and "
        "val/ (or test/), one folder per class",
        metavar="DIR",
    )
    image_size: int | str | None = _setting(
        None, "side of the square input in pixels, or HEIGHTxWIDTH", metavar="N"
    )
    zoom: float = _setting(
        1.0,
        "cut crops and refined views out of images of up to N times the input's side",
        metavar="N",
    )
    in_channels: int = _setting(3, "channels of the input: 1 (grey), 3 (RGB) or 4 (RGBA)")
    workers: int | None = _setting(None, "processes that load images")
    cache: str | None = _setting(
        None, "keep decoded and resized images in memory or in a file", CACHES
    )
    decode: str = _setting("cpu", "where JPEG files are decoded", DECODERS)
    skip_bad_images: bool = _setting(
        False, "skip unreadable images and damaged parts of shards, and count them"
    )
    max_pixels: int = _setting(
        MAX_PIXELS, "pixels of the largest image that is decoded; the default is Pillow's limit"
    )
    allow_empty: bool = _setting(False, "allow class folders without an image")
    recipe: str = _setting(
        "paper",
        "defaults for photographs: WS-DAN's and CAL's as published, or a modern fine-tuning; the "
        "embedded dataset has its own",
        NAMES,
    )
    method: str = _setting(
        "wsdan", "wsdan, or the plain backbone with the same number of forward passes", METHODS
    )
    backbone: str | None = _setting(
        None, "tiny, a torchvision model, NAME:LAYER, timm/NAME or timm/NAME:STAGE"
    )
    pretrained: bool | None = _setting(
        None,
        "start from published ImageNet weights, downloaded once; not with --weights nor for tiny",
    )
    weights: str | None = _setting(
        None,
        "start from a file: weights of the backbone, or a checkpoint of wsdan train; FILE:KEY if "
        "it holds several",
        metavar="FILE",
    )
    ignore_classifier: bool = _setting(
        False, "with --weights: skip the classifier and the centers, to fine-tune on other classes"
    )
    freeze: int | None = _setting(
        None,
        "first epochs in which the backbone's weights and batch norm statistics stay as they are",
    )
    drop_path: float | None = _setting(
        None,
        "stochastic depth of the backbone: its last block's rate, to which the others rise "
        "(default: the network's own)",
    )
    num_attentions: int | None = _setting(None, "attention maps (M)")
    attention: str = _setting(
        "conv",
        "attention maps from a 1x1 or 3x3 convolution, or the first channels of the features",
        ATTENTIONS,
    )
    attention_bias: float | None = _setting(
        None, "initial bias of the attention head's batch norm; below 0 the maps start sparse"
    )
    pool_eps: float | None = _setting(None, "epsilon of the pooling's signed square root")
    epochs: int | None = _setting(None, "epochs over the training images")
    batch_size: int | None = _setting(None, "images per step and process")
    accumulate: int = _setting(1, "batches whose gradients are accumulated into one step")
    seed: int = _setting(0, "random seed of the weights, the shuffling and the views")
    sampler: str = _setting(
        "shuffled",
        "images of an epoch: all once, or as many of each class, those of small ones repeatedly",
        SAMPLERS,
    )
    class_weights: float = _setting(
        0.0,
        "weigh the cross-entropies by class, by the effective number of images (arXiv:1901.05555); "
        "nearly 1: by 1 / images; 0: all alike",
    )
    optimizer: str | None = _setting(None, "sgd (momentum 0.9) or adamw", OPTIMIZERS)
    lr: float | None = _setting(None, "learning rate")
    classifier_lr_scale: float | None = _setting(None, "factor on the classifier's learning rate")
    weight_decay: float | None = _setting(None, "weight decay")
    layer_decay: float | None = _setting(
        None,
        "factor on the learning rate from each layer of the backbone to the one before it; 1: none",
    )
    schedule: str | None = _setting(
        None,
        "step: x0.9 every 2 epochs; exponential: as much, but at every step; cosine: down to 0",
        SCHEDULES,
    )
    warmup: float | None = _setting(
        None, "fraction of the steps with linear warm-up of the learning rate"
    )
    label_smoothing: float | None = _setting(None, "label smoothing of the cross-entropies")
    ema: float | None = _setting(
        None, "decay of the exponential moving average of the weights, which is evaluated; 0: none"
    )
    beta: float = _setting(0.05, "update rate of the feature centers")
    center_weight: float = _setting(1.0, "weight of the center loss")
    counterfactual: float | None = _setting(
        None, "weight of the counterfactual loss (CAL, arXiv:2108.08728); 0: none"
    )
    calmix: float = _setting(
        0.0,
        "weight of a fourth view, in which two images of a class exchange boxes (CALMix, "
        "arXiv:2605.18700: 1); 0: none",
    )
    joint_views: bool | None = _setting(
        None, "pass the crop and the drop view through the network as one batch"
    )
    train_views: str | None = _setting(
        None, "views that a training step passes beside the raw one", TRAIN_VIEWS
    )
    views_after: float | None = _setting(
        None,
        "fraction of the epochs that train on the raw view alone, before the others begin",
    )
    max_skipped: int = _setting(
        10, "consecutive steps without a finite loss after which the run ends"
    )
    eval_every: int | None = _setting(None, "epochs between evaluations")
    refine_threshold: float | str | None = _setting(
        None,
        "threshold of the refined view's box, as a fraction of the mean map's maximum; auto: of "
        "each image, by Otsu's method",
        metavar="X|auto",
    )
    refine_smoothing: int | None = _setting(
        None,
        "cells on a side over which the mean map is averaged before its box is found; odd; 1: none",
    )
    refine_padding: float | None = _setting(
        None, "padding of the refined view's box, as a fraction of the image's side"
    )
    views: str = _setting(
        "all",
        "views that are classified: raw and refined, or raw alone, for which the network runs once",
        VIEWS,
    )
    final: str | None = _setting(None, "average the views' probabilities or their logits", FINAL)
    tta: bool | None = _setting(
        None, "test-time augmentation: several refined views, and all views flipped horizontally"
    )
    log_images: int = _setting(4, "images whose views are logged to TensorBoard; 0: none")
    device: str = _setting("auto", "device to run on", DEVICES)
    precision: str | None = _setting(
        None,
        "precision of the network; bf16, and fp16 with loss scaling, by autocast; auto: bf16 where "
        "the hardware multiplies it fast",
        PRECISIONS,
    )
    compile: bool = _setting(False, "compile the network with torch.compile")
    cuda_graph: bool = _setting(
        False,
        "on a GPU, run the training step as one CUDA graph; losses equal up to rounding",
    )
    sync_batchnorm: bool = _setting(False, "synchronize batch norm over all processes")
    profile: bool = _setting(
        False, "print the time of each phase of a step; slows the run on a GPU"
    )
    out: str | None = _setting(
        None, "output folder (default: a new numbered folder under runs/)", metavar="DIR"
    )
    mirror: str | None = _setting(
        None,
        "copy the run's checkpoints to an address, such as s3://BUCKET/RUN, after each is written",
        metavar="ADDRESS",
    )
    log: str | None = _setting(
        None,
        "also log to csv (metrics.csv in the folder), mlflow or wandb; several: csv,mlflow",
        metavar="NAMES",
    )
    save_every: int | None = _setting(
        None, "steps between checkpoints within an epoch; 0: only at its end"
    )
    plots: bool = _setting(
        True, "at the end, draw curves, confusion matrix, calibration and worst mistakes into --out"
    )
    resume: bool = _setting(False, "resume from last.pt in --out")
    overwrite: bool = _setting(False, "replace the run in --out")
    allow_changed_data: bool = _setting(
        False, "with --resume: go on within an epoch although the training images changed"
    )

    def resolved(self) -> "Config":
        """This configuration with every None that has a recipe filled in, and checked."""
        check_choices(self)
        check_together(self)
        recipe = table(self.data, self.recipe)
        recipe["pretrained"] &= self.weights is None and self.backbone != UNPUBLISHED
        if self.method == "baseline":
            # One pass a step: as many more epochs as the recipe's views need. With --calmix a step
            # has one view more; the baseline stays as it is.
            views, alone = len(view_names(recipe["train_views"])), recipe["views_after"]
            recipe["epochs"] += views * (recipe["epochs"] - int(alone * recipe["epochs"]))
            recipe["eval_every"] *= 1 + views
            recipe |= {name: PLAIN[name] for name in OF_VIEWS}
        missing = {name: value for name, value in recipe.items() if getattr(self, name) is None}
        config = dataclasses.replace(self, **missing)
        check_ranges(config)
        return config

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the network's input, pixels."""
        return height_and_width(self.image_size)

    @property
    def train_view_names(self) -> tuple[str, ...]:
        """The views of a training step beside the raw one; none in a baseline's."""
        return view_names(self.train_views) if self.method == "wsdan" else ()

    @property
    def raw_epochs(self) -> int:
        """The first epochs, on the raw view alone."""
        return int(self.views_after * self.epochs)

    def to_yaml(self) -> str:
        """The settings for --config, less what belongs to one run alone."""
        settings = dataclasses.asdict(self)
        for name in ("out", "resume", "overwrite", "allow_changed_data", "profile"):
            del settings[name]
        return yaml.safe_dump(settings, sort_keys=False)


def view_names(train_views: str) -> tuple[str, ...]:
    """The names that a value of `train_views` is made of."""
    return tuple(train_views.split("+"))


def from_dict(values: dict, source: str) -> Config:
    """A Config from named values: see `settings_of`."""
    return Config(**settings_of(values, source))


def settings_of(values: dict, source: str) -> dict:
    """The named values as the fields of Config that they set; `source` is named in errors.

    Raises UserError for an unknown name or a value of the wrong type.
    """
    fields = {item.name: item for item in dataclasses.fields(Config)}
    checked = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        name = RENAMED.get(name, name)
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"; the nearest is {near[0]}" if near else ""
            raise UserError(f"{source}: unknown setting {shown(key)}{hint}")
        checked[name] = _converted(fields[name], value, f"{source}: {key}")
    return checked


def check_given(values: dict) -> None:
    """Raise UserError for options that replace a checkpoint's settings and are out of range."""
    values = {"root": ".", **values, "data": "folder"}
    from_dict(values, "command line").resolved()


def value_type(item: dataclasses.Field) -> type:
    """int, float, bool or str: the type of a setting apart from None."""
    kinds = {"int": int, "float": float, "bool": bool, "str": str}
    return item.type if isinstance(item.type, type) else kinds[str(item.type).split(" | ")[0]]


def _converted(item: dataclasses.Field, value, name: str):
    if value is None:
        return item.default
    kind = value_type(item)
    if item.name in TEXTS and isinstance(value, str):
        read, rule = TEXTS[item.name]
        try:
            return read(value)
        except ValueError:
            raise UserError(f"{name} must be {rule}, got {shown(value)}") from None
    if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-3 as text
        except (ValueError, OverflowError):
            pass
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{name} must be of type {kind.__name__}, got {shown(value)}")
    if kind is str:
        check_text(name, value)
    return value
