"""What --log adds to a run's own logs: metrics.csv, MLflow and Weights & Biases.

A logger has `log(record)` and `close()`. A record is logged once: one of an epoch that is there
already, as after a kill between logging and saving, is left out.
"""

import csv
import dataclasses
import json
import os
import time
import uuid
from pathlib import Path

from wsdan.config import Config
from wsdan.errors import one_line
from wsdan.files import written_whole
from wsdan.inference.evaluate import VIEWS
from wsdan.output import warn

TABLE, RUNS_ELSEWHERE = "metrics.csv", "loggers.json"
PROJECT = "wsdan"
EVALUATION = (
    *(f"val_{view}{end}" for view in VIEWS for end in ("", "_top5")),
    *(f"val_{name}" for name in ("images", "bad", "boxes", "localised", "refined_whole")),
    *(f"val_{name}" for name in ("refined_area", "confidence", "ece", "undecided")),
    "seconds",
)  # columns that the first epochs may lack


class CsvLogger:
    """metrics.csv in the run's folder: a row an epoch, the same columns for the whole run; what an
    epoch lacks is empty."""

    def __init__(self, folder: Path, config: Config, epoch: int):
        self._path = folder / TABLE
        self._rows: list[dict] = []
        self._columns: list[str] = []
        # Terms of the loss that the first epochs may lack (--views-after), and an evaluation's.
        views = config.train_view_names + (("mix",) if config.calmix > 0 else ())
        self._later = (*views, *EVALUATION)
        if self._path.exists():
            with open(self._path, newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self._rows = [row for row in reader if int(row["epoch"]) < epoch]
                self._columns = list(reader.fieldnames or [])

    def log(self, record: dict) -> None:
        self._columns = self._columns or list(dict.fromkeys((*record, *self._later)))
        self._rows.append(record)
        with written_whole(self._path) as file:
            writer = csv.DictWriter(file, self._columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows)

    def close(self) -> None:
        """Nothing is open."""


class MlflowLogger:
    """A run of MLflow, of the store that its environment variables name."""

    def __init__(self, folder: Path, config: Config, epoch: int):
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._metric, self._client = Metric, MlflowClient()
        self._run, new = _remembered(folder, "mlflow"), False
        if self._run is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found = self._client.get_experiment_by_name(name)
            experiment = found.experiment_id if found else self._client.create_experiment(name)
            self._run = self._client.create_run(experiment, run_name=folder.name).info.run_id
            _remember(folder, "mlflow", self._run)
            new = True
        if new:
            params = [Param(key, str(value)) for key, value in _settings(config).items()]
            self._client.log_batch(self._run, params=params)
        history = self._client.get_metric_history(self._run, "loss")
        self._next = max((item.step for item in history), default=-1) + 1
        self._client.update_run(self._run, status="RUNNING")

    def log(self, record: dict) -> None:
        if record["epoch"] < self._next:
            return
        now = int(1000 * time.time())
        metrics = [self._metric(k, float(v), now, record["epoch"]) for k, v in record.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._run)


class WandbLogger:
    """A run of Weights & Biases, as its environment variables say (WANDB_MODE=offline: a file)."""

    def __init__(self, folder: Path, config: Config, epoch: int):
        import wandb

        name = _remembered(folder, "wandb")
        if name is None:
            name = uuid.uuid4().hex[:8]
            _remember(folder, "wandb", name)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=name,
            name=folder.name,
            dir=str(folder),
            resume="allow",
            config=_settings(config),
        )

    def log(self, record: dict) -> None:
        if record["epoch"] >= self._run.step:
            self._run.log(record, step=record["epoch"])

    def close(self) -> None:
        self._run.finish()


KINDS = {"csv": CsvLogger, "mlflow": MlflowLogger, "wandb": WandbLogger}


class Loggers:
    """The loggers of --log. One that fails is a warning and is not used any more."""

    def __init__(self, folder: Path, config: Config, epoch: int):
        self._loggers: dict[str, CsvLogger | MlflowLogger | WandbLogger] = {}
        for name in (config.log or "").split(",") if config.log else ():
            try:
                self._loggers[name] = KINDS[name](folder, config, epoch)
            except Exception as error:  # whatever a client raises ends no run
                _warn(name, error)

    def log(self, record: dict) -> None:
        """Log an epoch's record."""
        for name in list(self._loggers):
            try:
                self._loggers[name].log(record)
            except Exception as error:  # as above
                _warn(name, error)
                del self._loggers[name]

    def close(self) -> None:
        """End the loggers' runs."""
        for name, logger in self._loggers.items():
            try:
                logger.close()
            except Exception as error:  # as above
                _warn(name, error)


def _warn(name: str, error: Exception) -> None:
    warn(f"--log {name}: {one_line(error) or type(error).__name__}; the run goes on without it")


def _settings(config: Config) -> dict:
    return dataclasses.asdict(config)


def _remembered(folder: Path, name: str) -> str | None:
    """The name of this run at a service, which a resumed run goes on with."""
    path = folder / RUNS_ELSEWHERE
    return json.loads(path.read_text(encoding="utf-8")).get(name) if path.exists() else None


def _remember(folder: Path, name: str, run: str) -> None:
    path = folder / RUNS_ELSEWHERE
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    with written_whole(path) as file:
        json.dump({**known, name: run}, file)
