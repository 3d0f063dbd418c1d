"""Learning parity: the published step and ours from the same state, and the runs' statistics."""

import dataclasses
import json

import learning_parity as comparison
import pytest
import torch
from harness import published
from learning import plots, rounding, runs, steps

from wsdan.config import Config
from wsdan.data import loaders
from wsdan.data.synthetic import CLASSES

TINY = {"image_size": 32, "batch_size": 8, "num_attentions": 4}


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 24)
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 16)


def compare(count=5, **settings):
    return steps.compare(
        Config(**TINY | comparison.VIEWS | settings).resolved(), count, len(CLASSES)
    )


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_same_step_from_the_same_state(optimizer):
    """The published optimizer is SGD."""
    found = compare(optimizer=optimizer)
    assert len(found) == 5
    for step in found:
        assert step.losses <= 1e-9 and step.gradients <= 1e-7
        assert step.centers <= 1e-9 and step.statistics <= 1e-9 and step.weights <= 1e-7
    losses = [step.published["loss"] for step in found]
    assert len(set(losses)) == 5, "each step is another one"
    assert found[-1].left_alone["loss"] == pytest.approx(losses[-1], rel=1e-2)


@pytest.mark.slow
def test_the_same_step_of_a_torchvision_network():
    config = comparison.step_config("squeezenet1_1", 64, 4, 0)
    for step in steps.compare(config, 3, len(CLASSES)):
        assert step.losses <= 1e-9 and step.gradients <= 1e-7 and step.weights <= 1e-7


# What a step of ours could get wrong, planted in the published one; what shows it.
def _weaker_center_loss(monkeypatch):
    losses = published.listing_losses

    def wrong(*arguments):
        found = losses(*arguments)
        return {**found, "loss": found["loss"] + 1e-6 * found["center"]}

    monkeypatch.setattr(published, "listing_losses", wrong)


def _other_pooling(monkeypatch):
    pool = published.pool_mean
    monkeypatch.setattr(
        published, "pool_mean", lambda features, maps: pool(features, maps, eps=1e-5)
    )


def _padding(monkeypatch):
    monkeypatch.setattr(published, "PADDING", 0.2)


def _centers_kept(monkeypatch):
    loss = published.center_loss_
    monkeypatch.setattr(
        published,
        "center_loss_",
        lambda features, centers, *rest: loss(features, centers.clone(), *rest),
    )


@pytest.mark.parametrize(
    ("plant", "seen"),
    [
        (_weaker_center_loss, "losses"),
        (_other_pooling, "gradients"),
        (_padding, "losses"),
        (_centers_kept, "centers"),
    ],
)
def test_a_difference_is_seen(plant, seen, monkeypatch):
    plant(monkeypatch)
    assert max(getattr(step, seen) for step in compare(2)) > 1e-7


@pytest.mark.slow
def test_the_command_fails_where_a_bound_does(tmp_path, capsys, monkeypatch):
    result, figure = tmp_path / "steps.json", tmp_path / "steps.png"
    command = ["steps", "--image-size", "32", "--steps", "2", "--json", str(result)]
    assert comparison.main([*command, "--plot", str(figure)]) == 0
    assert "largest relative difference of losses" in capsys.readouterr().out
    assert len(json.loads(result.read_text())["steps"]) == 2
    assert figure.stat().st_size > 5_000
    monkeypatch.setitem(plots.BOUNDS, "losses", -1.0)
    assert comparison.main(command) == 1


def test_fast_bfloat16_is_autocasts():
    """A convolution and its gradients are bfloat16's up to a rounding of bfloat16."""
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 9, 9).to(memory_format=torch.channels_last)
    found = []
    for fast in (False, True):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            if fast:
                with rounding.FastBfloat16():
                    output = layer(images)
                    output.float().square().sum().backward()
            else:
                output = layer(images)
                output.float().square().sum().backward()
        assert output.dtype == torch.bfloat16
        found.append([output.detach().float(), layer.weight.grad, layer.bias.grad])
    exact = torch.nn.functional.conv2d(images, layer.weight, layer.bias).detach()
    assert (found[1][0] - exact).abs().max() > 1e-3, "it is not float32"
    for value, truth in zip(found[1], found[0], strict=True):
        assert (value - truth).abs().max() <= 2**-7 * truth.abs().max()


@pytest.mark.slow
def test_runs_are_kept_and_not_repeated(tmp_path, capsys, monkeypatch):
    path = tmp_path / "runs.json"
    command = ["runs", "--json", str(path), "--epochs", "1", "--image-size", "32"]
    assert comparison.main([*command, "--seeds", "0", "1"]) == 0
    content = json.loads(path.read_text())
    assert [(row["seed"], row["kind"]) for row in content["rows"]] == [
        (seed, kind) for seed in (0, 1) for kind in runs.KINDS
    ]
    assert "| ours - published | 2 | " in capsys.readouterr().out
    monkeypatch.setattr(runs, "train", None)
    assert comparison.main([*command, "--seeds", "1"]) == 0
    with pytest.raises(SystemExit, match="other settings"):
        comparison.main([*command[:3], "--epochs", "2", "--image-size", "32"])


def test_the_interval_of_paired_differences():
    rows = [
        {"kind": kind, "seed": seed, "accuracies": dict.fromkeys(runs.VIEWS, value + shift * seed)}
        for kind, value, shift in (("ours", 81.0, 1), ("published", 80.0, 0), ("ours bf16", 81, 1))
        for seed in (0, 1, 2)
    ]
    found = runs.differences(rows)
    assert found["ours - published"]["raw"]["mean"] == pytest.approx(2)
    # Student's 0.975 quantile of 2 degrees of freedom, 4.3027, over the root of 3.
    assert found["ours - published"]["raw"]["half_interval"] == pytest.approx(2.4841, abs=1e-3)
    assert found["ours bf16 - ours"]["mean"] == {"seeds": 3, "mean": 0, "half_interval": 0}
    assert "| ours - published | 3 | +2.0 ± 2.5 |" in runs.table(rows)
    assert dataclasses.is_dataclass(steps.Compared)
