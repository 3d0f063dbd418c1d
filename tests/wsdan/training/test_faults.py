"""What must not lose a run: kill -9 at any moment, signals, a full disk, a broken file."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from runs import SCRIPTS, SMALL, assert_same_end, environment, metrics_of, refused, start
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wsdan.checkpoint import NotSavedError, load_checkpoint, save_checkpoint
from wsdan.cli import main
from wsdan.config import Config
from wsdan.data import loaders
from wsdan.errors import UserError
from wsdan.training.logging import RunLogger

KILLS = 20
COMMAND = [*SMALL, "--epochs", "12", "--eval-every", "4", "--save-every", "1", "--log-images", "0"]


@pytest.fixture
def few_images(monkeypatch):
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 48)
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 17)


def finished(command: list[str], script: str = "few_images.py") -> subprocess.CompletedProcess:
    """A run of the command to its end, in a process of its own."""
    process = start(*command, script=script)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def test_kill_9_at_random_moments_loses_nothing(tmp_path):
    """However often it is killed, last.pt loads, the run gets on, and ends as one left alone."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [*COMMAND, "--out", str(killed)]
    runner = [sys.executable, str(SCRIPTS / "killed_runs.py"), str(killed), str(KILLS), *command]
    done = subprocess.run(runner, capture_output=True, text=True, env=environment(), timeout=300)
    assert done.returncode == 0, done.stderr
    held = done.stdout.splitlines()
    assert len(held) == KILLS, done.stdout
    assert any(line.startswith("epoch") for line in held)  # some were killed in the midst of it
    assert finished([*command, "--resume"]).returncode == 0
    assert finished([*COMMAND, "--out", str(whole)]).returncode == 0
    assert_same_end(killed, whole)


