"""A step without a finite loss changes nothing and is counted; too many of them end the run."""

import copy

import pytest
import torch
from runs import SMALL, metrics_of, refused
from training import assert_same, batches, new_model, settings

from wsdan.checkpoint import load_checkpoint
from wsdan.cli import main
from wsdan.config import Config
from wsdan.data import loaders
from wsdan.errors import UserError
from wsdan.training.ema import ModelEma
from wsdan.training.objective import OBJECTIVES, wsdan_objective
from wsdan.training.optim import build_optimizer
from wsdan.training.skips import CHECK_EVERY, Skips
from wsdan.training.step import build_step

STEPS = 6  # of an epoch
GOOD, OTHER = batches()[0], batches()[1]


def with_nan(batch: tuple) -> tuple:
    """The batch with a NaN pixel in its last image."""
    images = batch[0].clone()
    images[-1, 1, 20, 20] = torch.nan
    return images, *batch[1:]


class Training:
    """A model and all that a step changes."""

    def __init__(self, config: Config):
        self.model = new_model(config.method).train()
        self.model_ema = ModelEma(self.model, 0.9)
        self.optimizer = build_optimizer(self.model, config)
        self.scaler = torch.amp.GradScaler("cpu", 2.0**8, enabled=config.precision == "fp16")
        self._step = build_step(self.model, self.optimizer, config, self.scaler)

    def step(self, batch: tuple) -> dict:
        results = self._step(*batch)
        self.model_ema.update(results["finite"])
        return results

    def state(self) -> dict:
        states = self.model.state_dict(), self.optimizer.state_dict(), self.model_ema.state_dict()
        return dict(zip(("model", "optimizer", "ema"), copy.deepcopy(states), strict=True))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_nan_image_changes_nothing(optimizer, precision, accumulate):
    """Bit for bit, in any micro-batch of the step."""
    training = Training(settings(optimizer, precision=precision, accumulate=accumulate))
    assert training.step(GOOD)["finite"] == 1
    before = training.state()
    for batch in (with_nan(OTHER), [tensor.flip(0) for tensor in with_nan(OTHER)]):
        results = training.step(batch)
        assert all(value == 0 for value in results.values())
        assert_same(training.state(), before)
    assert training.step(OTHER)["finite"] == 1
    after = training.state()
    for name in ("classifier.weight", "attention.1.running_mean", "centers.centers"):
        assert not torch.equal(after["model"][name], before["model"][name])
    assert after["ema"]["steps"] == before["ema"]["steps"] + 1 == 2


@pytest.mark.parametrize("method", ["wsdan", "baseline"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_skipped_first_step_leaves_no_trace(optimizer, method):
    """Also in the optimizer's state, which its first step creates."""
    config = settings(optimizer, method)
    skipping, plain = Training(config), Training(config)
    before = copy.deepcopy(skipping.model.state_dict())
    skipping.step(with_nan(GOOD))
    assert_same(skipping.model.state_dict(), before)
    for training in (skipping, plain):
        training.step(GOOD)
        training.step(OTHER)
    assert_same(skipping.state(), plain.state())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(value):
    """With a finite loss."""
    training = Training(settings())
    training.step(GOOD)
    before = training.state()
    weight = training.model.classifier.weight
    hook = weight.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor(1), value))
    assert training.step(OTHER)["finite"] == 0
    assert_same(training.state(), before)
    hook.remove()
    assert training.step(OTHER)["finite"] == 1


def test_an_infinite_loss_with_finite_gradients_changes_nothing_in_float16(monkeypatch):
    training = Training(settings(precision="fp16"))
    training.step(GOOD)
    before = training.state()

    def infinite(*arguments, **options):
        result = wsdan_objective(*arguments, **options)
        return {**result, "loss": result["loss"] + torch.inf}

    with monkeypatch.context() as patch:
        patch.setitem(OBJECTIVES, "wsdan", infinite)
        failing = build_step(training.model, training.optimizer, settings(), training.scaler)
    assert failing(*OTHER)["finite"] == 0
    assert_same(training.state(), before)
    assert training.step(OTHER)["finite"] == 1


