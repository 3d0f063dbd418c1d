"""Every entry of a checkpoint replaced by nasty values: one line, or a run that goes on."""

import copy
import dataclasses
import math
import os
import signal
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from runs import SMALL, acting_at, refused
from training import batches

import wsdan.training.run
from wsdan.checkpoint import check_any_version, load_checkpoint
from wsdan.checkpoint_content import PROGRESS
from wsdan.cli import main
from wsdan.data import loaders
from wsdan.errors import UserError
from wsdan.training.state import Progress, new_state
from wsdan.training.step import build_step

MISSING = object()
NASTY = {
    "None": None, "text": "a", "-1": -1, "nan": math.nan, "inf": math.inf, "True": True, "[]": [],
    "{}": {}, "10**30": 10**30, "10**9": 10**9, "nested": [[[1.5, None]], {"a": []}],
    "tensor": torch.ones(3, 2), "meta": torch.empty((), device="meta"),
    "sparse": torch.eye(2).to_sparse(), "complex": torch.ones((), dtype=torch.complex64),
    "no numbers": {1: [2]}, "half": 0.5, "missing": MISSING,
}  # fmt: skip
# Values that no entry may have. Numbers that may be right are taken: the run goes on from them.
UNFIT = {
    "text", "nan", "inf", "[]", "nested", "tensor", "meta", "sparse", "complex", "no numbers",
    "10**30",
}  # fmt: skip

# Of the run's own settings: what a checkpoint says of these is not read.
IGNORED = {
    "betas", "eps", "weight_decay", "amsgrad", "foreach", "maximize", "capturable", "fused",
    "differentiable", "decoupled_weight_decay", "initial_lr", "base_lrs", "lr_lambdas",
    "_is_initial", "_get_lr_called_within_step",
}  # fmt: skip
OPTIONS = ["--ema", "0.9", "--precision", "fp16", "--log-images", "0"]
FIRST = 1  # entries of a dict of weights or a long list that are replaced


@pytest.fixture(scope="module", autouse=True)
def few_images():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaders, "SYNTHETIC_TRAIN", 16)
        patch.setattr(loaders, "SYNTHETIC_VAL", 4)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run stopped in the middle of its second epoch, with averaged weights and a loss scale."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        stop = partial(os.kill, os.getpid(), signal.SIGTERM)
        patch.setattr(wsdan.training.run, "build_step", acting_at(3, stop))
        assert main([*SMALL, *OPTIONS, "--epochs", "2", "--out", str(folder)]) == 143
    return folder


@pytest.fixture(scope="module")
def content(run):
    return torch.load(run / "last.pt", weights_only=True)


def entries(value: object, path: tuple = ()) -> Iterator[tuple]:
    """The paths of a checkpoint's entries, at any depth."""
    if path:
        yield path
    keys = value if isinstance(value, dict) else range(len(value)) if is_list(value) else ()
    keys = [key for key in keys if key not in IGNORED]
    many = path and (
        path[0] in ("model", "ema", "classes") or len(keys) > 15 or path[-1] == "state"
    )
    for key in keys[:FIRST] if many and path != ("config",) else keys:
        yield from entries(value[key], (*path, key))


def is_list(value: object) -> bool:
    return isinstance(value, (list, tuple))


def replaced(content: dict, path: tuple, value: object) -> dict:
    """A copy of the content with another value at the path; what is not on it is shared."""
    key, *rest = path
    whole = dict(content) if isinstance(content, dict) else list(content)
    if not rest and value is MISSING:
        del whole[key]
        return whole
    whole[key] = replaced(content[key], tuple(rest), value) if rest else copy.copy(value)
    return tuple(whole) if isinstance(content, tuple) else whole


def check(content: dict) -> dict:
    """The content as `load_checkpoint` returns it."""
    content = dict(content)
    check_any_version(content, "last.pt")
    return content


@pytest.fixture
def resume(run):
    """A function that resumes from a content, takes a step, and saves."""
    config = dataclasses.replace(load_checkpoint(run / "last.pt")["config"], resume=True)
    batches_of_run, classes = loaders.train_loader(config)
    device = torch.device("cpu")
    state = new_state(config, classes, device, batches_of_run.batch_sampler)
    step = build_step(state.model, state.optimizer, config, state.scaler)
    images, labels, uniforms = (x[:2] for x in batches(32)[0])

    def goes_on(content: dict) -> None:
        state.load_state_dict(content, "last.pt")
        state.model.train()
        results = step(images, labels, uniforms)
        state.lr_scheduler.step()
        state.model_ema.update(results["finite"])
        state.progress.totals = {
            name: state.progress.totals.get(name, 0) + value for name, value in results.items()
        }
        assert bool(results["loss"].isfinite())
        for weight in state.model.parameters():
            assert bool(weight.isfinite().all())
        state.state_dict()

    return goes_on


@pytest.mark.slow
def test_a_wrong_entry_is_one_line_or_does_no_harm(content, resume):
    """In each case the file is refused, or its run goes on: nothing else is raised."""
    paths = [path for path in entries(content) if path[-1] not in IGNORED]
    assert len(paths) > 90
    resume(check(content))
    accepted, messages = set(), []
    for path in paths:
        for name, value in NASTY.items():
            try:
                checked = check(replaced(content, path, value))
                if path[0] != "config":
                    resume(checked)
                accepted.add((path[0], path[-1], name))
            except UserError as error:
                messages.append(str(error))
            except Exception as error:
                raise AssertionError(f"{path} = {name}") from error
    assert not [text for text in messages if "\n" in text or len(text) > 1000]
    assert not {item for item in accepted if item[0] != "config" and item[2] in UNFIT}
    for name in ("epoch", "seen", "steps", "bad", "step_size", "last_epoch"):
        assert not {item for item in accepted if item[1:] == (name, "10**9")}, name
    for item in accepted:
        if item[0] == "config" and item[2] in UNFIT:  # a path, a backbone, or a large number
            assert item[2] in ("text", "10**30"), item


def test_the_table_knows_every_entry_of_the_progress():
    assert set(PROGRESS) == {item.name for item in dataclasses.fields(Progress)}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("config",), {}),
        (("config", "image_size"), "large"),
        (("config", "image_size"), 10**20),
        (("config", "backbone"), None),
        (("config", "refine_threshold"), math.nan),
        (("classes", 0), 7),
        (("model",), MISSING),
        (("ema",), [1, 2]),
        (("ema", "classifier.weight"), torch.ones(2, 2)),
        (("format",), torch.ones(2)),
        (("version",), "3"),
        (("version",), 10**400),
    ],
)
def test_the_program_says_so_in_one_line(path, value, content, run, tmp_path, capsys):
    torch.save(replaced(content, path, value), tmp_path / "last.pt")
    for command in (["eval"], ["predict", run / "last.pt"]):
        error = refused(capsys, command[0], "--checkpoint", tmp_path / "last.pt", *command[1:])
        assert "checkpoint" in error and "last.pt" in error
    refused(capsys, *SMALL, *OPTIONS, "--epochs", "2", "--out", tmp_path, "--resume")


def test_a_rank_without_totals(content, resume):
    """As of a rank that joined after an epoch's last step."""
    rank = content["ranks"][0]
    idle = {**rank["progress"], "steps": 0, "totals": {}}
    for ranks in ([rank, {**rank, "progress": idle}], [{**rank, "progress": idle}, rank]):
        resume(check({**content, "ranks": ranks, "step_size": 4}))
