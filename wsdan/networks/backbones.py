"""Backbones: networks from images (B,3,H,W) to feature maps (B,C,h,w), by name."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wsdan.config import UNPUBLISHED
from wsdan.errors import UserError
from wsdan.networks import timm_backbones, torchvision_backbones
from wsdan.networks.scaling import InputScaling
from wsdan.networks.state_dicts import StateDicts
from wsdan.networks.tiny import Tiny
from wsdan.networks.weights import fetch_weights, load_backbone_weights

_PROBE_SIZE = 320  # pixels; input of models that take any size


@dataclass(frozen=True)
class Backbone:
    """A feature network with its number of output channels and its stride.

    network: images (B,3,H,W) -> features (B,channels,h,w), h about H / stride.
    """

    network: nn.Module
    channels: int
    stride: int


def check_backbone(name: str, drop_path: float | None = None) -> None:
    """Raise UserError, with the three closest names, for an unknown model, layer or stage; and for
    drop_path, if it is given, where the model has no blocks that can be skipped.

    Builds no weights; timm is imported for its own names only.
    """
    if name.startswith("timm/"):
        timm_backbones.check_name(name.removeprefix("timm/"))
        if drop_path is not None:
            timm_backbones.check_drop_path(name.removeprefix("timm/"), drop_path)
    elif name != "tiny":
        torchvision_backbones.check_name(name)
        if drop_path is not None:
            torchvision_backbones.check_drop_path(name, drop_path)
    elif drop_path is not None:
        raise UserError(f"--drop-path: {name} has no blocks that can be skipped")


def build_backbone(
    name: str,
    pretrained: bool = False,
    weights: dict[str, Tensor] | StateDicts | None = None,
    drop_path: float | None = None,
) -> Backbone:
    """Build a backbone by name.

    Args:
        name: "tiny"; a torchvision model ("resnet18"), one of its layers
            ("inception_v3:Mixed_7c"), of a ResNet without the last stride ("resnet101:layer4:16",
            as in CAL); "timm/NAME", or one of its stages ("timm/resnet18:2").
        pretrained: load the published ImageNet weights, downloading them if needed.
        weights: load this state dict of the whole torchvision or timm model, or the one of a file
            that fits.
        drop_path: in [0,1), the rate at which the last block is skipped in training; those before
            it rise linearly to it. None: the network's own rates.

    Raises:
        UserError: an unknown name, layer or stage, a layer without a feature map, weights that
            cannot be downloaded or do not fit, or drop_path for a network that skips no blocks.
    """
    if pretrained:
        weights = pretrained_weights(name)
    if name == "tiny":
        check_backbone(name, drop_path)
        network = Tiny()
        if weights is not None:
            load_backbone_weights(network, weights, set(), name)
    elif name.startswith("timm/"):
        network = timm_backbones.build(name.removeprefix("timm/"), weights, drop_path)
    else:
        network = torchvision_backbones.build(name, weights, drop_path)
    size = getattr(network, "fixed_size", None) or _PROBE_SIZE
    features = _probe(network, name, size)
    if features.dim() != 4 or features.shape[2] != features.shape[3]:  # (B,h,w,C) as of swin_t
        other = "" if name.startswith("timm/") else "a layer as NAME:LAYER, or "
        raise UserError(
            f"--backbone {name}: its output has shape {tuple(features.shape)}, but a feature map "
            f"(B, C, h, w) is needed; name {other}a stage of timm's as timm/NAME:STAGE"
        )
    return Backbone(network, features.shape[1], round(size / features.shape[2]))


def pretrained_weights(name: str) -> dict[str, Tensor]:
    """The published ImageNet weights of a whole backbone, downloaded unless they were before.

    Raises UserError if there are none or they cannot be downloaded.
    """
    if name == UNPUBLISHED:
        raise UserError(f"--pretrained: the {name} backbone has no published weights")
    if name.startswith("timm/"):
        return fetch_weights(timm_backbones.published_weights(name.removeprefix("timm/")))
    return fetch_weights(torchvision_backbones.published_weights(name))


@torch.no_grad()
def set_in_channels(network: nn.Module, channels: int) -> None:
    """Make a network of images (B,3,H,W) one of images (B,channels,H,W), channels 1, 3 or 4.

    As in timm, the first convolution's weights are summed over their inputs for grey images; for a
    fourth channel those of the first are repeated, and all scaled by 3/4.

    Raises UserError for a network without a convolution of three inputs.
    """
    if channels == 3:
        return
    first = next(
        (m for m in network.modules() if isinstance(m, nn.Conv2d) and m.in_channels == 3), None
    )
    if first is None:
        raise UserError(f"--in-channels {channels}: the backbone has no convolution of RGB images")
    weight = first.weight
    if channels == 1:
        weight = weight.sum(dim=1, keepdim=True)
    else:
        weight = torch.cat((weight, weight[:, :1]), dim=1) * (3 / channels)
    first.weight = nn.Parameter(weight)
    first.in_channels = channels
    for module in network.modules():
        if isinstance(module, InputScaling):
            module.set_channels(channels)


def name_with_layer(name: str) -> str:
    """A backbone's name with its layer: "resnet18" -> "resnet18:layer4"."""
    if name == "tiny" or name.startswith("timm/") or ":" in name:
        return name
    return f"{name}:{torchvision_backbones.default_layer(name)}"


@torch.no_grad()
def _probe(network: nn.Module, name: str, size: int) -> Tensor:
    """The network's output for one image of zeros."""
    try:
        return network.eval()(torch.zeros(1, 3, size, size))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--backbone {name}: takes no image of {size} x {size} pixels: {reason}"
        ) from None
    finally:
        network.train()
