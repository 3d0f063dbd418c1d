"""`wsdan train` and `wsdan eval --plots` write figures and predictions.csv; failures are told."""

import csv
import errno
import tempfile
from pathlib import Path

import pytest
import torch
from ranks import run_ranks
from runs import refused

from wsdan.cli import main
from wsdan.config import Config
from wsdan.constants import CURVES, FIGURES, PREDICTIONS
from wsdan.data import loaders
from wsdan.data.loaders import val_loader
from wsdan.data.synthetic import CLASSES
from wsdan.distributed import process_group
from wsdan.inference.evaluate import evaluate
from wsdan.inference.plots import folder as plots_folder
from wsdan.inference.plots import predictions
from wsdan.inference.plots.predictions import PredictionLog
from wsdan.networks.model import build_model

COMMAND = [
    "train", "--batch-size", "8", "--image-size", "32", "--num-attentions", "2", "--epochs", "1",
    "--log-images", "0",
]  # fmt: skip
CPU = torch.device("cpu")
WRITTEN = {*FIGURES, PREDICTIONS}


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 16)
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 19)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run that has drawn its figures."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaders, "SYNTHETIC_TRAIN", 16)
        patch.setattr(loaders, "SYNTHETIC_VAL", 19)
        assert main([*COMMAND, "--out", str(folder)]) == 0
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def rows_of(path: Path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_ends_with_its_figures(run):
    assert names(run) >= {*WRITTEN, CURVES}
    for name in (*FIGURES, CURVES):
        assert (run / name).read_bytes()[:4] == b"\x89PNG"


def test_every_image_has_a_row_in_order(run):
    rows = rows_of(run / PREDICTIONS)
    assert [row["path"] for row in rows] == [f"image {index}" for index in range(19)]
    assert [row["truth"] for row in rows] == [CLASSES[index % 16] for index in range(19)]
    for row in rows:
        assert row["prediction"] == row["class_1"] and row["score"] == row["mean_1"]
        assert 0 <= float(row["raw_5"]) <= 1 and 0 <= int(row["x1"]) < int(row["x2"]) <= 32


def test_eval_writes_them_to_a_new_folder(run, tmp_path, capsys):
    """With the curves of the run that the checkpoint lies in, and without."""
    out = tmp_path / "a" / "b"
    assert main(["eval", "--checkpoint", str(run / "last.pt"), "--plots", str(out)]) == 0
    assert names(out) == {*WRITTEN, CURVES}
    assert rows_of(out / PREDICTIONS) == rows_of(run / PREDICTIONS)
    (tmp_path / "last.pt").write_bytes((run / "last.pt").read_bytes())
    (tmp_path / "file").write_text("")
    error = refused(
        capsys, "eval", "--checkpoint", run / "last.pt", "--plots", tmp_path / "file" / "x"
    )
    assert f"--plots: {tmp_path / 'file'} is no folder" in error


def test_a_figure_that_fails_is_a_warning(run, tmp_path, monkeypatch, capsys):
    def fails(*_):
        raise RuntimeError("no\nfont")

    monkeypatch.setattr(plots_folder, "draw_confusion", fails)
    monkeypatch.setattr(plots_folder, "write_curves", lambda *_: True)  # quicker
    assert main([*COMMAND, "--out", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert "warning: the figures could not be drawn: RuntimeError: no" in captured.err
    assert "checkpoints:" in captured.out and (tmp_path / "best.pt").exists()
    assert PREDICTIONS in names(tmp_path) and "confusion.png" not in names(tmp_path)


def test_a_full_temporary_folder_is_a_warning_of_train_and_an_error_of_eval(
    run, tmp_path, monkeypatch, capsys
):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    monkeypatch.setattr(plots_folder, "write_curves", lambda *_: True)  # quicker
    command = ["eval", "--checkpoint", run / "last.pt", "--plots", tmp_path / "out"]
    error = refused(capsys, *command)
    assert "--plots: cannot write to" in error and "No space left on device" in error
    assert PREDICTIONS not in names(tmp_path / "out")
    assert main([*COMMAND, "--out", str(tmp_path / "run")]) == 0
    assert "figures could not be drawn" in capsys.readouterr().err


def test_without_plots_and_of_a_run_that_is_replaced(run, tmp_path):
    assert main([*COMMAND, "--out", str(tmp_path), "--no-plots"]) == 0
    assert not WRITTEN & names(tmp_path) and CURVES not in names(tmp_path)
    for name in (*FIGURES, CURVES, PREDICTIONS):
        (tmp_path / name).write_bytes(b"old")
    assert main([*COMMAND, "--out", str(tmp_path), "--no-plots", "--overwrite"]) == 0
    assert not WRITTEN & names(tmp_path) and CURVES not in names(tmp_path)


def logged(rank: int, folder: str) -> None:
    """Evaluate this rank's share, and write predictions.csv and the worst mistakes."""
    loaders.SYNTHETIC_VAL, predictions.CHUNK = 19, 4
    config = Config(image_size=32, num_attentions=2, batch_size=3).resolved()
    torch.manual_seed(0)
    model = build_model(config, len(CLASSES))
    with process_group(CPU):
        batches, log = val_loader(config, list(CLASSES)), PredictionLog(list(CLASSES), config, 5)
        evaluate(model, batches, config, CPU, log=log)
        worst = [(item.index, item.truth, item.result.score) for item in log.worst()]
        log.write(Path(folder, PREDICTIONS), 19)
    torch.save(worst, f"{folder}/{rank}.pt")


def test_the_worst_mistakes_are_the_surest(tmp_path):
    """Of all rows, recomputed from the table."""
    logged(0, str(tmp_path))
    worst = torch.load(tmp_path / "0.pt")
    rows = rows_of(tmp_path / PREDICTIONS)
    assert [row["path"] for row in rows] == [f"image {index}" for index in range(19)]
    wrong = [(float(row["score"]), i) for i, row in enumerate(rows)
             if row["prediction"] != row["truth"]]  # fmt: skip
    wrong.sort(key=lambda item: (-item[0], item[1]))
    assert len(wrong) > 5
    assert [score for *_, score in worst] == pytest.approx([x for x, _ in wrong[:5]], abs=1e-5)
    assert sorted(index for index, *_ in worst) == sorted(index for _, index in wrong[:5])


@pytest.mark.slow
def test_two_ranks_write_the_rows_of_one(tmp_path):
    (tmp_path / "one").mkdir()
    logged(0, str(tmp_path / "one"))
    run_ranks(logged, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first == second
    one = torch.load(tmp_path / "one" / "0.pt")
    assert [item[:2] for item in first] == [item[:2] for item in one]
    found, expected = (rows_of(folder / PREDICTIONS) for folder in (tmp_path, tmp_path / "one"))
    keys = ("path", "truth", "prediction", "x1", "y2")
    assert [[row[key] for key in keys] for row in found] == [
        [row[key] for key in keys] for row in expected
    ]
