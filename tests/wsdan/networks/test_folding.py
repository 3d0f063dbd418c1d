"""Batch norms folded into the convolutions before them: what is folded, and that it is equal."""

import copy
import json

import pytest
import torch
from source_networks import zero_initialization
from torch import nn

from wsdan.checkpoint import save_checkpoint
from wsdan.cli import main
from wsdan.config import Config
from wsdan.data import loaders
from wsdan.data.synthetic import CLASSES
from wsdan.inference import classifier
from wsdan.inference.classifier import Classifier
from wsdan.networks.backbones import build_backbone
from wsdan.networks.folding import find_pairs, fold_batch_norms
from wsdan.networks.model import WSDAN, build_model

# Backbone, its batch norms, and those of them that follow a convolution directly.
BACKBONES = [
    ("resnet18", 20, 20),
    ("densenet121:features.denseblock1", 13, 7),
    ("vgg11_bn:features.13", 4, 4),
    ("inception_v3:Mixed_5d", 26, 26),
    ("efficientnet_b0:features.4", 24, 24),
    ("mobilenet_v3_small", 34, 34),
    ("convnext_tiny:features.1", 0, 0),
    ("shufflenet_v2_x0_5", 56, 56),
    ("regnet_y_400mf", 53, 53),
    ("timm/resnet18:2", 10, 10),
    ("timm/resnetv2_50:1", 9, 6),
    ("timm/tf_efficientnet_lite0:2", 15, 15),  # Conv2dSame, BatchNormAct2d
    ("timm/mobilevit_xxs", 32, 32),  # torch.fx traces its children only
    ("timm/repvgg_a0", 61, 44),
]


def norms(model: nn.Module) -> list[nn.Module]:
    kind = nn.modules.batchnorm._BatchNorm
    return [item for item in model.modules() if isinstance(item, kind)]


@torch.no_grad()
def with_statistics(model: nn.Module) -> nn.Module:
    """The model, in evaluation mode, with random weights, and statistics of its batch norms."""
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        scale = weight[0].numel() ** -0.5 if weight.dim() > 1 else 0.1
        weight.uniform_(-2 * scale, 2 * scale, generator=generator)
    for norm in norms(model):
        if norm.track_running_stats:
            norm.running_mean.normal_(0, 0.3, generator=generator)
            norm.running_var.uniform_(0.5, 2, generator=generator)
        if norm.affine:
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.bias.normal_(0, 0.3, generator=generator)
    return model.eval()


def images(size: int = 64, channels: int = 3) -> torch.Tensor:
    return torch.randn((2, channels, size, size), generator=torch.Generator().manual_seed(2))


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def assert_folds(model: nn.Module, inputs: torch.Tensor, pairs: int) -> nn.Module:
    """`pairs` batch norms of the model are folded, and its output stays, in both precisions."""
    for dtype, limit in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        folded = copy.deepcopy(model).to(dtype).eval()
        expected = folded(inputs.to(dtype))
        count = len(norms(folded))
        assert fold_batch_norms(folded) is folded
        assert count - len(norms(folded)) == pairs
        assert error(folded(inputs.to(dtype)), expected) < limit
        assert find_pairs(folded) == []  # folding twice changes nothing
    return folded


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count", "pairs"), BACKBONES, ids=str)
def test_every_backbone_folds(name, count, pairs):
    if name.startswith("timm/"):
        pytest.importorskip("timm", reason="timm is an extra")
    with zero_initialization():
        network = build_backbone(name).network
    with_statistics(network)
    assert len(norms(network)) == count
    assert_folds(network, images(75 if "inception" in name else 64), pairs)


@pytest.mark.parametrize(
    ("conv", "channels"),
    [
        (nn.Conv2d(4, 6, 3, bias=False), 6),
        (nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2, padding_mode="reflect"), 6),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), 6),
    ],
    ids=["plain", "grouped", "transposed"],
)
@pytest.mark.parametrize("affine", [True, False])
def test_convolutions(conv, channels, affine):
    layers = (conv, nn.BatchNorm2d(channels, affine=affine), nn.ReLU(inplace=True))
    assert_folds(with_statistics(nn.Sequential(*layers)), images(9, 4), 1)


