"""The optimizer's groups, learning rates by depth, and the schedules."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from wsdan.config import Config
from wsdan.networks import torchvision_backbones
from wsdan.networks.backbones import Backbone, build_backbone
from wsdan.networks.layers import parameter_layers
from wsdan.networks.model import WSDAN, PlainClassifier
from wsdan.networks.tiny import Tiny
from wsdan.training.optim import build_lr_scheduler, build_optimizer

DECAY = {"optimizer": "adamw", "lr": 1e-2, "layer_decay": 0.5, "weight_decay": 0.1}


def config(**settings) -> Config:
    return Config(**{**DECAY, **settings}).resolved()


def rates(optimizer: torch.optim.Optimizer) -> dict[int, float]:
    """The learning rate of each parameter, by id; each must be in one group."""
    found = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert id(parameter) not in found
            found[id(parameter)] = group["lr"]
    return found


def small_vit() -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=24, num_heads=2, num_classes=0,
        global_pool="",
    )  # fmt: skip


def small_swin() -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=64, depths=(1, 2), num_heads=(1, 2), embed_dim=8,
        window_size=4, num_classes=0, global_pool="",
    )  # fmt: skip


def small_convnext() -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.create_model(
        "convnext_atto", depths=(1, 1, 2, 1), dims=(4, 4, 8, 8), num_classes=0, global_pool=""
    )


def named(name: str):
    """Of torchvision, without its weights."""

    def build() -> nn.Module:
        with torch.device("meta"):
            return torchvision_backbones.build(name, None)

    return build


# A network, parameters of its first and of its last layer, and how many layers it has.
NETWORKS = {
    "tiny": (Tiny, "1.0.weight", "3.1.bias", 3),
    "resnet": (named("resnet18"), "body.bn1.weight", "body.layer4.1.conv2.weight", 9),
    "squeezenet": (
        named("squeezenet1_1"), "body.features.0.bias", "body.features.12.expand3x3.weight", 9,
    ),
    "torchvision's convnext": (
        named("convnext_tiny"), "body.features.0.1.weight", "body.features.7.2.layer_scale", 22,
    ),
    "torchvision's swin": (named("swin_t"), "body.features.0.2.bias", "body.norm.weight", 16),
    "vit": (small_vit, "pos_embed", "norm.weight", 3),
    "swin": (small_swin, "patch_embed.proj.weight", "norm.weight", 4),
    "convnext": (small_convnext, "stem.0.weight", "head.norm.weight", 7),
}  # fmt: skip


@pytest.mark.parametrize("case", NETWORKS)
def test_layers_cover_a_network_in_its_order(case):
    build, first, last, count = NETWORKS[case]
    network = build()
    layers = parameter_layers(network)
    assert layers.keys() == dict(network.named_parameters()).keys()
    assert set(layers.values()) == set(range(count))
    assert layers[first] == 0
    assert layers[last] == count - 1


def test_layers_of_a_stage_of_timm():
    pytest.importorskip("timm")
    network = build_backbone("timm/resnet18:1").network
    layers = parameter_layers(network)
    assert layers.keys() == dict(network.named_parameters()).keys()
    found = [layers[f"model.{name}.weight"] for name in ("bn1", "layer1.0.bn1", "layer1.1.bn2")]
    assert (found, max(layers.values())) == ([0, 1, 2], 2)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("method", ["wsdan", "baseline"])
@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_every_parameter_is_in_one_group_with_its_rate(optimizer, method, decay):
    tiny = build_backbone("tiny")
    model = WSDAN(tiny, 3, 4) if method == "wsdan" else PlainClassifier(tiny, 3)
    settings = config(optimizer=optimizer, layer_decay=decay, classifier_lr_scale=3.0)
    found = rates(build_optimizer(model, settings))
    assert len(found) == len(list(model.parameters()))
    depth = {"backbone.1": 3, "backbone.2": 2, "backbone.3": 1, "attention": 0}
    for name, parameter in model.named_parameters():
        if name.startswith("classifier"):
            assert found[id(parameter)] == pytest.approx(3e-2)
        else:
            part = next(part for part in depth if name.startswith(part))
            assert found[id(parameter)] == pytest.approx(1e-2 * decay ** depth[part]), name


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_adamw_decays_the_matrices_of_the_body_alone(decay):
    model = WSDAN("tiny", 3, 4)
    decayed = {
        id(parameter)
        for group in build_optimizer(model, config(layer_decay=decay)).param_groups
        for parameter in group["params"]
        if group["weight_decay"]
    }
    expected = {
        id(parameter)
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1 and not name.startswith("classifier")
    }
    assert decayed == expected


def test_without_layer_decay_the_groups_are_those_of_older_checkpoints():
    """A checkpoint's optimizer knows its parameters by their place in the groups."""
    model = WSDAN("tiny", 3, 4)
    body = [item for name, item in model.named_parameters() if not name.startswith("classifier")]
    head = list(model.classifier.parameters())
    sgd = build_optimizer(model, config(optimizer="sgd", layer_decay=1.0)).param_groups
    adamw = build_optimizer(model, config(layer_decay=1.0)).param_groups
    matrices, vectors = [x for x in body if x.dim() > 1], [x for x in body if x.dim() <= 1]
    for groups, expected in ((sgd, [body, head]), (adamw, [matrices, vectors, head])):
        found = [[id(item) for item in group["params"]] for group in groups]
        assert found == [[id(item) for item in group] for group in expected]


def test_layers_of_a_stage_and_of_the_attention_take_a_step():
    """A group without a matrix is none that the fused optimizer stumbles over."""
    network = small_convnext()
    model = WSDAN(Backbone(network, 8, 32), 3, 2)
    optimizer = build_optimizer(model, config())
    before = [item.detach().clone() for item in model.parameters()]
    model(torch.randn(2, 3, 64, 64)).logits.logsumexp(1).sum().backward()
    optimizer.step()
    moved = [not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True)]
    assert sum(moved) > len(moved) // 2
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-2)  # the one that is logged


def schedule(steps: int, **settings) -> list[float]:
    """The learning rate of each step, as a share of the whole."""
    options = SimpleNamespace(**{"epochs": 4, "warmup": 0.0, "schedule": "step", **settings})
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build_lr_scheduler(optimizer, options, steps)
    found = []
    for _ in range(options.epochs * steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def test_the_exponential_schedule_meets_the_steps():
    """x0.9 over two epochs, as CAL's adjust_learning: 0.9^((epoch + step / steps) / 2)."""
    smooth, stairs = schedule(5, schedule="exponential"), schedule(5, schedule="step")
    assert smooth[::10] == pytest.approx(stairs[::10])
    assert smooth == pytest.approx([0.9 ** ((i // 5 + i % 5 / 5) / 2) for i in range(20)])
    assert smooth == sorted(smooth, reverse=True)


def test_warm_up_leads_to_every_schedule():
    for name in ("step", "exponential", "cosine"):
        found = schedule(5, schedule=name, warmup=0.2)
        assert found[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
        assert found[4] > 0.8
