"""--log: metrics.csv, MLflow with a store of its own, and Weights & Biases offline."""

import csv
import importlib.util
import json

import pytest
from runs import SMALL, metrics_of, refused

from wsdan.cli import main
from wsdan.config import Config
from wsdan.data import loaders
from wsdan.training import loggers
from wsdan.training.loggers import Loggers

RECORDS = [
    {"epoch": 0, "loss": 3.0, "accuracy": 10.0, "seconds": 1.0},
    {"epoch": 1, "loss": 2.0, "accuracy": 20.0, "val_raw": 30.0, "seconds": 1.0},
    {"epoch": 2, "loss": 1.0, "accuracy": 30.0, "seconds": 1.0},
]


def logged(folder, names: str, records: list[dict]) -> None:
    """Log as a run does that begins with the first record's epoch."""
    found = Loggers(folder, Config(log=names).resolved(), records[0]["epoch"])
    for record in records:
        found.log(record)
    found.close()


def rows(folder) -> list[dict]:
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_csv_has_fixed_columns_and_each_epoch_once(tmp_path):
    logged(tmp_path, "csv", RECORDS[:2])
    logged(tmp_path, "csv", RECORDS[1:])
    found = rows(tmp_path)
    assert [row["epoch"] for row in found] == ["0", "1", "2"]
    assert [row["val_raw"] for row in found] == ["", "30.0", ""]
    assert {"val_tta", "val_localised"} <= found[0].keys()


def test_a_run_logs_to_csv(tmp_path, monkeypatch):
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 16)
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 8)
    folder = tmp_path / "run"
    command = [*SMALL, "--log-images", "0", "--out", str(folder), "--log", "csv"]
    assert main([*command, "--epochs", "2"]) == 0
    for row, record in zip(rows(folder), metrics_of(folder), strict=True):
        assert record.keys() <= row.keys()
        assert all(float(row[name]) == value for name, value in record.items())


@pytest.mark.slow
def test_mlflow(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is optional")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'store.db'}")
    logged(tmp_path, "mlflow", RECORDS[:2])
    logged(tmp_path, "mlflow", RECORDS[1:])
    client = MlflowClient()
    experiment = client.get_experiment_by_name("wsdan").experiment_id
    (run,) = client.search_runs([experiment])
    assert run.data.params["optimizer"] == "adamw"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(item.step, item.value) for item in history] == [(0, 3.0), (1, 2.0), (2, 1.0)]


@pytest.mark.slow
def test_wandb(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is optional")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logged(tmp_path, "wandb", RECORDS[:2])
    logged(tmp_path, "wandb", RECORDS[1:])
    name = json.loads((tmp_path / "loggers.json").read_text())["wandb"]
    files = list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2 and {file.stem for file in files} == {f"run-{name}"}


def test_a_logger_that_fails_is_a_warning(tmp_path, capsys, monkeypatch):
    class Broken(loggers.CsvLogger):
        def log(self, record: dict) -> None:
            raise ConnectionError("no route")

    monkeypatch.setitem(loggers.KINDS, "mlflow", Broken)
    logged(tmp_path, "mlflow,csv", RECORDS)
    assert capsys.readouterr().err == (
        "wsdan: warning: --log mlflow: no route; the run goes on without it\n"
    )
    assert len(rows(tmp_path)) == 3


def test_mistakes(tmp_path, capsys, monkeypatch):
    command = ["train", "--out", tmp_path / "run", "--log"]
    for names in ("excel", "csv,csv", "csv,", ""):
        assert "--log must be of csv, mlflow, wandb" in refused(capsys, *command, names)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install wandb" in refused(capsys, *command, "csv,wandb")
    assert not (tmp_path / "run").exists()
