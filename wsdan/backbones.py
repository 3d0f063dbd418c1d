"""Networks that turn images (B,3,H,W) into feature maps (B,C,h,w): tiny, torchvision, timm."""

from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.feature_extraction import create_feature_extractor

from wsdan.errors import UserError

# The last layer that still has a feature map, where its name is not "features".
_LAYERS = {
    "inception_v3": "Mixed_6e",
    "googlenet": "inception5b",
    "resnet": "layer4",
    "resnext": "layer4",
    "wide_resnet": "layer4",
    "regnet": "trunk_output",
    "shufflenet": "conv5",
    "swin": "permute",
}
_PROBE_SIZE = 320


@dataclass(frozen=True)
class Backbone:
    """A feature network and what it makes of an image.

    network: images (B,3,H,W) -> features (B,channels,h,w), h about H / stride.
    """

    network: nn.Module
    channels: int
    stride: int


def build_backbone(name: str, pretrained: bool = False) -> Backbone:
    """The backbone called `name`.

    name: "tiny", a torchvision model ("resnet18"), one of its layers ("inception_v3:Mixed_7c"), or
    "timm/NAME". pretrained: load published ImageNet weights, which may download them.

    Raises UserError for a name, layer or weights that cannot be had.
    """
    if name == "tiny":
        if pretrained:
            raise UserError("--pretrained: the tiny backbone has no published weights")
        network = Tiny()
    elif name.startswith("timm/"):
        network = _timm(name.removeprefix("timm/"), pretrained)
    else:
        network = _torchvision(name, pretrained)
    features = _probe(network, name)
    if features.dim() != 4:
        raise UserError(
            f"--backbone {name}: its output has shape {tuple(features.shape)}, "
            "but a feature map (B, C, h, w) is needed; name a layer as NAME:LAYER"
        )
    return Backbone(network, features.shape[1], round(_PROBE_SIZE / features.shape[2]))


@torch.no_grad()
def _probe(network: nn.Module, name: str) -> Tensor:
    """The network's output on one empty picture."""
    try:
        return network.eval()(torch.zeros(1, 3, _PROBE_SIZE, _PROBE_SIZE))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--backbone {name}: takes no picture of {_PROBE_SIZE} x {_PROBE_SIZE} pixels: {reason}"
        ) from None
    finally:
        network.train()


class Tiny(nn.Sequential):
    """A small residual network of stride 8 for the embedded pictures: 64 channels.

    It sees a picture as averages of 8x8 pixels, so small marks are lost to it unless the picture
    is enlarged: it makes looking closer pay, for a network that runs in minutes on a CPU.
    """

    def __init__(self):
        super().__init__(
            nn.AvgPool2d(8), _conv_bn_relu(3, 48), _Residual(48), _conv_bn_relu(48, 64)
        )


class _Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.first = _conv_bn_relu(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.second(self.first(x))))


def _conv_bn_relu(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _torchvision(name: str, pretrained: bool) -> nn.Module:
    model_name, _, layer = name.partition(":")
    if model_name not in torchvision.models.list_models(module=torchvision.models):
        raise UserError(
            f"--backbone {name}: torchvision has no classification model {model_name!r}; "
            "take a name such as resnet50, inception_v3, vgg19, efficientnet_b0, or timm/NAME"
        )
    options = {"weights": "DEFAULT" if pretrained else None}
    if model_name in ("inception_v3", "googlenet") and not pretrained:
        options["init_weights"] = True
    try:
        model = torchvision.models.get_model(model_name, **options)
    except OSError as error:
        weights = torchvision.models.get_model_weights(model_name).DEFAULT
        raise UserError(
            f"--pretrained: cannot fetch {weights.url} ({error}); put the file into "
            f"{torch.hub.get_dir()}/checkpoints and try again"
        ) from None
    layer = layer or _default_layer(model_name)
    try:
        return _Layer(model, layer)
    except (ValueError, TypeError, AssertionError) as error:  # what tracing the model raises
        reason = str(error).splitlines()[0]
        raise UserError(f"--backbone {name}: cannot take layer {layer!r}: {reason}") from None


def _default_layer(model_name: str) -> str:
    family = max((key for key in _LAYERS if model_name.startswith(key)), key=len, default=None)
    return _LAYERS[family] if family else "features"


class _Layer(nn.Module):
    """A torchvision model cut after one layer; the rest is pruned."""

    def __init__(self, model: nn.Module, layer: str):
        super().__init__()
        self.body = create_feature_extractor(model, {layer: "features"}, suppress_diff_warning=True)

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)["features"]


def _timm(name: str, pretrained: bool) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise UserError("--backbone timm/...: install it with pip install 'wsdan[timm]'") from None
    if name not in timm.list_models(name):
        raise UserError(f"--backbone timm/{name}: timm has no model {name!r}")
    return timm.create_model(name, pretrained=pretrained, num_classes=0, global_pool="")
