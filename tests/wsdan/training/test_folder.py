"""What stands in a run's folder, or in its way: files edited by hand, folders, a full disk."""

import itertools
import os
import threading

import pytest
from runs import SMALL, metrics_of, refused
from tensorboard.summary.writer.record_writer import RecordWriter

from wsdan.cli import main
from wsdan.data import loaders


@pytest.fixture
def few_images(monkeypatch):
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 16)
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 8)


def test_a_run_resumes_despite_broken_lines(few_images, tmp_path, capsys):
    """As a kill or an editor leaves them; they are removed with a warning."""
    command = [*SMALL, "--out", str(tmp_path), "--log-images", "0", "--epochs"]
    assert main([*command, "1"]) == 0
    values = ("null", '"a"', "[0]", "NaN", "1e9", "true")
    records = [f'{{"epoch": {value}}}' for value in values]
    records += ['{"epoch": {"epoch": 0}}', "[" * 5000, '{"epoch":' * 5000, "null", "[]", "9" * 5000]
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write("\n".join(records).encode() + b"\n")
        file.write(b'{"epoch": 0, "lo{"epoch": 0, "loss": 1.0}\n{"epo}\n7\n\0\0\xff')
    capsys.readouterr()
    assert main([*command, "2", "--resume"]) == 0
    errors = capsys.readouterr().err
    assert errors.count("metrics.jsonl: lines that are no epoch's record were removed: 16\n") == 1
    assert all(line.startswith("wsdan: warning: ") for line in errors.splitlines())
    assert [line["epoch"] for line in metrics_of(tmp_path)] == [0, 1]


@pytest.mark.parametrize("name", ["last.pt", "best.pt", "metrics.jsonl", "config.yaml", "run.lock"])
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_where_a_run_writes_one_is_refused(make, name, tmp_path, capsys):
    """Before anything is read; a FIFO would be waited for."""
    make(tmp_path / name)
    for options in ([], ["--overwrite"]):
        error = refused(capsys, *SMALL, "--out", tmp_path, *options)
        assert f"--out: {tmp_path / name} is no file" in error
    assert os.listdir(tmp_path) == [name]


def test_a_folder_of_a_temporary_name_is_left_alone(few_images, tmp_path):
    names = ["last.pt.tmp", "config.yaml.tmp"]
    for name in names:
        (tmp_path / name).mkdir()
    assert main([*SMALL, "--epochs", "1", "--log-images", "0", "--out", str(tmp_path)]) == 0
    assert all((tmp_path / name).is_dir() for name in names)


@pytest.mark.parametrize("out", ["file", "file/out", "file/a/b"])
def test_an_output_folder_below_a_file_is_refused_at_the_start(out, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("wsdan.training.run.train_loader", None)  # which nothing reaches
    assert f"--out: {tmp_path / 'file'} is no folder" in refused(
        capsys, *SMALL, "--out", tmp_path / out
    )


def test_runs_that_is_a_file_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("")
    assert "--out: runs is no folder" in refused(capsys, *SMALL)


@pytest.mark.parametrize("event", [1, 2, 30])
def test_tensorboard_without_space_is_one_warning(event, few_images, tmp_path, monkeypatch, capsys):
    """Its thread fails at its first, its second or one of its last events; the run goes on."""
    write, calls = RecordWriter.write, itertools.count(1)

    def refuse(self, data):
        if next(calls) >= event:
            raise OSError(28, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(RecordWriter, "write", refuse)
    hook = threading.__excepthook__  # Python's own: pytest's would keep a traceback to itself
    monkeypatch.setattr(threading, "excepthook", hook)
    assert main([*SMALL, "--epochs", "2", "--log-images", "0", "--out", str(tmp_path)]) == 0
    assert threading.excepthook is hook
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"wsdan: warning: cannot write to {tmp_path}: ")
    assert [line["epoch"] for line in metrics_of(tmp_path)] == [0, 1]