class Shared(nn.Module):
    """A convolution and its batch norm; by `kind`, something of theirs is used once more."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        if self.kind == "output":
            return self.norm(y) + y
        if self.kind == "convolution":
            return self.norm(self.conv(y))
        if self.kind == "norm":
            return self.norm(self.norm(y))
        return self.norm(y) * self.conv.weight.mean() if self.kind == "weight" else self.norm(y)


class Doubled(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class Branching(nn.Module):
    """torch.fx cannot trace it, but its child."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = Shared("nothing"), nn.Sequential(nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer(self.inner(x)) if float(x.mean()) > -100 else x


def with_a_hook() -> nn.Module:
    model = Shared("nothing")
    model.conv.register_forward_hook(lambda module, inputs, output: output + 1)
    return model


def named_twice() -> nn.Module:
    model = Branching()
    model.outer.append(model.inner.conv)
    return model


@pytest.mark.parametrize(
    ("model", "pairs"),
    [
        (Shared("nothing"), 1),
        (Branching(), 1),
        *((Shared(kind), 0) for kind in ("output", "convolution", "norm", "weight")),
        (with_a_hook(), 0),
        (named_twice(), 0),
        (nn.Sequential(Doubled(4, 4, 1), nn.BatchNorm2d(4)), 0),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)), 0),
        (nn.Sequential(nn.ConvTranspose2d(4, 4, 1, groups=2), nn.BatchNorm2d(4)), 0),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)), 0),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.InstanceNorm2d(4)), 0),
    ],
)
def test_only_what_is_certain_is_folded(model, pairs):
    assert_folds(with_statistics(model), images(9, 4), pairs)


@pytest.mark.parametrize(
    ("attention", "left"), [("conv", [nn.BatchNorm2d]), ("conv3x3", []), ("slice", [])]
)
def test_a_wsdan_keeps_its_fused_head(attention, left):
    """The 1x1 head's batch norm is computed with the pooling, with as well as without gradients."""
    torch.manual_seed(0)
    model = with_statistics(WSDAN("tiny", num_classes=3, num_attentions=4, attention=attention))
    folded = fold_batch_norms(nn.DataParallel(copy.deepcopy(model))).module
    assert [type(norm) for norm in norms(folded)] == left
    assert folded._can_fuse() == model._can_fuse()
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            for found, expected in zip(folded(images()), model(images()), strict=True):
                assert found is expected is None or error(found.detach(), expected.detach()) < 1e-5


def test_eval_and_predictions_are_those_of_the_unfolded_model(tmp_path, capsys, monkeypatch):
    config = Config(image_size=48, num_attentions=4, tta=True).resolved()
    torch.manual_seed(0)
    model, path = with_statistics(build_model(config, 16)), tmp_path / "best.pt"
    save_checkpoint(path, config, list(CLASSES), {"model": model.state_dict()})
    inputs = images(48)
    folded, unfolded = Classifier(path), Classifier(path, fold=False)
    assert (len(norms(folded.model)), len(norms(unfolded.model))) == (1, 5)
    assert unfolded.model.state_dict().keys() == model.state_dict().keys()
    for found, expected in zip(folded.predict(inputs), unfolded.predict(inputs), strict=True):
        torch.testing.assert_close(found, expected)
    command = ["eval", "--checkpoint", str(path), "--json"]
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 24)
    assert main(command) == 0
    monkeypatch.setattr(classifier, "fold_batch_norms", lambda model: model)
    assert main(command) == 0
    found, expected = map(json.loads, capsys.readouterr().out.splitlines())
    for name in ("raw", "refined", "mean", "tta", "localised", "confusion", "per_class"):
        assert found[name] == expected[name], name
    assert found["ece"] == pytest.approx(expected["ece"], abs=1e-4)
