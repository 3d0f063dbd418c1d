"""A run survives kill -9 at any time, signals, a full disk and a broken file."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest
import torch
from runs import (
    SMALL,
    Script,
    assert_same_end,
    environment,
    finished,
    in_fork,
    metrics_of,
    refused,
    start,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wsdan.checkpoint import NotSavedError, load_checkpoint, save_checkpoint
from wsdan.cli import main
from wsdan.config import Config
from wsdan.data import loaders
from wsdan.data.workers import ending, leave_signals_to_the_parent
from wsdan.errors import UserError
from wsdan.training.logging import RunLogger
from wsdan.training.signals import SIGNALS, StopSignals

KILLS = 20
WEIGHTS = {"model": {"weight": torch.ones(2)}}
COMMAND = [*SMALL, "--epochs", "12", "--eval-every", "4", "--save-every", "1", "--log-images", "0"]


@pytest.fixture
def few_images(monkeypatch):
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 48)
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 17)


@pytest.mark.slow
def test_kill_9_at_random_times_loses_nothing(tmp_path):
    """After each kill last.pt loads, and the run ends equal to one that was not killed."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [*COMMAND, "--out", str(killed)]
    done = finished(str(killed), str(KILLS), *command, script="killed_runs.py")
    assert done.returncode == 0, done.stderr
    held = done.stdout.splitlines()
    assert len(held) == KILLS, done.stdout
    assert any(line.startswith("epoch") for line in held)  # some were killed while training
    assert finished(*command, "--resume").returncode == 0
    assert finished(*COMMAND, "--out", str(whole)).returncode == 0
    assert_same_end(killed, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "to_all", "workers"),
    [
        (signal.SIGTERM, False, "0"), (signal.SIGINT, True, "2"), (signal.SIGTERM, True, "2"),
        (signal.SIGHUP, True, "2"),
    ],
)  # fmt: skip
def test_a_signal_saves_the_run(number, to_all, workers, tmp_path):
    """SIGTERM, and Ctrl-C and a closed terminal, which reach the loader workers too."""
    out = tmp_path / "out"
    process = start(
        *SMALL, "--epochs", "1000", "--eval-every", "1000", "--out", str(out), "--workers", workers
    )
    wait_for(out / "metrics.jsonl", process)
    (os.killpg if to_all else os.kill)(process.pid, number)
    done = process.finish()
    assert done.returncode == 128 + number, done.stderr
    assert f"wsdan: stopped by {number.name} at epoch" in done.stderr
    assert "Traceback" not in done.stderr
    epoch = load_checkpoint(out / "last.pt")["ranks"][0]["progress"]["epoch"]
    assert len(metrics_of(out)) == epoch > 0


def test_a_second_signal_ends_at_once():
    def signal_twice():
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.requested == signal.SIGTERM
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(50)

    assert in_fork(signal_twice) == -signal.SIGTERM


def test_a_closed_terminal_is_nothing_under_nohup():
    def hang_up():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.requested is None

    assert in_fork(hang_up) == 0


@pytest.mark.slow
def test_loader_workers_outlive_a_slow_step():
    """A worker that dies before the run is saved would end the run."""

    def be_signalled():
        leave_signals_to_the_parent(ending(), 0)
        for number in SIGNALS:
            os.kill(os.getpid(), number)
        assert signal.alarm(0) > 300

    assert in_fork(be_signalled) == 0


def test_a_loader_worker_is_silent_about_a_parent_that_left(capfd):
    """multiprocessing's thread that hands tensors over reports that it is gone."""

    def report():
        leave_signals_to_the_parent(ending(), 0)
        for error in (EOFError(), ConnectionResetError(), OSError("another")):
            sys.excepthook(type(error), error, None)

    assert in_fork(report) == 0
    assert capfd.readouterr().err == "OSError: another\n"


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_loader_workers_end_with_a_program_that_fails(start, tmp_path):
    """An uncaught error keeps the loader alive to the program's end, which must not wait for it."""
    script = tmp_path / "failing.py"
    script.write_text(
        "from functools import partial\n"
        "from torch.utils.data import DataLoader\n"
        "from wsdan.data.workers import ending, leave_signals_to_the_parent\n"
        "if __name__ == '__main__':\n"
        "    init = partial(leave_signals_to_the_parent, ending())\n"
        f"    loader = DataLoader(range(99), num_workers=1, multiprocessing_context={start!r},\n"
        "                        worker_init_fn=init, persistent_workers=True)\n"
        "    assert len([batch for batch in loader]) == 99\n"
        "    raise SystemError\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, env=environment(), timeout=100
    )
    assert done.stderr.strip().endswith(b"SystemError")


