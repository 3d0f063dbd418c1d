"""Networks that turn images (B,3,H,W) into feature maps (B,C,h,w): tiny, torchvision, timm."""

from dataclasses import dataclass
from types import ModuleType

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.feature_extraction import create_feature_extractor

from wsdan.constants import IMAGENET_MEAN, IMAGENET_STD
from wsdan.errors import UserError
from wsdan.networks.weights import Fetchable, fetch, fit_weights

# The last layer that still has a feature map, where its name is not "features".
_LAYERS = {
    "inception_v3": "Mixed_6e",
    "googlenet": "inception5b",
    "resnet": "layer4",
    "resnext": "layer4",
    "wide_resnet": "layer4",
    "regnet": "trunk_output",
    "shufflenet": "conv5",
    "mnasnet": "layers",
    "swin": "permute",
    "maxvit": "blocks.3",
    "vit": "encoder",  # gives no map, which is then said
}
# Networks whose published weights were trained on images of mean 0.5 and deviation 0.5.
_HALVES = ("inception_v3", "googlenet", "efficientnet_v2_l")
_INITIALIZED = ("inception_v3", "googlenet")  # the two that want to be told to draw their weights
_FIXED = ("maxvit", "vit")  # take images of one size
_FIXED_SIZE = 224
_PROBE_SIZE = 320


@dataclass(frozen=True)
class Backbone:
    """A feature network and what it makes of an image.

    network: images (B,3,H,W) -> features (B,channels,h,w), h about H / stride.
    """

    network: nn.Module
    channels: int
    stride: int


def build_backbone(
    name: str, pretrained: bool = False, weights: dict[str, Tensor] | None = None
) -> Backbone:
    """The backbone called `name`.

    name: "tiny"; a torchvision model ("resnet18"), one of its layers ("inception_v3:Mixed_7c"), of
    a ResNet without the last stride ("resnet101:layer4:16", as CAL's); "timm/NAME", or one of its
    stages ("timm/resnet18:2"). pretrained: load published ImageNet weights, which may download
    them. weights: the same as a state dict of the whole torchvision or timm model.

    Raises UserError for a name, layer or weights that cannot be had or do not fit.
    """
    if name == "tiny":
        if pretrained:
            raise UserError("--pretrained: the tiny backbone has no published weights")
        network = Tiny()
        if weights is not None:
            fit_weights(network, weights, set(), name)
    elif name.startswith("timm/"):
        network = _timm(name.removeprefix("timm/"), pretrained, weights)
    else:
        network = _torchvision(name, pretrained, weights)
    size = getattr(network, "fixed_size", None) or _PROBE_SIZE
    features = _probe(network, name, size)
    if features.dim() != 4 or features.shape[2] != features.shape[3]:  # (B,h,w,C) as of swin_t
        other = "" if name.startswith("timm/") else "a layer as NAME:LAYER, or "
        raise UserError(
            f"--backbone {name}: its output has shape {tuple(features.shape)}, but a feature map "
            f"(B, C, h, w) is needed; name {other}a stage of timm's as timm/NAME:STAGE"
        )
    return Backbone(network, features.shape[1], round(size / features.shape[2]))


def full_name(name: str) -> str:
    """A backbone's name with its layer: "resnet18" -> "resnet18:layer4"."""
    if name == "tiny" or name.startswith("timm/") or ":" in name:
        return name
    return f"{name}:{_default_layer(name)}"


@torch.no_grad()
def _probe(network: nn.Module, name: str, size: int) -> Tensor:
    """The network's output on one empty image."""
    try:
        return network.eval()(torch.zeros(1, 3, size, size))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--backbone {name}: takes no image of {size} x {size} pixels: {reason}"
        ) from None
    finally:
        network.train()


class InputScaling(nn.Module):
    """images (B,3,H,W) of ImageNet's statistics -> the same images normalised as a network's
    published weights expect them.

    Buffers, not settings: a checkpoint says by itself how its images are scaled. One from before
    there was scaling has none.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        pairs = list(zip(IMAGENET_MEAN, IMAGENET_STD, mean, std, strict=True))
        scale = [from_std / to_std for _, from_std, _, to_std in pairs]
        shift = [(from_mean - to_mean) / to_std for from_mean, _, to_mean, to_std in pairs]
        self.register_buffer("scale", torch.tensor(scale).view(3, 1, 1))
        self.register_buffer("shift", torch.tensor(shift).view(3, 1, 1))
        self.register_load_state_dict_pre_hook(_without_scaling)

    def forward(self, images: Tensor) -> Tensor:
        return images * self.scale + self.shift


def _without_scaling(module: InputScaling, state: dict, prefix: str, *_: object) -> None:
    state.setdefault(prefix + "scale", torch.ones_like(module.scale))
    state.setdefault(prefix + "shift", torch.zeros_like(module.shift))


def _scaling(mean: tuple[float, ...], std: tuple[float, ...]) -> InputScaling | None:
    same = tuple(mean) == IMAGENET_MEAN and tuple(std) == IMAGENET_STD
    return None if same else InputScaling(mean, std)


class Tiny(nn.Sequential):
    """A small residual network of stride 8 for the embedded images: 64 channels.

    It sees an image as averages of 8x8 pixels, so small marks are lost to it unless the image
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


