"""No option and no key of YAML takes a value to a traceback; see tests/support/hostile.py."""

import hostile
import pytest


def test_a_slice_of_the_cases():
    count, found = hostile.run(every=151)
    assert count > 100
    assert found == []


@pytest.mark.slow
def test_a_larger_slice():
    count, found = hostile.run(every=47, first=7)
    assert count > 300
    assert found == []


def test_every_option_and_key_has_cases():
    """A new option is among them by itself."""
    cases = list(hostile.cases())
    assert len(cases) > 2000
    heads = {case.arguments[-1].partition("=")[0] for case in cases if case.yaml is None}
    assert {"--errors", "--refine-threshold", "--truth", "--classes", "--config"} <= heads
    lines = [line for case in cases if case.yaml for line in case.yaml.split("\n")]
    keys = {line.partition(":")[0] for line in lines}
    assert {"lr", "root", "weights"} <= keys


def test_a_finding_is_found(monkeypatch):
    def fail(_):
        raise KeyError("nobody's")

    monkeypatch.setattr("wsdan.commands.info.run", fail)
    with hostile.playground():
        assert "nobody's" in hostile.finding(hostile.Case(["info"]))
        assert hostile.finding(hostile.Case(["train", "--lr=x"])) is None
