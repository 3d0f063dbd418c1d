"""The options of a training step, each compared with the plain step."""

import json

import pytest
import torch
from tape import NoWaiting
from torch import nn
from torch.nn import functional as F
from training import WHOLE, batches, new_model, settings

from wsdan.cli import main
from wsdan.config import PRECISIONS
from wsdan.data import loaders
from wsdan.networks.backbones import Backbone
from wsdan.networks.model import WSDAN
from wsdan.training.ema import ModelEma
from wsdan.training.objective import OBJECTIVES
from wsdan.training.optim import build_optimizer
from wsdan.training.step import build_scaler, build_step

IMAGES, LABELS, UNIFORMS = batches()[0]
CPU = torch.device("cpu")
VIEWS = ("raw", "crop", "drop", "center")


def without_batch_norm() -> WSDAN:
    """A model in which the images of a batch do not affect each other."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2), nn.ReLU()]
    backbone = Backbone(nn.Sequential(*layers), channels=12, stride=4)
    return WSDAN(backbone, num_classes=3, num_attentions=4, attention="slice").train()


def trained(model: nn.Module, steps: int = 1, labels: torch.Tensor = LABELS, **options):
    """The results of the last of `steps` steps on one batch."""
    config = settings(**options)
    step = build_step(model, build_optimizer(model, config), config)
    for _ in range(steps):
        results = step(IMAGES, labels, UNIFORMS)
    return results


def assert_close_state(found: nn.Module, expected: nn.Module) -> None:
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.parametrize("accumulate", [2, 3])
@pytest.mark.parametrize("labels", [[0, 1, 2, 0], [1, 1, 1, 1]], ids=str)
def test_accumulated_batches_are_one_batch(accumulate, labels):
    """Also if a class is in several of them, and if their sizes differ."""
    models = without_batch_norm(), without_batch_norm()
    labels = torch.tensor(labels)
    # The second step starts from moved centers and weights.
    found = trained(models[0], 2, labels, accumulate=accumulate)
    expected = trained(models[1], 2, labels)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-6, msg=name)
    assert_close_state(*models)
    assert bool(models[0].centers.centers.any())


def test_joint_views_equal_separate_ones_without_batch_norm():
    models = without_batch_norm(), without_batch_norm()
    found, expected = trained(models[0], 2, joint_views=True), trained(models[1], 2)
    for name in ("loss", *VIEWS):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-6, atol=1e-6)
    assert_close_state(*models)


def test_joint_views_are_two_passes():
    model, sizes = new_model().train(), []
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    joint = trained(model, joint_views=True)
    assert sizes == [WHOLE, 2 * WHOLE]
    separate = trained(new_model().train())
    assert torch.equal(joint["raw"], separate["raw"])
    assert abs(joint["crop"] - separate["crop"]) > 1e-5  # batch norm saw other images


def test_label_smoothing_spreads_the_target():
    model = without_batch_norm()
    result = OBJECTIVES["wsdan"](
        model, IMAGES, LABELS, uniforms=UNIFORMS, label_smoothing=0.3, center_weight=0.0
    )
    targets = 0.7 * F.one_hot(LABELS, 3) + 0.3 / 3
    views = {"raw": IMAGES, "crop": result["crops"], "drop": result["drops"]}
    expected = {
        name: -(targets * F.log_softmax(model(images).logits, 1)).sum(1).mean()
        for name, images in views.items()
    }
    for name, value in expected.items():
        torch.testing.assert_close(result[name], value)
    torch.testing.assert_close(result["loss"], sum(expected.values()) / 3)
    assert trained(without_batch_norm(), label_smoothing=0.3)["raw"] == result["raw"].detach()
    assert trained(without_batch_norm())["raw"] != result["raw"].detach()


def test_model_ema_by_hand():
    model = new_model().train()
    ema = ModelEma(model, 0.3)
    names = ("classifier.weight", "attention.1.running_var", "attention.1.num_batches_tracked")
    weight, variance, _ = (model.state_dict()[name].double() for name in names)
    config = settings()
    step = build_step(model, build_optimizer(model, config), config)
    for number in range(1, 5):
        ema.update(step(IMAGES, LABELS, UNIFORMS)["finite"])
        decay = min(0.3, (1 + number) / (10 + number))  # 2/11, 3/12, 0.3, 0.3
        now = model.state_dict()
        weight = decay * weight + (1 - decay) * now[names[0]].double()
        variance = decay * variance + (1 - decay) * now[names[1]].double()
    state = ema.state_dict()
    assert state["steps"] == 4
    torch.testing.assert_close(state["model"][names[0]].double(), weight, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(state["model"][names[1]].double(), variance, rtol=1e-6, atol=1e-8)
    assert state["model"][names[2]] == now[names[2]] == 12  # three passes a step
    assert not torch.equal(state["model"][names[0]], now[names[0]])
    assert not ema.module.training
    again = ModelEma(new_model(), 0.3)
    again.load_state_dict(state)
    assert again.state_dict()["steps"] == 4


def test_averaging_leaves_the_centers_alone():
    """They are the model's own; a state that averaged them, as older ones did, moves none."""
    model = new_model().train()
    ema = ModelEma(model, 0.5)
    centers = model.centers.centers
    assert ema.module.centers.centers is centers
    trained(model)
    assert centers.any()
    state = {"model": {**ema.state_dict()["model"], "centers.centers": centers + 1}, "steps": 3}
    before = centers.clone()
    ema.update(torch.ones((), dtype=torch.int64))
    ema.load_state_dict(state)
    assert torch.equal(model.centers.centers, before)
    assert ema.module.centers.centers is model.centers.centers


