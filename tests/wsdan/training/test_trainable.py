"""Steps of few images, and networks of which a part is unused."""

from dataclasses import replace

import pytest
import torch
from ranks import run_ranks
from runs import SMALL, refused
from torch import nn
from training import settings

from wsdan.data import loaders
from wsdan.distributed import process_group
from wsdan.errors import UserError
from wsdan.networks import backbones
from wsdan.networks.backbones import Tiny, build_backbone
from wsdan.networks.model import WSDAN, PlainClassifier
from wsdan.networks.trainable import check_single_image, freeze_unused
from wsdan.training.optim import build_optimizer
from wsdan.training.state import new_state
from wsdan.training.step import build_step

CPU = torch.device("cpu")


class Branched(Tiny):
    """With a convolution that its output does not depend on."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Conv2d(3, 3, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for layer in list(self)[:-1]:
            images = layer(images)
        return images


@pytest.fixture
def few_images(monkeypatch):
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 8)
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 2)


@pytest.mark.parametrize(("images", "sizes"), [(5, [3, 2]), (3, [3]), (2, [2]), (8, [2, 2, 2, 2])])
def test_no_part_of_a_step_is_a_single_image(images, sizes):
    """Of which batch norm would have one value, at maps of a single pixel."""
    torch.manual_seed(0)
    model = PlainClassifier(build_backbone("tiny"), 3).train()
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    config = settings(method="baseline", accumulate=4)
    step = build_step(model, build_optimizer(model, config), config)
    labels = torch.arange(images) % 3
    assert step(torch.randn(images, 3, 8, 8), labels, torch.rand(images, 4))["finite"] == 1
    assert seen == sizes


def test_a_step_of_one_image_is_refused_before_anything_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("wsdan.training.loop.train", None)
    error = refused(capsys, *SMALL, "--batch-size", "1", "--out", tmp_path / "out")
    assert "--batch-size 1: batch norm cannot train on a step of a single image" in error
    assert not (tmp_path / "out").exists()


def test_parts_of_one_image_are_refused_where_maps_are_a_single_pixel(few_images):
    config = replace(settings(num_attentions=4, accumulate=2), batch_size=1, image_size=8)
    model = WSDAN("tiny", num_classes=3, num_attentions=4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match="--batch-size 1: at --image-size 8 the network has maps"):
        check_single_image(model, (3, 8, 8))
    check_single_image(model, (3, 16, 16))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(UserError, match="pass --batch-size 2"):
        new_state(config, ["a", "b", "c"], CPU, None)


def test_unused_weights_are_frozen(monkeypatch):
    monkeypatch.setattr(backbones, "Tiny", Branched)
    model = WSDAN("tiny", num_classes=3, num_attentions=4)
    assert freeze_unused(model, (3, 32, 32)) == ["backbone.unused.weight", "backbone.unused.bias"]
    assert model.training
    frozen = [name for name, weight in model.named_parameters() if not weight.requires_grad]
    assert frozen == ["backbone.unused.weight", "backbone.unused.bias"]


@pytest.mark.slow
def test_a_stage_of_a_network_with_branches():
    """timm prunes no branch of an HRNet: those that a stage does not use have no gradient."""
    pytest.importorskip("timm", reason="timm is an extra")
    model = WSDAN(build_backbone("timm/hrnet_w18_small:1"), num_classes=3, num_attentions=4)
    assert len(freeze_unused(model, (3, 64, 64))) > 10
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    model.train()(torch.randn(2, 3, 64, 64)).logits.sum().backward()
    assert all(weight.grad is not None for weight in weights)


def train_two_steps(rank: int) -> None:
    backbones.Tiny = Branched
    with process_group(CPU):
        config = settings(num_attentions=4, image_size=32)
        batches, classes = loaders.train_loader(config)
        state = new_state(config, classes, CPU, batches.batch_sampler)
        step = build_step(state.model.train(), state.optimizer, config, state.scaler)
        for _ in range(3):
            images = torch.randn(2, 3, 32, 32)
            assert step(images, torch.tensor([0, 1]), torch.rand(2, 4))["finite"] == 1
        assert state.model.backbone.unused.weight.grad is None


@pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch has no distributed package"
)
def test_ranks_train_a_network_with_unused_weights(few_images):
    run_ranks(train_two_steps)