def test_gradients_that_are_nan_at_any_loss_scale_are_skips():
    """In float16 an overflow lowers the loss scale, and is a skip only at a scale of 1."""
    training = Training(settings(precision="fp16"))
    training.model.classifier.weight.register_hook(lambda gradient: gradient * torch.nan)
    flags = [int(training.step(GOOD)["finite"]) for _ in range(10)]
    assert flags == [1] * 8 + [0] * 2  # the scale begins at 2 ** 8


def flags(*numbers: int) -> list[torch.Tensor]:
    return [torch.tensor(number) for number in numbers]


def test_skips_in_a_row_are_counted_from_the_last_finite_loss():
    skips = Skips(limit=3)
    for flag in flags(0, 0, 1, 0, 0, 1, 0):
        skips.add(flag, ["a.jpg"])
    skips.check()
    skips.add(torch.tensor(0), ["b.jpg"])
    skips.check()
    skips.add(torch.tensor(0), ["c.jpg", "d.jpg"])
    with pytest.raises(UserError, match=r"3 steps in a row .*--max-skipped 3.* c\.jpg, d\.jpg\."):
        skips.check()


def test_flags_are_read_every_few_steps():
    """Each is the flag of its step, though a CUDA graph overwrites the tensor."""
    skips, flag = Skips(limit=2), torch.tensor(0)
    for number in range(CHECK_EVERY - 1):
        flag.fill_(number % 2)
        skips.add(flag, ["a.jpg"])
    flag.fill_(1)
    skips.add(flag, ["a.jpg"])  # in which they are read
    flag.fill_(0)
    for _ in range(CHECK_EVERY - 1):
        skips.add(flag, ["b.jpg"])
    with pytest.raises(UserError, match=r"the last batch was b\.jpg"):
        skips.add(flag, ["c.jpg"])  # read again: the second of the last ten reached the limit


@pytest.fixture
def nan_images(monkeypatch):
    """Few synthetic images; those whose names are in the returned set become NaN."""
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 8 * STEPS)
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 17)
    names, item_of = set(), loaders.InMemory.__getitem__

    def with_nan(dataset, index):
        item = item_of(dataset, index)
        bad = len(dataset) == 8 * STEPS and item.name in names
        return item._replace(image=item.image * torch.nan) if bad else item

    monkeypatch.setattr(loaders.InMemory, "__getitem__", with_nan)
    return names


def test_a_run_counts_what_it_skipped(nan_images, tmp_path, capsys):
    nan_images.add("image 5")
    command = [*SMALL, "--epochs", "2", "--ema", "0.9", "--out", str(tmp_path)]
    assert main(command) == 0
    records = metrics_of(tmp_path)
    assert [record["skipped"] for record in records] == [1, 1]
    assert all(0 < record["loss"] < 20 for record in records)
    assert "1 steps without a finite loss skipped" in capsys.readouterr().out
    state = load_checkpoint(tmp_path / "last.pt")
    assert state["ema_steps"] == 2 * (STEPS - 1)
    tensors = [*state["model"].values(), *state["ema"].values()]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


@pytest.mark.parametrize("limit", [4, 10])
def test_too_many_in_a_row_end_the_run(limit, nan_images, tmp_path, capsys):
    """Also if an epoch has fewer steps than the limit."""
    nan_images.update(f"image {index}" for index in range(8 * STEPS))
    command = [*SMALL, "--epochs", "9", "--max-skipped", str(limit), "--out", tmp_path / "out"]
    error = refused(capsys, *command)
    assert f"{limit} steps in a row had no finite loss (--max-skipped {limit})" in error
    assert error.count("image ") == 8
    epochs_before = (limit - 1) // STEPS
    records = metrics_of(tmp_path / "out") if epochs_before else []
    assert [record["skipped"] for record in records] == [STEPS] * epochs_before


def test_a_diverging_run_ends(nan_images, tmp_path, capsys):
    """A far too high learning rate: the loss overflows and stays infinite."""
    command = [*SMALL, "--epochs", "9", "--optimizer", "sgd", "--lr", "1e30"]
    error = refused(capsys, *command, "--out", tmp_path / "out")
    assert "10 steps in a row had no finite loss" in error and "A lower --lr" in error
