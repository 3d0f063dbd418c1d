"""One run of a row and a seed, and the file that keeps the results of all."""

import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from evidence.objectives import VARIANTS
from evidence.studies import DATA, Row
from evidence.trees import linked_tree
from harness.report import machine

from wsdan.config import Config
from wsdan.data import loaders
from wsdan.inference.evaluate import evaluate
from wsdan.recipes import PLAIN
from wsdan.training import objective
from wsdan.training.launch import pick_device
from wsdan.training.lock import RunLock
from wsdan.training.loop import train_epochs
from wsdan.training.run import Run, open_run
from wsdan.training.signals import StopSignals

# Settings that change no result, or are kept apart from the others.
NOT_KEPT = {
    "root", "out", "seed", "workers", "cache", "device", "plots", "log_images", "eval_every",
    "save_every",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Trial:
    """A row of a study, to be trained on a data set with one seed.

    Args:
        data: a key of DATA. root: of its images. weights: the file that training starts from.
        budget: passes of an image in the whole run.
        held_out: validate on a part of train/ and leave val/ alone, to choose settings.
    """

    row: Row
    data: str
    seed: int
    budget: int
    root: str | None = None
    weights: str | None = None
    held_out: bool = False

    def config(self) -> Config:
        """The resolved settings of the run, less its folder.

        Raises ValueError if the budget is not whole epochs, UserError for a wrong setting.
        """
        root = self.root or ("." if DATA[self.data].root else None)  # "." to look for results only
        common = {
            "save_every": 0, "workers": 0, "log_images": 0, "plots": False, "seed": self.seed,
            "root": root, "weights": self.weights,
        }  # fmt: skip
        config = Config(**{**common, **DATA[self.data].settings, **self.row.settings}).resolved()
        for epochs in range(1, self.budget + 1):
            config = dataclasses.replace(config, epochs=epochs, eval_every=epochs)
            if passes(config) == self.budget:
                return config
        raise ValueError(
            f"no whole number of epochs makes a budget of {self.budget} passes: {self.row.name}"
        )

    def key(self) -> dict[str, object]:
        """What its result depends on: the settings that differ from the program's defaults for any
        data, so that a setting of later versions, which is then off, does not make it another."""
        defaults = {item.name: item.default for item in dataclasses.fields(Config)} | PLAIN
        settings = {
            name: value
            for name, value in dataclasses.asdict(self.config()).items()
            if name not in NOT_KEPT and value != defaults[name]
        }
        if self.weights is not None:
            settings["weights"] = Path(self.weights).name
        return {
            "data": self.data, "held_out": self.held_out, "seed": self.seed,
            "variant": self.row.variant, "settings": settings,
        }  # fmt: skip


def passes(config: Config) -> int:
    """Of an image through the network in a whole run of a resolved configuration."""
    views = len(config.train_view_names) + (config.calmix > 0)
    return config.epochs + views * (config.epochs - config.raw_epochs)


class Results:
    """The results of trials in a JSON-lines file; a trial whose line is there is not run again."""

    def __init__(self, path: Path):
        self._path = path
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        self._records = [json.loads(line) for line in text.splitlines()]

    def find(self, trial: Trial) -> dict | None:
        """The record of a trial, or None."""
        key = trial.key()
        same = (item for item in self._records if all(item[name] == key[name] for name in key))
        return next(same, None)

    def add(self, record: dict) -> None:
        """Write a record as one more line."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self._records.append(record)


def result(trial: Trial) -> dict:
    """Train and evaluate a trial. Returns its record: the key, `metrics` with the row's own
    settings, and `views`, the metrics at each of the data set's thresholds of the refined view."""
    config, start = trial.config(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        data = DATA[trial.data]
        if trial.held_out or data.every > 1 or data.tail < 1:
            how = {"held_out": trial.held_out, "every": data.every, "tail": data.tail}
            linked_tree(Path(trial.root), Path(folder, "images"), **how)
            config = dataclasses.replace(config, root=str(Path(folder, "images")))
        config = dataclasses.replace(config, out=str(Path(folder, "run")))
        with _trained(config, trial.row) as run:
            metrics = run.evaluation[0].metrics
            if data.tail < 1:
                metrics = {**metrics, "per_class": float(run.evaluation[0].per_class.mean())}
            views = [_at(run, threshold, metrics) for threshold in DATA[trial.data].thresholds]
    return {
        **trial.key(),
        "row": trial.row.name,
        "passes": trial.budget,
        "metrics": metrics,
        "views": views if config.method == "wsdan" else [],
        "seconds": round(time.perf_counter() - start, 1),
        "machine": machine("cpu"),
    }


@contextmanager
def _trained(config: Config, row: Row) -> Iterator[Run]:
    """The trained and evaluated run of a row, by the program's own loop."""
    variant = VARIANTS[row.variant]
    device = pick_device(config.device)
    with (
        patch.object(objective, "training_views", variant.views),
        patch.object(loaders, "network_inputs", variant.inputs),
        StopSignals() as stop,
        RunLock() as lock,
    ):
        run = open_run(config, device, stop, lock)
        if variant.change is not None:
            for model in {run.state.model, run.state.eval_model()}:
                variant.change(model)
        with run.logger:
            train_epochs(run)
        yield run


def _at(run: Run, threshold: float | str, metrics: dict[str, float]) -> dict[str, object]:
    """The metrics with this threshold of the refined view; those of the run's own are known."""
    if run.config.method == "wsdan" and threshold != run.config.refine_threshold:
        config = dataclasses.replace(run.config, refine_threshold=threshold)
        metrics = evaluate(run.state.eval_model(), run.val_loader, config, run.device).metrics
    return {"threshold": threshold, **metrics}