@pytest.mark.parametrize(
    ("number", "to_all", "workers"),
    [(signal.SIGTERM, False, "0"), (signal.SIGINT, True, "2"), (signal.SIGTERM, True, "2")],
)
def test_a_signal_saves_and_says_so(number, to_all, workers, tmp_path):
    """Ctrl-C, which the terminal sends to the loading processes too, and SIGTERM."""
    out = tmp_path / "out"
    process = start(
        *SMALL, "--epochs", "1000", "--eval-every", "1000", "--out", str(out), "--workers", workers
    )
    wait_for(out / "metrics.jsonl", process)
    (os.killpg if to_all else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 128 + number, errors
    assert f"wsdan: stopped by {number.name} at epoch" in errors
    assert "Traceback" not in errors
    epoch = load_checkpoint(out / "last.pt")["ranks"][0]["progress"]["epoch"]
    assert len(metrics_of(out)) == epoch > 0


def test_a_second_signal_ends_at_once(tmp_path):
    code = (
        "import os, signal, time\n"
        "from wsdan.training.signals import StopSignals\n"
        "with StopSignals() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    assert stop.requested == signal.SIGTERM\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), timeout=50)
    assert done.returncode == -signal.SIGTERM


def test_loading_processes_outlive_a_slow_step():
    """One that dies before the run is saved takes it along."""
    code = (
        "import os, signal\n"
        "from wsdan.training.signals import ending, leave_signals_to_the_parent\n"
        "leave_signals_to_the_parent(ending(), 0)\n"
        "for number in (signal.SIGTERM, signal.SIGINT):\n"
        "    os.kill(os.getpid(), number)\n"
        "assert signal.alarm(0) > 300\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment(), timeout=50
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_loading_processes_end_with_a_program_that_fails(start, tmp_path):
    """What an error holds lives on to the program's end, which must not wait for them."""
    script = tmp_path / "failing.py"
    script.write_text(
        "from functools import partial\n"
        "from torch.utils.data import DataLoader\n"
        "from wsdan.training.signals import ending, leave_signals_to_the_parent\n"
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


def wait_for(path: Path, process: subprocess.Popen) -> None:
    end = time.monotonic() + 180
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "the run has not come that far in three minutes"
        time.sleep(0.05)


def test_no_space_keeps_the_old_checkpoint(tmp_path):
    """The kernel refuses what a file has above a limit, as a full disk or a quota does."""
    out = tmp_path / "out"
    command = [*SMALL, "--out", str(out), "--log-images", "0"]
    assert finished([*command, "--epochs", "1"]).returncode == 0
    before = {name: (out / name).read_bytes() for name in ("last.pt", "best.pt")}
    assert len(before["last.pt"]) > 1 << 16
    done = finished([*command, "--epochs", "3", "--resume"], script="small_files.py")
    assert done.returncode == 2, done.stderr
    last = f"cannot write {out}/last.pt: File too large; the earlier one is whole"
    assert done.stderr.count(f"warning: {last}") == 2  # an epoch each: it went on
    assert "the run is over, but" in done.stderr
    assert {name: (out / name).read_bytes() for name in before} == before
    assert not list(out.glob("*.tmp"))
    assert len(metrics_of(out)) == 3


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB, which only root mounts."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this machine mounts no tmpfs")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_tmpfs(few_images, small_disk, capfd):
    command = [*SMALL, "--out", str(small_disk / "out"), "--log-images", "0", "--epochs", "1"]
    assert main(command) == 0
    with contextlib.suppress(OSError), open(small_disk / "other", "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    assert main([*command, "--epochs", "2", "--resume"]) == 2
    errors = capfd.readouterr().err
    assert "last.pt: No space left on device; the earlier one is whole" in errors
    assert load_checkpoint(small_disk / "out/last.pt")["ranks"][0]["progress"]["epoch"] == 1
    (small_disk / "other").unlink()
    assert main([*command, "--epochs", "2", "--resume"]) == 0
    assert load_checkpoint(small_disk / "out/last.pt")["ranks"][0]["progress"]["epoch"] == 2


@pytest.mark.parametrize("moment", ["torch.save", "os.fsync", "os.replace"])
def test_a_refusal_at_any_moment_keeps_the_old_file(moment, tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_checkpoint(path, Config(), ["a", "b"], {"number": 1})

    def refuse(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"wsdan.checkpoint.{moment}", refuse)
        with pytest.raises(
            NotSavedError, match="No space left on device; the earlier one is whole"
        ):
            save_checkpoint(path, Config(), ["a", "b"], {"number": 2})
    assert load_checkpoint(path)["number"] == 1
    assert [item.name for item in tmp_path.iterdir()] == ["last.pt"]
    with monkeypatch.context() as patch:
        patch.setattr(f"wsdan.checkpoint.{moment}", refuse)
        with pytest.raises(NotSavedError, match="there is no earlier one"):
            save_checkpoint(tmp_path / "new.pt", Config(), ["a", "b"], {})


@pytest.mark.parametrize("content", [b"a.", b"."])
def test_a_file_that_only_looks_like_a_checkpoint_is_refused(content, tmp_path):
    """Its checksums are right; torch's reader fails in a way of its own."""
    path = tmp_path / "last.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {"data.pkl": content, "byteorder": b"little", "version": b"3\n"}.items():
            archive.writestr(f"last/{name}", data)
    with pytest.raises(UserError, match="truncated or not ours"):
        load_checkpoint(path)


@pytest.mark.parametrize("missing", ["version", "config", "classes"])
def test_a_checkpoint_without_a_part_is_refused(missing, tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, Config(), ["a", "b"], {})
    content = torch.load(path, weights_only=True)
    del content[missing]
    torch.save(content, path)
    with pytest.raises(UserError, match=f"no {missing} in it"):
        load_checkpoint(path)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "gone"])
def test_a_broken_last_goes_on_from_best(damage, few_images, tmp_path, capsys):
    """Not silently: which file is broken, and where the run goes on, is said."""
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


def test_a_line_that_the_disk_refuses_leaves_nothing_of_itself(tmp_path, monkeypatch, capsys):
    """Those written later stand by themselves."""
    path, record = tmp_path / "metrics.jsonl", {"epoch": 0, "loss": 1.0, "accuracy": 2.0}
    record |= {"bad": 0, "skipped": 0, "seconds": 1.0}
    with RunLogger(tmp_path, Config(epochs=3)) as logger:
        logger.write(record)
        before = path.read_bytes()

        def refuse(_):
            assert path.read_bytes() > before  # as much of the line as there was space for
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", refuse)
            logger.write({**record, "epoch": 1})
        assert path.read_bytes() == before
        assert "No space left on device" in capsys.readouterr().err
        logger.write({**record, "epoch": 2})
    assert [line["epoch"] for line in metrics_of(tmp_path)] == [0, 2]


def test_broken_lines_do_not_keep_a_run_from_going_on(few_images, tmp_path):
    command = [*SMALL, "--out", str(tmp_path), "--log-images", "0", "--epochs"]
    assert main([*command, "1"]) == 0
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"epoch": 0, "lo{"epoch": 0, "loss": 1.0}\n{"epo}\n7\n\0\0\xff')
    assert main([*command, "2", "--resume"]) == 0
    assert [line["epoch"] for line in metrics_of(tmp_path)] == [0, 1]


def test_tensorboard_has_each_epoch_once(few_images, tmp_path):
    """Though a run that lost its last checkpoint wrote some of them before."""
    command = [*SMALL, "--out", str(tmp_path), "--log-images", "0", "--eval-every", "1", "--epochs"]
    assert main([*command, "1"]) == 0
    shutil.copy(tmp_path / "last.pt", tmp_path / "first.pt")
    assert main([*command, "3", "--resume"]) == 0
    (tmp_path / "first.pt").replace(tmp_path / "last.pt")
    assert main([*command, "3", "--resume"]) == 0
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    assert [event.step for event in board.Scalars("loss")] == [0, 1, 2]


def test_what_a_killed_run_left_half_written_is_removed(few_images, tmp_path):
    out = tmp_path / "out"
    command = [*SMALL, "--out", str(out), "--log-images", "0", "--epochs"]
    assert main([*command, "1"]) == 0
    for name in ("last.pt.tmp", "best.pt.tmp", "metrics.jsonl.tmp"):
        (out / name).write_bytes(b"half")
    assert main([*command, "1", "--resume"]) == 0  # which writes nothing
    assert not list(out.glob("*.tmp"))


def test_a_folder_that_cannot_be_written(few_images, small_disk, capsys):
    """Is refused before the first step; one that becomes so in the midst is as a full disk."""
    save_checkpoint(small_disk / "last.pt", Config(), ["a", "b"], {"number": 1})
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(NotSavedError, match="Read-only file system; the earlier one is whole"):
        save_checkpoint(small_disk / "last.pt", Config(), ["a", "b"], {"number": 2})
    command = [*SMALL, "--epochs", "1", "--overwrite", "--out", small_disk]
    assert f"--out: cannot write to {small_disk}" in refused(capsys, *command)
