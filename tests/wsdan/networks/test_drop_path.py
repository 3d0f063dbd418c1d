"""--drop-path: the rates of the blocks, who draws them, and networks that have none."""

from itertools import pairwise

import pytest
import torch
from runs import SMALL, refused
from torchvision.ops import StochasticDepth

from wsdan.networks import torchvision_backbones
from wsdan.networks.backbones import build_backbone
from wsdan.networks.model import WSDAN


def rates(name: str, rate: float, monkeypatch) -> list[float]:
    """The rates of a torchvision model's blocks when its layers are traced."""
    found = []

    def see(model, *_):
        found.extend(m.p for m in model.modules() if isinstance(m, StochasticDepth))
        raise ValueError("seen")

    monkeypatch.setattr(torchvision_backbones, "_LayerOutput", see)
    monkeypatch.setattr(torchvision_backbones, "_check_layer", lambda *_: None)
    with torch.device("meta"), pytest.raises(Exception, match="seen"):
        torchvision_backbones.build(name, None, rate)
    return found


@pytest.mark.parametrize("name", ["convnext_tiny", "swin_t"])
def test_torchvisions_rates_rise_to_the_one_given(name, monkeypatch):
    found = rates(name, 0.4, monkeypatch)
    steps = [b - a for a, b in pairwise(found)]
    assert found[0] == 0 and found[-1] == pytest.approx(0.4)
    assert steps == pytest.approx([0.4 / (len(found) - 1)] * len(steps))


def test_a_rate_of_0_skips_nothing(monkeypatch):
    assert set(rates("convnext_tiny", 0.0, monkeypatch)) == {0.0}


def test_timms_rates():
    timm = pytest.importorskip("timm")
    network = build_backbone("timm/test_convnext", drop_path=0.4).network
    found = [m.drop_prob for m in network.modules() if isinstance(m, timm.layers.DropPath)]
    assert found == sorted(found) and found[-1] == pytest.approx(0.4)
    own = build_backbone("timm/test_convnext").network
    assert not [m for m in own.modules() if isinstance(m, timm.layers.DropPath)]


def test_blocks_are_skipped_in_training_alone():
    pytest.importorskip("timm")
    torch.manual_seed(0)
    model = WSDAN(build_backbone("timm/test_convnext", drop_path=0.9), 3, 2)
    images = torch.randn(2, 3, 64, 64)
    model.train()
    assert not torch.equal(model(images).logits, model(images).logits)
    model.eval()
    assert torch.equal(model(images).logits, model(images).logits)


def test_the_traced_network_skips_blocks_in_training():
    """torch.fx keeps the rates."""
    torch.manual_seed(0)
    network = build_backbone("efficientnet_b0:features.3", drop_path=0.99).network
    images = torch.randn(2, 3, 32, 32)
    network.train()
    torch.manual_seed(1)
    outputs = [network(images) for _ in range(8)]
    assert not all(torch.equal(output, outputs[0]) for output in outputs)
    torch.manual_seed(1)
    assert torch.equal(network(images), outputs[0])
    network = build_backbone("efficientnet_b0:features.3", drop_path=0.0).network.train()
    assert torch.equal(network(images), network(images))


@pytest.mark.parametrize("name", ["tiny", "resnet18", "timm/vgg11"])
def test_a_network_without_blocks_is_refused(name, tmp_path, capsys):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    options = ["--drop-path", "0.2", "--backbone", name, "--out", str(tmp_path / "run")]
    error = refused(capsys, *SMALL, *options)
    assert f"--drop-path: {name} has no blocks that can be skipped" in error


@pytest.mark.parametrize("value", ["1", "-0.1", "nan"])
def test_it_is_below_1(value, capsys):
    assert "--drop-path must be" in refused(capsys, "train", f"--drop-path={value}")
