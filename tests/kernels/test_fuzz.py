"""The driver of random cases: what it counts, what it says of a failure, and how it goes on."""

import json
import os
import re

import fuzz
import fuzzers
import parity
import pytest
import torch

pytestmark = pytest.mark.skipif(fuzz.UNAVAILABLE is not None, reason="no C++ library")
BAD = 130


def outcome(seed):
    """Instead of run_case: one case is wrong."""
    return "crop_resize", "boxes differ" if seed == BAD else 0.25


def crash(seed):
    if seed == BAD:
        os._exit(3)
    return outcome(0)


def stop_after(blocks, monkeypatch):
    """Ctrl-C once so many blocks are done."""
    write, calls = fuzz.Log.write, []

    def stopping(log, path):
        write(log, path)
        calls.append(path)
        if len(calls) == blocks:
            raise KeyboardInterrupt

    monkeypatch.setattr(fuzz.Log, "write", stopping)


def test_random_cases_pass(capsys):
    """In this process: one with threads must not fork."""
    assert fuzz.main(["--cases", "16", "--seed", "7", "--trace"]) == 0
    found = capsys.readouterr().out
    assert sum(map(int, re.findall(r" (\d+) cases, worst", found))) == 16
    assert "16 cases, 0 failed" in found


@pytest.mark.parametrize(
    ("case", "text"), [(outcome, "boxes differ"), (crash, "exit status 3")], ids=["wrong", "crash"]
)
def test_a_failure_is_named_with_its_seed(case, text, capsys, monkeypatch):
    """The other cases run all the same."""
    monkeypatch.setattr(fuzzers, "run_case", case)
    assert fuzz.main(["--cases", "250", "--processes", "2"]) == 1
    found = capsys.readouterr().out
    assert f"{text}; again: python tests/support/fuzz.py --seed {BAD} --cases 1" in found
    assert "250 cases, 1 failed" in found


def test_a_stopped_run_goes_on(tmp_path, capsys, monkeypatch):
    """Each case counts once, and a failure of the first part is still one."""
    monkeypatch.setattr(fuzzers, "run_case", outcome)
    command = ["--cases", "600", "--log", str(tmp_path / "log.json")]
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        assert fuzz.main(command) == 1
    assert "300 cases, 1 failed" in capsys.readouterr().out
    monkeypatch.setattr(fuzzers, "run_case", lambda seed: outcome(seed) if seed >= 300 else 1 / 0)
    assert fuzz.main(command) == 1
    assert "600 cases, 1 failed" in capsys.readouterr().out
    assert fuzz.main(command) == 1  # nothing is left
    assert "600 cases, 1 failed" in capsys.readouterr().out


def test_blocks_that_end_out_of_turn(monkeypatch):
    monkeypatch.setattr(fuzz, "build_digest", lambda: "this")
    log = fuzz.open_log(None, 1000)
    log.add(1200, {})
    assert (log.next, log.done) == (1000, [1200])
    assert list(fuzz.blocks(log, 1350)) == [(1000, 1100), (1100, 1200), (1300, 1350)]
    log.add(1000, {})
    log.add(1100, {})
    assert (log.next, log.done) == (1300, [])


def test_a_box_of_the_last_column_lies_within():
    """As where rounding lets the last column alone reach a threshold of 1."""
    outer = torch.tensor([0, 21, 22, 22])
    inside = torch.tensor([[22, 21, 23, 22], [3, 21, 22, 22], [0, 21, 22, 22]])
    outside = torch.tensor([[23, 21, 24, 22], [3, 21, 23, 22], [22, 20, 23, 21]])
    assert parity.contains(outer, inside).all()
    assert not parity.contains(outer, outside).any()


def test_time_ends_a_run(capsys):
    assert fuzz.main(["--cases", "1000000", "--seconds", "0"]) == 0
    assert "0 cases, 0 failed" in capsys.readouterr().out


def test_a_log_of_other_cases_is_refused(tmp_path):
    path = tmp_path / "log.json"
    path.write_text(json.dumps({"of": "another", "first": 0, "next": 100}))
    with pytest.raises(SystemExit, match="of another build"):
        fuzz.main(["--cases", "100", "--log", str(path)])
    with pytest.raises(SystemExit):
        fuzz.main(["--cases", "150", "--log", str(path)])