def test_averaging_takes_as_many_operators_whatever_the_model():
    seen = []
    for model in (torch.nn.BatchNorm1d(2), new_model()):
        ema = ModelEma(model, 0.5)
        with NoWaiting() as operators:
            ema.update(torch.ones((), dtype=torch.int64))
        seen.append(operators.seen)
    assert seen[0] == seen[1] and len(seen[0]) <= 16


def test_bfloat16_trains_float32_weights():
    models = new_model().train(), new_model().train()
    found, expected = trained(models[0], precision="bf16"), trained(models[1])
    for name in ("raw", "center"):
        assert found[name].dtype == torch.float32
        assert found[name] != expected[name]
        assert float(found[name]) == pytest.approx(float(expected[name]), rel=0.02)
    assert float(trained(models[0], 4, precision="bf16")["raw"]) < 0.2 * float(found["raw"])
    assert {value.dtype for value in models[0].parameters()} == {torch.float32}


def test_float16_scales_the_loss():
    model = new_model().train()
    before = model.classifier.weight.detach().clone()
    config = settings(precision="fp16")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    step = build_step(model, build_optimizer(model, config), config, scaler)
    found = step(IMAGES, LABELS, UNIFORMS)
    plain = new_model().train()
    expected = trained(plain)
    assert float(found["raw"]) == pytest.approx(float(expected["raw"]), rel=0.01)
    assert scaler.get_scale() == 2.0**8 and found["finite"] == 1
    moves = model.classifier.weight - before, plain.classifier.weight - before
    error = (moves[0] - moves[1]).norm() / moves[1].norm()
    assert float(error.detach()) < 0.1  # the gradient is unscaled again
    scaled = {p for p in PRECISIONS if build_scaler(settings(precision=p), CPU).is_enabled()}
    assert scaled == {"fp16"}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_overflow_in_float16_skips_the_step_and_lowers_the_scale(optimizer):
    """The step is not counted as one without a finite loss."""
    model = new_model().train()
    config = settings(optimizer, precision="fp16")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
    built = build_optimizer(model, config)
    step = build_step(model, built, config, scaler)
    before = [weight.detach().clone() for weight in model.parameters()]
    results = step(IMAGES, LABELS, UNIFORMS)
    assert results["finite"] == 1 and bool(torch.isfinite(results["loss"]))
    assert scaler.get_scale() == 2.0**99
    assert all(map(torch.equal, before, model.parameters()))
    scaler.update(2.0**8)
    assert step(IMAGES, LABELS, UNIFORMS)["finite"] == 1
    assert not any(map(torch.equal, before, model.parameters()))
    if optimizer == "adamw":
        assert {float(state["step"]) for state in built.state.values()} == {1.0}


@pytest.mark.slow
def test_a_compiled_network_trains_equally():
    compiled = without_batch_norm()
    compiled.compile()
    found, expected = trained(compiled, 2), trained(without_batch_norm(), 2)
    for name in ("loss", *VIEWS):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_whole_compiled_run(tmp_path, monkeypatch):
    """--compile, evaluation included; without inductor, which would take a minute."""
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 24)
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 8)
    compiled, compile_module = [], nn.Module.compile

    def compile_quickly(module):
        compiled.append(module)
        compile_module(module, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", compile_quickly)
    command = ["train", "--batch-size", "8", "--image-size", "32", "--epochs", "2", "--no-plots"]
    command += ["--num-attentions", "4", "--optimizer", "sgd", "--lr", "1e-3", "--eval-every", "1"]
    records = {}
    for name, options in {"eager": [], "compiled": ["--compile"]}.items():
        out = tmp_path / name
        assert main([*command, *options, "--out", str(out)]) == 0
        records[name] = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    assert len(compiled) == 1
    for found, expected in zip(records["compiled"], records["eager"], strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        assert found["val_raw"] == expected["val_raw"]
        assert found["val_refined"] == expected["val_refined"]