def wait_for(path: Path, script: Script) -> None:
    end = time.monotonic() + 180
    while not path.exists():
        assert script.process.is_alive(), script.finish()
        assert time.monotonic() < end, "no such file after three minutes"
        time.sleep(0.05)


@pytest.mark.slow
def test_no_space_keeps_the_old_checkpoint(tmp_path):
    """The kernel refuses to write beyond a file-size limit, as a full disk or a quota does."""
    out = tmp_path / "out"
    command = [*SMALL, "--out", str(out), "--log-images", "0"]
    assert finished(*command, "--epochs", "1").returncode == 0
    before = {name: (out / name).read_bytes() for name in ("last.pt", "best.pt")}
    assert len(before["last.pt"]) > 1 << 16
    done = finished(*command, "--epochs", "3", "--resume", script="small_files.py")
    assert done.returncode == 2, done.stderr
    last = f"cannot write {out}/last.pt: File too large; the earlier one is whole"
    assert done.stderr.count(f"warning: {last}") == 2  # once per epoch: the run went on
    assert "training is done, but" in done.stderr
    assert {name: (out / name).read_bytes() for name in before} == before
    assert not list(out.glob("*.tmp"))
    assert len(metrics_of(out)) == 3


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB, which only root can mount."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this machine mounts no tmpfs")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_tmpfs(few_images, small_disk, monkeypatch, capfd):
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)  # not pytest's
    command = [*SMALL, "--out", str(small_disk / "out"), "--log-images", "0", "--epochs", "1"]
    assert main(command) == 0
    with contextlib.suppress(OSError), open(small_disk / "other", "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    assert main([*command, "--epochs", "2", "--resume"]) == 2
    errors = capfd.readouterr().err
    assert "last.pt: No space left on device; the earlier one is whole" in errors
    assert all(line.startswith("wsdan: ") for line in errors.splitlines()), errors
    assert load_checkpoint(small_disk / "out/last.pt")["ranks"][0]["progress"]["epoch"] == 1
    (small_disk / "other").unlink()
    assert main([*command, "--epochs", "2", "--resume"]) == 0
    assert load_checkpoint(small_disk / "out/last.pt")["ranks"][0]["progress"]["epoch"] == 2


@pytest.mark.parametrize("function", ["torch.save", "os.fsync", "os.replace"])
def test_an_error_at_any_point_keeps_the_old_file(function, tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_checkpoint(path, Config().resolved(), ["a", "b"], {"number": 1, **WEIGHTS})

    def refuse(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(function, refuse)
        with pytest.raises(
            NotSavedError, match="No space left on device; the earlier one is whole"
        ):
            save_checkpoint(path, Config(), ["a", "b"], {"number": 2})
    assert load_checkpoint(path)["number"] == 1
    assert [item.name for item in tmp_path.iterdir()] == ["last.pt"]
    with monkeypatch.context() as patch:
        patch.setattr(function, refuse)
        with pytest.raises(NotSavedError, match="there is no earlier one"):
            save_checkpoint(tmp_path / "new.pt", Config(), ["a", "b"], {})


@pytest.mark.parametrize("content", [b"a.", b"."])
def test_a_file_that_only_looks_like_a_checkpoint_is_refused(content, tmp_path):
    """Its checksums are right, and torch.load fails with another type of error."""
    path = tmp_path / "last.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {"data.pkl": content, "byteorder": b"little", "version": b"3\n"}.items():
            archive.writestr(f"last/{name}", data)
    with pytest.raises(UserError, match="truncated or not ours"):
        load_checkpoint(path)


@pytest.mark.parametrize("missing", ["version", "config", "classes", "model"])
def test_a_checkpoint_without_a_part_is_refused(missing, tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, Config().resolved(), ["a", "b"], WEIGHTS)
    content = torch.load(path, weights_only=True)
    del content[missing]
    torch.save(content, path)
    with pytest.raises(UserError, match=f"last.pt: {missing} must be"):
        load_checkpoint(path)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "gone"])
def test_a_broken_last_resumes_from_best(damage, few_images, tmp_path, capsys):
    """A warning names the broken file and the one that is resumed from."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    command = [*SMALL, "--epochs", "2", "--out"]
    assert main([*command, str(out)]) == 0
    assert main([*command, str(whole)]) == 0
    last = out / "last.pt"
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 0xFF
    contents = {"cut": data[: len(data) // 3], "flipped": data, "empty": b""}
    last.unlink()
    if damage in contents:
        last.write_bytes(contents[damage])
    capsys.readouterr()
    assert main([*command, str(out), "--resume"]) == 0
    errors = capsys.readouterr().err
    assert f"checkpoint {last}" in errors
    assert f"going on from {out}/best.pt" in errors
    best = load_checkpoint(out / "best.pt")["ranks"][0]["progress"]["epoch"]
    if best < 2:
        assert_same_end(out, whole)
    (out / "best.pt").write_bytes(b"")
    last.write_bytes(b"")
    assert "truncated or not ours" in refused(capsys, *command, out, "--resume")


def test_a_record_that_cannot_be_written_leaves_no_partial_line(tmp_path, monkeypatch, capsys):
    """Later records are on lines of their own."""
    path, record = tmp_path / "metrics.jsonl", {"epoch": 0, "loss": 1.0, "accuracy": 2.0}
    record |= {"bad": 0, "skipped": 0, "seconds": 1.0}
    with RunLogger(tmp_path, Config(epochs=3)) as logger:
        logger.log(record)
        before = path.read_bytes()

        def refuse(_):
            assert path.read_bytes() > before  # the partial line
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", refuse)
            logger.log({**record, "epoch": 1})
        assert path.read_bytes() == before
        assert "No space left on device" in capsys.readouterr().err
        logger.log({**record, "epoch": 2})
    assert [line["epoch"] for line in metrics_of(tmp_path)] == [0, 2]


def test_tensorboard_has_each_epoch_once(few_images, tmp_path):
    """Also where a run that lost its last checkpoint had logged some of them before."""
    command = [*SMALL, "--out", str(tmp_path), "--log-images", "0", "--eval-every", "1", "--epochs"]
    assert main([*command, "1"]) == 0
    shutil.copy(tmp_path / "last.pt", tmp_path / "first.pt")
    assert main([*command, "3", "--resume"]) == 0
    (tmp_path / "first.pt").replace(tmp_path / "last.pt")
    assert main([*command, "3", "--resume"]) == 0
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    assert [event.step for event in board.Scalars("loss")] == [0, 1, 2]


def test_temporary_files_of_a_killed_run_are_removed(few_images, tmp_path):
    out = tmp_path / "out"
    command = [*SMALL, "--out", str(out), "--log-images", "0", "--epochs"]
    assert main([*command, "1"]) == 0
    for name in ("last.pt", "best.pt", "metrics.jsonl", "config.yaml"):
        (out / f"{name}.tmp").write_bytes(b"half, of an earlier version")
        (out / f"{name}.12345.tmp").write_bytes(b"half")
    assert main([*command, "1", "--resume"]) == 0  # writes nothing
    assert not list(out.glob("*.tmp"))


def test_a_folder_that_cannot_be_written(few_images, small_disk, capsys):
    """It is an error before the first step; later it is treated as a full disk."""
    save_checkpoint(small_disk / "last.pt", Config(), ["a", "b"], {"number": 1, **WEIGHTS})
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(NotSavedError, match="Read-only file system; the earlier one is whole"):
        save_checkpoint(small_disk / "last.pt", Config(), ["a", "b"], {"number": 2})
    command = [*SMALL, "--epochs", "1", "--overwrite", "--out", small_disk]
    assert f"--out: cannot write to {small_disk}" in refused(capsys, *command)
