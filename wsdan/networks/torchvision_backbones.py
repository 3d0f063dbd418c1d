"""Backbones of torchvision: a classification model cut after one of its layers."""

from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names
from torchvision.ops import StochasticDepth

from wsdan.errors import UserError
from wsdan.networks.names import closest_text
from wsdan.networks.scaling import InputScaling
from wsdan.networks.state_dicts import StateDicts
from wsdan.networks.weights import PublishedWeights, load_backbone_weights

# The last layer with a feature map by model family, where it is not called "features".
_DEFAULT_LAYERS = {
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
    "vit": "encoder",  # has no feature map, which build_backbone reports
}
# Models whose published weights expect images of mean 0.5 and standard deviation 0.5.
HALF_MEAN_MODELS = ("inception_v3", "googlenet", "efficientnet_v2_l")
_INIT_WEIGHTS_MODELS = ("inception_v3", "googlenet")  # warn unless init_weights is given
_FIXED_SIZE_MODELS = ("maxvit", "vit")
_FIXED_SIZE = 224
_RESNETS = ("resnet", "resnext", "wide_resnet")


def check_name(name: str) -> None:
    """Raise UserError, with the closest names, for an unknown model or layer.

    No weights are allocated: the model is on the meta device.
    """
    model_name, layer, stride = _split_name(name)
    _check_model_name(name, model_name)
    _check_stride(name, model_name, stride)
    if not layer:
        return
    with torch.device("meta"):
        model = _create_model(model_name, init_weights=False)
    if layer not in dict(model.named_modules()):
        _check_layer(name, layer, model)


def check_drop_path(name: str, rate: float) -> None:
    """Raise UserError for a model, of a known name, without blocks that can be skipped."""
    with torch.device("meta"):
        model = _create_model(_split_name(name)[0], init_weights=False)
    _set_drop_path(model, rate, name)


def published_weights(name: str) -> PublishedWeights:
    """The ImageNet weights of the whole model. Raises UserError for an unknown one."""
    model_name, _, _ = _split_name(name)
    _check_model_name(name, model_name)
    published = torchvision.models.get_model_weights(model_name).DEFAULT
    file = Path(torch.hub.get_dir(), "checkpoints", published.url.rpartition("/")[2])
    return PublishedWeights(
        name,
        lambda: torchvision.models.get_model(model_name, weights=published),
        published.url,
        cached=file.exists(),
        folder=str(file.parent),
    )


def build(
    name: str,
    weights: dict[str, Tensor] | StateDicts | None,
    drop_path: float | None = None,
) -> nn.Module:
    """The network images (B,3,H,W) -> features, see `build_backbone`."""
    model_name, layer, stride = _split_name(name)
    _check_model_name(name, model_name)
    _check_stride(name, model_name, stride)
    model = _create_model(model_name, init_weights=weights is None)
    if stride:
        _drop_last_stride(model)
    if drop_path is not None:
        _set_drop_path(model, drop_path, name)
    model_keys = set(model.state_dict())
    layer = layer or default_layer(model_name)
    try:
        network = _LayerOutput(model, layer, model_name in HALF_MEAN_MODELS)
    except (ValueError, TypeError, AssertionError) as error:  # raised by torch.fx tracing
        _check_layer(name, layer, model)
        reason = str(error).split(". ")[0]
        raise UserError(
            f"--backbone {name}: cannot take layer {layer!r}: {reason}; name one as NAME:LAYER"
        ) from None
    if model_name.startswith(_FIXED_SIZE_MODELS):
        network.fixed_size = _FIXED_SIZE
    if weights is not None:
        load_backbone_weights(network.body, weights, model_keys, name)
    return network


def default_layer(model_name: str) -> str:
    """The layer that is taken if a name has none."""
    families = [family for family in _DEFAULT_LAYERS if model_name.startswith(family)]
    return _DEFAULT_LAYERS[max(families, key=len)] if families else "features"


def _split_name(name: str) -> tuple[str, str, str]:
    """MODEL, MODEL:LAYER or MODEL:LAYER:STRIDE; "" for what is not given."""
    model_name, _, layer = name.partition(":")
    layer, _, stride = layer.partition(":")
    return model_name, layer, stride


def _check_model_name(name: str, model_name: str) -> None:
    known = torchvision.models.list_models(module=torchvision.models)
    if model_name not in known:
        raise UserError(
            f"--backbone {name}: torchvision has no classification model {model_name!r}; "
            f"{closest_text(model_name, [*known, 'tiny'])}; models of timm are timm/NAME"
        )


def _check_stride(name: str, model_name: str, stride: str) -> None:
    if stride and not (stride == "16" and model_name.startswith(_RESNETS)):
        raise UserError(f"--backbone {name}: the stride may be 16, of a ResNet; got {stride}")


def _check_layer(name: str, layer: str, model: nn.Module) -> None:
    """Raise UserError if no node of the traced model is called `layer` or is inside of it."""
    try:
        train, evaluation = get_graph_node_names(model, suppress_diff_warning=True)
    except (ValueError, TypeError, AssertionError):
        return  # `build` reports a model that cannot be traced
    layers = {
        ".".join(parts[:count])
        for parts in (node.split(".") for node in train if node in evaluation)
        for count in range(1, len(parts) + 1)
    }
    if layer not in layers:
        model_name = name.partition(":")[0]
        raise UserError(
            f"--backbone {name}: {model_name} has no layer {layer!r}; "
            f"{closest_text(layer, layers, prefix=f'{model_name}:')}"
        )


def _create_model(model_name: str, init_weights: bool) -> nn.Module:
    options = {"init_weights": init_weights} if model_name in _INIT_WEIGHTS_MODELS else {}
    return torchvision.models.get_model(model_name, weights=None, **options)


def _set_drop_path(model: nn.Module, rate: float, name: str) -> None:
    """Scale the model's own rates, which rise with depth, so that the largest is `rate`."""
    blocks = [module for module in model.modules() if isinstance(module, StochasticDepth)]
    largest = max((block.p for block in blocks), default=0.0)
    if largest == 0:
        raise UserError(f"--drop-path: {name} has no blocks that can be skipped")
    for block in blocks:
        block.p *= rate / largest


def _drop_last_stride(model: nn.Module) -> None:
    for module in model.layer4.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)


class _LayerOutput(nn.Module):
    """The output of one layer; the layers after it are removed.

    half_mean: the weights expect images of mean 0.5 and standard deviation 0.5.
    """

    def __init__(self, model: nn.Module, layer: str, half_mean: bool):
        super().__init__()
        self.body = create_feature_extractor(model, {layer: "features"}, suppress_diff_warning=True)
        self.scaling = InputScaling((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)) if half_mean else None
        self.fixed_size: int | None = None

    def forward(self, images: Tensor) -> Tensor:
        if self.scaling is not None:
            images = self.scaling(images)
        return self.body(images)["features"]