def _torchvision(name: str, pretrained: bool, weights: dict[str, Tensor] | None) -> nn.Module:
    model_name, _, layer = name.partition(":")
    layer, _, stride = layer.partition(":")
    if model_name not in torchvision.models.list_models(module=torchvision.models):
        raise UserError(
            f"--backbone {name}: torchvision has no classification model {model_name!r}; "
            "take a name such as resnet50, inception_v3, vgg19, efficientnet_b0, or timm/NAME"
        )
    if pretrained:
        weights = fetch(_torchvision_weights(model_name))
    options = {"init_weights": weights is None} if model_name in _INITIALIZED else {}
    model = torchvision.models.get_model(model_name, weights=None, **options)
    if stride:
        _drop_last_stride(model, name, stride)
    known = set(model.state_dict())
    layer = layer or _default_layer(model_name)
    try:
        network = _Layer(model, layer, model_name in _HALVES)
    except (ValueError, TypeError, AssertionError) as error:  # what tracing the model raises
        reason = str(error).split(". ")[0]
        raise UserError(
            f"--backbone {name}: cannot take layer {layer!r}: {reason}; name one as NAME:LAYER"
        ) from None
    if model_name.startswith(_FIXED):
        network.fixed_size = _FIXED_SIZE
    if weights is not None:
        fit_weights(network.body, weights, known, name)
    return network


def _default_layer(model_name: str) -> str:
    family = max((key for key in _LAYERS if model_name.startswith(key)), key=len, default=None)
    return _LAYERS[family] if family else "features"


def _drop_last_stride(model: nn.Module, name: str, stride: str) -> None:
    if not isinstance(model, torchvision.models.ResNet) or stride != "16":
        raise UserError(f"--backbone {name}: the stride may be 16, of a ResNet; got {stride}")
    for module in model.layer4.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)


def _torchvision_weights(model_name: str) -> Fetchable:
    published = torchvision.models.get_model_weights(model_name).DEFAULT
    return Fetchable(
        lambda: torchvision.models.get_model(model_name, weights=published),
        published.url,
        f"put the file into {torch.hub.get_dir()}/checkpoints or pass it as --weights FILE",
    )


class _Layer(nn.Module):
    """A torchvision model cut after one layer; the rest is pruned."""

    def __init__(self, model: nn.Module, layer: str, halves: bool):
        super().__init__()
        self.body = create_feature_extractor(model, {layer: "features"}, suppress_diff_warning=True)
        self.scaling = InputScaling((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)) if halves else None
        self.fixed_size: int | None = None

    def forward(self, images: Tensor) -> Tensor:
        if self.scaling is not None:
            images = self.scaling(images)
        return self.body(images)["features"]


def _timm(name: str, pretrained: bool, weights: dict[str, Tensor] | None) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise UserError("--backbone timm/...: install it with pip install 'wsdan[timm]'") from None
    name, _, stage = name.partition(":")
    if not timm.is_model(name):
        raise UserError(f"--backbone timm/{name}: timm has no model {name!r}")
    if pretrained:
        weights = fetch(_timm_weights(timm, name))
    try:
        model = timm.create_model(name, num_classes=0, global_pool="")
    except (AssertionError, TypeError, RuntimeError) as error:
        raise UserError(
            f"--backbone timm/{name}: timm does not make it without its classifier: {error}"
        ) from None
    published = model.pretrained_cfg
    scaling = _scaling(published["mean"], published["std"])
    own = set(model.state_dict())
    if stage:
        network = _Stage(model, name, stage, scaling)
    elif scaling is not None or getattr(model, "output_fmt", "NCHW") == "NHWC":
        network = _Whole(model, scaling)
    else:
        network = model
    if weights is not None:
        with torch.random.fork_rng(devices=[]):  # only for the names of the classifier's weights
            known = own | set(timm.create_model(name).state_dict())
        fit_weights(model, weights, known, f"timm/{name}")
    network.fixed_size = published["input_size"][-1] if published.get("fixed_input_size") else None
    return network


def _timm_weights(timm: ModuleType, name: str) -> Fetchable:
    published = timm.get_pretrained_cfg(name)
    url = published.url
    if published.hf_hub_id:
        file = published.hf_hub_filename or "model.safetensors"
        url = f"https://huggingface.co/{published.hf_hub_id}/resolve/main/{file}"
    return Fetchable(
        lambda: timm.create_model(name, pretrained=True), url, "pass the file as --weights FILE"
    )


class _Whole(nn.Module):
    """A timm model whose images are scaled or whose map has its channels last."""

    def __init__(self, model: nn.Module, scaling: InputScaling | None):
        super().__init__()
        self.model = model
        self.scaling = scaling
        self.channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"

    def forward(self, images: Tensor) -> Tensor:
        features = self.model(images if self.scaling is None else self.scaling(images))
        return features.permute(0, 3, 1, 2) if self.channels_last else features


class _Stage(nn.Module):
    """A timm model cut after one stage, counted as timm does; the rest is pruned."""

    def __init__(self, model: nn.Module, name: str, stage: str, scaling: InputScaling | None):
        super().__init__()
        count = len(getattr(model, "feature_info", ()))
        if not hasattr(model, "forward_intermediates"):
            raise UserError(f"--backbone timm/{name}:{stage}: timm gives no stages of this model")
        if not stage.isdigit() or int(stage) >= count:
            raise UserError(
                f"--backbone timm/{name}:{stage}: the stage must be a number from 0 to {count - 1}"
            )
        model.prune_intermediate_layers([int(stage)], prune_norm=True, prune_head=True)
        self.model = model
        self.stage = int(stage)
        self.scaling = scaling

    def forward(self, images: Tensor) -> Tensor:
        images = images if self.scaling is None else self.scaling(images)
        return self.model.forward_intermediates(
            images, indices=[self.stage], output_fmt="NCHW", intermediates_only=True
        )[0]
