"""The report of a checkpoint, from its evaluation to the page."""

import dataclasses
import datetime
import platform
from pathlib import Path

import torch
import torchvision
from torch.utils.data import DataLoader
from tqdm import tqdm

import wsdan_kernels
from wsdan.config import Config
from wsdan.inference.classifier import Classifier
from wsdan.inference.evaluate import VIEWS, final_accuracy
from wsdan.reporting import content
from wsdan.reporting.history import history
from wsdan.reporting.observe import Observed, observe
from wsdan.reporting.page import render
from wsdan.reporting.photographs import photographs

FEW_IMAGES = 10  # of a class, below which its accuracy says little
FIRST_PAIRS, FIRST_ERRORS = 4, 12  # that are shown at once; the others are folded
ONLY_OF_A_RUN = ("out", "resume", "overwrite", "allow_changed_data", "profile")


def report(classifier: Classifier, batches: DataLoader, checkpoint: str | Path) -> str:
    """Evaluate a classifier and return its report, a page of HTML.

    Args:
        classifier: its config is that of the evaluation. batches: of the validation images, in
            order, as `val_loader` gives them. checkpoint: its file, beside which the run's
            metrics.jsonl may be.

    Raises UserError for an unreadable image without skip_bad_images, and for no image.
    """
    config, classes = classifier.config, classifier.classes
    bar = tqdm(batches, desc="evaluating", unit="batch", leave=False, disable=None)
    observed = observe(classifier.model, bar, config, classifier.device, len(classes))
    pairs = content.confused_pairs(observed)
    metrics = observed.evaluation.metrics
    rows = content.class_rows(observed)
    shown = content.examples_of(observed, pairs)
    views = [(view, text) for view, text in VIEWS.items() if view in metrics]
    dataset = batches.dataset.dataset
    return render(
        root=config.root,
        title=_title(config, checkpoint),
        lede=_lede(observed, config),
        classes=classes,
        metrics=metrics,
        observed=observed,
        final=final_accuracy(metrics),
        final_view=VIEWS["mean"],
        interval=content.interval(observed.evaluation),
        views=views,
        errors=sum(row.images for row in rows) - int(observed.evaluation.confusion.trace()),
        rows=rows[: content.MOST_CLASSES],
        weakest=[row for row in rows if row.images][:3],
        small_classes=sum(row.images < FEW_IMAGES for row in rows),
        pairs=pairs,
        first_pairs=FIRST_PAIRS,
        first_errors=FIRST_ERRORS,
        pair_errors=sum(pair.mistakes for pair in pairs),
        photographs=photographs(classifier, dataset, shown, config.batch_size),
        refined="refined" in metrics,
        boxes_text=_boxes_text(metrics),
        curves=content.training_curves(history(checkpoint)),
        localisation=content.localisation(observed),
        calibration=content.calibration(observed.evaluation),
        facts=_facts(config, checkpoint),
        versions=_versions(classifier.device),
        settings=_settings(config),
    )


def _boxes_text(metrics: dict[str, float]) -> str:
    """What the boxes of the photographs are; nothing for a plain classifier, which has none."""
    if "refined_whole" not in metrics:
        return ""
    shown = "the refined view" if "refined" in metrics else "the mean attention"
    known = "; the dashed one is known of the image" if "boxes" in metrics else ""
    return f" The box is what {shown} shows{known}."


def _title(config: Config, checkpoint: str | Path) -> str:
    data = "embedded dataset" if config.root is None else Path(config.root).name
    return f"{data}, {Path(checkpoint).name}"


def _lede(observed: Observed, config: Config) -> str:
    metrics = observed.evaluation.metrics
    return (
        f"{metrics['images']:,} validation images of {observed.classes:,} classes, "
        f"seen by a {'WS-DAN' if config.method == 'wsdan' else 'plain'} network"
    )


def _facts(config: Config, checkpoint: str | Path) -> list[tuple[str, object]]:
    height, width = config.input_size
    network = config.backbone
    if config.method == "wsdan":
        network += f", {config.num_attentions} attention maps"
    return [
        ("checkpoint", str(checkpoint)),
        ("data", config.root or "embedded dataset"),
        ("network", network),
        ("input", f"{width} x {height} pixels"),
        ("training", f"{config.epochs} epochs, {config.optimizer}, batch {config.batch_size}"),
    ]


def _versions(device: torch.device) -> list[tuple[str, object]]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    now = datetime.datetime.now(datetime.timezone.utc)
    return [
        ("wsdan", wsdan_kernels.__version__),
        ("python", platform.python_version()),
        ("torch", torch.__version__),
        ("torchvision", torchvision.__version__),
        ("device", f"{device.type} ({name})"),
        ("made", f"{now:%Y-%m-%d %H:%M} UTC"),
    ]


def _settings(config: Config) -> list[tuple[str, object]]:
    """The settings of the evaluation, by name."""
    return [
        (name, value)
        for name, value in dataclasses.asdict(config).items()
        if name not in ONLY_OF_A_RUN
    ]
