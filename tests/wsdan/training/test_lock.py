"""One run at a time in a folder: the lock, and what becomes of that of a dead run."""

import errno
import json
import os
import signal
import time
from pathlib import Path

import pytest
from runs import SMALL, acting_at, in_fork, refused

import wsdan.training.run
from wsdan.checkpoint import load_checkpoint
from wsdan.cli import main
from wsdan.data import loaders
from wsdan.errors import UserError
from wsdan.files import remove_temporary
from wsdan.training import lock
from wsdan.training.lock import LOCK, STALE, RunLock, check_unlocked

COMMAND = [*SMALL, "--log-images", "0", "--eval-every", "2"]


@pytest.fixture
def few_images(monkeypatch):
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 16)
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 8)


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    """The files' bytes and times."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def die_with_the_lock(folder: Path) -> int:
    """A forked process locks the folder and ends at once; returns its id."""
    child = os.fork()
    if child == 0:
        RunLock().take(folder)
        os._exit(0)
    os.waitpid(child, 0)
    return child


@pytest.mark.parametrize(
    ("first", "second"),
    [([], []), ([], ["--overwrite"]), (["--resume"], ["--resume"])],
)
def test_a_second_run_is_refused(first, second, few_images, tmp_path, monkeypatch, capsys):
    """In the middle of the first, from another process; it changes nothing, the first goes on."""
    command = [*COMMAND, "--epochs", "2", "--out", str(tmp_path)]
    if first:
        assert main([*COMMAND, "--epochs", "1", "--out", str(tmp_path)]) == 0
    outcomes = []

    def start_another():
        before = content(tmp_path)

        def run():
            error = refused(capsys, *command, *second)
            assert f"--out: {tmp_path} is in use by process {os.getppid()}" in error

        outcomes.append(in_fork(run))
        assert content(tmp_path) == before

    monkeypatch.setattr(wsdan.training.run, "build_step", acting_at(2, start_another))
    assert main([*command, *first]) == 0
    assert outcomes == [0]
    assert load_checkpoint(tmp_path / "last.pt")["ranks"][0]["progress"]["epoch"] == 2
    assert not (tmp_path / LOCK).exists()


def test_two_runs_that_start_at_once(few_images, tmp_path, monkeypatch, capsys):
    """The folder was free when both looked; the other takes it, and ends, while this one loads."""
    command = [*COMMAND, "--epochs", "1", "--out", str(tmp_path / "out")]
    build = wsdan.training.run.new_state

    def meanwhile(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(wsdan.training.run, "new_state", build)
            assert in_fork(lambda: os._exit(main(command))) == 0
        return build(*arguments)

    monkeypatch.setattr(wsdan.training.run, "new_state", meanwhile)
    assert "already holds a run; pass --resume or --overwrite" in refused(capsys, *command)


def test_the_lock_is_released_after_an_error(few_images, tmp_path, monkeypatch, capsys):
    def fail():
        assert (tmp_path / LOCK).exists()
        raise UserError("a mistake")

    monkeypatch.setattr(wsdan.training.run, "build_step", acting_at(1, fail))
    assert "a mistake" in refused(capsys, *COMMAND, "--epochs", "1", "--out", tmp_path)
    assert not (tmp_path / LOCK).exists()


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path, capsys):
    dead = die_with_the_lock(tmp_path)
    with RunLock() as own:
        own.take(tmp_path)
        warning = capsys.readouterr().err
        assert warning.count("\n") == 1
        assert f"{LOCK} was left by process {dead} of " in warning
        with pytest.raises(UserError, match=f"in use by process {os.getpid()}$"):
            check_unlocked(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_process_killed_while_it_locks_leaves_no_lock_without_an_owner(tmp_path):
    """At each system call of the locking: the next run gets the folder at once."""
    calls = ("open", "write", "close", "link", "unlink")
    for name in calls:
        for before in (True, False):
            child = os.fork()
            if child == 0:
                own, act = os.getpid(), getattr(os, name)

                def die(*arguments, act=act, before=before, own=own):
                    if not before:
                        act(*arguments)
                    os.kill(own, signal.SIGKILL)

                setattr(os, name, die)
                RunLock().take(tmp_path)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            assert os.WIFSIGNALED(status), name
            with RunLock() as own:
                own.take(tmp_path)
                remove_temporary(tmp_path, LOCK)
            assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_links_has_locks_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(lock.os, "link", refuse)
    with RunLock() as own:
        own.take(tmp_path)
        with pytest.raises(UserError, match="in use by process"):
            RunLock().take(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_zombie_is_dead(tmp_path):
    child = os.fork()
    if child == 0:
        RunLock().take(tmp_path)
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    with RunLock() as own:
        own.take(tmp_path)
    os.waitpid(child, 0)


def test_a_process_number_that_is_used_again_is_another_process(tmp_path):
    die_with_the_lock(tmp_path)
    path = tmp_path / LOCK
    path.write_text(json.dumps({**json.loads(path.read_text()), "pid": os.getppid()}))
    assert check_unlocked(tmp_path) == path.read_text()


@pytest.mark.parametrize(
    "text",
    [
        '{"host": "other", "kernel": "x", "pid": 7, "started": "1"}',  # another machine
        '{"host": "other", "kernel": "", "pid": 7, "started": ""}',  # a system without /proc
        "",  # of a full disk
        '{"host": ["' + "x" * 9999 + '"], "kernel": "", "pid": 7, "started": ""}',
        "[" * 4000,
        '{"host": "a\\n", "kernel": "x", "pid": 1e99, "started": "1"}',
    ],
)
def test_elsewhere_the_heartbeat_decides(text, tmp_path):
    path = tmp_path / LOCK
    path.write_text(text)
    named = "process 7 of other" if '"other"' in text else "another run"
    os.utime(path, (time.time() - STALE + 60,) * 2)
    with pytest.raises(UserError, match=f"in use by {named}, which gave a sign of life 24. s ago"):
        RunLock().take(tmp_path)
    assert path.read_text() == text
    os.utime(path, (time.time() - STALE - 1,) * 2)
    with RunLock() as own:
        own.take(tmp_path)
        assert str(os.getpid()) in path.read_text()


def test_the_heartbeat(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT", 0.01)
    path = tmp_path / LOCK
    with RunLock() as own:
        own.take(tmp_path)
        os.utime(path, (0, 0))
        end = time.monotonic() + 20
        while path.stat().st_mtime < time.time() - 60:
            assert time.monotonic() < end
            time.sleep(0.005)


def test_of_many_that_find_a_dead_lock_one_gets_it(tmp_path):
    def contend(outcomes: int, tried: int):
        try:
            RunLock().take(tmp_path)
            os.write(outcomes, b"1")
        except UserError:
            os.write(outcomes, b"0")
        os.read(tried, 1)  # returns when all have tried
        os._exit(0)

    for _ in range(2):
        die_with_the_lock(tmp_path)
        (outcomes, outcome), (tried, all_tried) = os.pipe(), os.pipe()
        children = []
        for _ in range(6):
            children.append(os.fork())
            if children[-1] == 0:
                os.close(all_tried)
                contend(outcome, tried)
        found = b"".join(os.read(outcomes, 1) for _ in children)
        os.close(all_tried)
        for child in children:
            os.waitpid(child, 0)
        assert sorted(found) == sorted(b"000001")


def test_a_run_whose_lock_was_taken_over_writes_nothing_more(
    few_images, tmp_path, monkeypatch, capsys
):
    """It was suspended, and another machine's run has begun meanwhile."""
    theirs = '{"host": "other", "kernel": "x", "pid": 7, "started": "1"}'
    held = {}

    def take_over():
        (tmp_path / LOCK).write_text(theirs)
        held.update(content(tmp_path))

    monkeypatch.setattr(wsdan.training.run, "build_step", acting_at(3, take_over))
    error = refused(capsys, *COMMAND, "--epochs", "2", "--out", tmp_path)
    assert f"{tmp_path}: another run has taken it over" in error
    now = content(tmp_path)
    assert (tmp_path / LOCK).read_text() == theirs
    for name in ("last.pt", "metrics.jsonl", LOCK):
        assert now[name] == held[name]


def test_a_run_that_was_suspended_while_another_ran_and_ended_is_told(tmp_path, monkeypatch):
    """A lock that a user deleted is no reason to end a run that gives signs of life."""
    with RunLock() as own:
        own.take(tmp_path)
        (tmp_path / LOCK).unlink()
        own.check()
        now = time.time()
        monkeypatch.setattr(lock.time, "time", lambda: now + STALE + 1)
        with pytest.raises(UserError, match="another run has taken it over"):
            own.check()


def test_a_lock_that_cannot_be_made_is_one_line(few_images, tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lock.os, "open", refuse)
    error = refused(capsys, *COMMAND, "--epochs", "1", "--out", tmp_path)
    assert f"cannot lock {tmp_path / LOCK}: No space left on device" in error


def test_temporary_names_are_a_process_of_their_own(tmp_path):
    from wsdan.files import written_whole

    names = []
    for _ in range(2):
        reading, writing = os.pipe()
        if os.fork() == 0:
            with written_whole(tmp_path / "last.pt") as file:
                os.write(writing, os.path.basename(file.name).encode())
            os._exit(0)
        os.wait()
        names.append(os.read(reading, 99))
    assert len(set(names)) == 2
