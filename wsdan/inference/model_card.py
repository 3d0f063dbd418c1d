"""The model card of a classifier: README.md as Hugging Face's hub shows it."""

from typing import Any

import yaml

from wsdan.config import Config
from wsdan.constants import NORMALIZATION
from wsdan.data.transforms import input_side
from wsdan.errors import printable
from wsdan.inference.evaluate import VIEWS
from wsdan.validation import height_and_width

MOST_CLASSES = 200  # that are listed
DATASETS = {  # names of --data, for readers who do not know them
    "synthetic": "the embedded dataset of wsdan",
    "folder": "an image folder",
    "cub": "CUB-200-2011",
    "aircraft": "FGVC-Aircraft",
    "cars": "Stanford Cars",
    "dogs": "Stanford Dogs",
    "csv": "images listed as csv",
    "webdataset": "WebDataset shards",
}
WSDAN_LINE = "A WS-DAN ([arXiv:1901.09891](https://arxiv.org/abs/1901.09891))"
_CARD = """
# {title}

{method} with the backbone {backbone} at {size} px, of {count} classes; trained by `wsdan train` on
{data}.

## Use

```python
from wsdan import Classifier

classifier = Classifier.from_pretrained("FOLDER or HUB ID")
result = classifier("image.jpg")
print(result.label, result.score, result.box)
```

Or: `wsdan predict --checkpoint FOLDER image.jpg`, and `--checkpoint hf:ID` for the hub.

## Results

{results}

## Input

`Classifier` takes images as they are. It resizes them to {side} px without keeping the aspect
ratio, crops {size} px from the center, and normalizes values in [0, 1] with the mean {mean} and the
standard deviation {std}.

## Training

{training}

## Classes

{classes}
"""


def model_card(config: Config, classes: list[str], metrics: dict[str, float]) -> str:
    """A head of YAML, and what is known of the model: only what its run measured is a result.

    metrics: of metrics.jsonl without "val_", in percent; {} where nothing is known.
    """
    method = "A plain classifier" if config.method == "baseline" else WSDAN_LINE
    if config.method != "baseline":
        method += f" of {config.num_attentions} attention maps"
    title = f"{config.backbone} {'baseline' if config.method == 'baseline' else 'WS-DAN'}"
    mean, std = NORMALIZATION[config.in_channels]
    names = ", ".join(_escaped(name) for name in classes[:MOST_CLASSES])
    rest = len(classes) - MOST_CLASSES
    text = _CARD.format(
        title=title,
        method=method,
        backbone=f"`{config.backbone}`",
        size=_size(config.input_size),
        count=len(classes),
        data=DATASETS.get(config.data, config.data),
        results=_results(metrics),
        side=_size(input_side(config.input_size, config.data == "synthetic")),
        mean=_listed(mean),
        std=_listed(std),
        training=_training(config),
        classes=f"{names} and {rest} more" if rest > 0 else names,
    )
    head = yaml.safe_dump(_head(config, title, metrics), sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n{text}"


def _head(config: Config, title: str, metrics: dict[str, float]) -> dict[str, Any]:
    head: dict[str, Any] = {
        "library_name": "wsdan",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "fine-grained", "attention", "ws-dan"],
    }
    measured = [
        {
            "type": "accuracy",
            "name": f"top-1 accuracy, {title}",
            "value": round(metrics[view] / 100, 6),
        }
        for view, title in VIEWS.items()
        if view in metrics
    ]
    if measured:
        dataset = {"name": DATASETS.get(config.data, config.data), "type": config.data}
        result = {
            "task": {"type": "image-classification"},
            "dataset": {**dataset, "split": "val"},
            "metrics": measured,
        }
        head["model-index"] = [{"name": title, "results": [result]}]
    return head


def _results(metrics: dict[str, float]) -> str:
    views = [view for view in VIEWS if view in metrics]
    if not views:
        return "Not measured: no evaluation of these weights is known."
    lines = ["| | top-1 | top-5 |", "|---|---|---|"]
    for view in views:
        top_5 = metrics.get(f"{view}_top5")
        second = "" if top_5 is None else f"{top_5:.2f} %"
        lines.append(f"| {VIEWS[view]} | {metrics[view]:.2f} % | {second} |")
    text = "Of the run's validation images"
    if "images" in metrics:
        text = f"Of the run's {metrics['images']:.0f} validation images"
    lines.append("")
    lines.append(f"{text}, at the epoch of these weights.")
    if "localised" in metrics and "boxes" in metrics:
        lines.append(
            f"The box found the object, with an intersection over union of at least 0.5, in "
            f"{metrics['localised']:.2f} % of {metrics['boxes']:.0f} images."
        )
    return "\n".join(lines)


def _training(config: Config) -> str:
    start = "From ImageNet weights, at" if config.pretrained else "At"
    steps = f"steps of {config.batch_size} x {config.accumulate} images per process"
    return (
        f"{start} most {config.epochs} epochs in {steps}, {config.optimizer}, learning rate "
        f"{config.lr:g} ({config.schedule}), weight decay {config.weight_decay:g}, label smoothing "
        f"{config.label_smoothing:g}, averaged weights {config.ema:g}, seed {config.seed}. All "
        "settings are in config.json."
    )


def _size(size: int | tuple[int, int]) -> str:
    height, width = height_and_width(size)
    return str(height) if height == width else f"{height}x{width}"


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _escaped(name: str) -> str:
    """A class's name as Markdown shows it."""
    text = printable(name)
    return "".join("\\" + char if char in "\\`*_{}[]<>#|" else char for char in text)
