"""Whole runs of the published step and of ours: what they learn with the same budget."""

import contextlib
import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from harness import report
from learning.rounding import FastBfloat16
from learning.steps import published_step
from scipy import stats

from wsdan.config import Config
from wsdan.data.loaders import train_loader, val_loader
from wsdan.inference.evaluate import evaluate
from wsdan.networks.model import build_model
from wsdan.training.loop import to_device
from wsdan.training.optim import build_lr_scheduler, build_optimizer
from wsdan.training.state import seed_generators
from wsdan.training.step import build_step

CPU = torch.device("cpu")
KINDS = {"published": "fp32", "ours": "fp32", "ours bf16": "bf16"}  # the precision of each
VIEWS = ("raw", "refined", "mean")


class Images:
    """The batches of a seed: drawn once, the same for every kind of run."""

    def __init__(self, config: Config):
        self.config = config
        self.training, self.classes = train_loader(config)
        self.validation = val_loader(config, self.classes)


def train(images: Images, kind: str) -> dict[str, object]:
    """Train and evaluate a model of this kind. Returns a row of the results."""
    config = dataclasses.replace(images.config, precision=KINDS[kind])
    start = time.process_time()
    seed_generators(config.seed)
    model = build_model(config, len(images.classes)).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, config)
    ours = build_step(model, optimizer, config)
    step = published_step(model, optimizer) if kind == "published" else ours
    sampler = images.training.batch_sampler
    scheduler = build_lr_scheduler(optimizer, config, len(sampler))
    losses = []
    with FastBfloat16() if config.precision == "bf16" else contextlib.nullcontext():
        for epoch in range(config.epochs):
            sampler.set_epoch(epoch, 0)
            model.train()
            for batch in images.training:
                tensors, others = to_device(batch, config, CPU)
                results = step(*tensors, **others)
                scheduler.step()
            losses.append(float(results["loss"]))
        found = evaluate(model, images.validation, config, CPU).metrics
    return {
        "kind": kind,
        "seed": config.seed,
        "accuracies": {view: found[view] for view in VIEWS},
        "last_losses": losses,
        "cpu_seconds": round(time.process_time() - start, 1),
    }


@dataclass
class Results:
    """The rows of a file, to which runs are added one by one."""

    path: Path
    settings: dict[str, object]
    rows: list[dict[str, object]]

    @classmethod
    def open(cls, path: Path, settings: dict[str, object]) -> "Results":
        if not path.exists():
            return cls(path, settings, [])
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["settings"] != settings:
            raise SystemExit(f"{path} holds runs of other settings: {content['settings']}")
        return cls(path, settings, content["rows"])

    def has(self, kind: str, seed: int) -> bool:
        return any((row["kind"], row["seed"]) == (kind, seed) for row in self.rows)

    def add(self, row: dict[str, object]) -> None:
        self.rows.append(row)
        content = {**report.machine("cpu"), "settings": self.settings, "rows": self.rows}
        content["differences"] = differences(self.rows)
        self.path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def differences(rows: list[dict[str, object]]) -> dict[str, dict[str, dict[str, float]]]:
    """Of two kinds, by seed: mean of the difference in points, and half its 95 % interval."""
    found = {}
    for first, second in (("ours", "published"), ("ours bf16", "ours")):
        found[f"{first} - {second}"] = {
            view: _interval(_by_seed(rows, first, view), _by_seed(rows, second, view))
            for view in VIEWS
        }
    return found


def _by_seed(rows: list[dict[str, object]], kind: str, view: str) -> dict[int, float]:
    return {row["seed"]: row["accuracies"][view] for row in rows if row["kind"] == kind}


def _interval(first: dict[int, float], second: dict[int, float]) -> dict[str, float]:
    """Student's interval of the mean of the paired differences."""
    pairs = torch.tensor(
        [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())],
        dtype=torch.float64,
    )
    count = len(pairs)
    if count < 2:
        return {"seeds": count}
    half = stats.t.ppf(0.975, count - 1) * float(pairs.std()) / count**0.5
    return {"seeds": count, "mean": float(pairs.mean()), "half_interval": half}


def table(rows: list[dict[str, object]]) -> str:
    """Accuracies in percent, mean and spread over the seeds, and the differences, as Markdown."""
    lines = ["| step | seeds | raw | refined | mean |", "|---|---|---|---|---|"]
    for kind in KINDS:
        columns = [
            torch.tensor(list(_by_seed(rows, kind, view).values()), dtype=torch.float64)
            for view in VIEWS
        ]
        if len(columns[0]) > 1:
            cells = [f"{float(c.mean()):.1f} ± {float(c.std()):.1f}" for c in columns]
            lines.append(f"| {kind} | {len(columns[0])} | {' | '.join(cells)} |")
    for name, views in differences(rows).items():
        if all("mean" in item for item in views.values()):
            cells = [f"{i['mean']:+.1f} ± {i['half_interval']:.1f}" for i in views.values()]
            lines.append(f"| {name} | {views['raw']['seeds']} | {' | '.join(cells)} |")
    return "\n".join(lines)
