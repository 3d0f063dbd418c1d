"""The WS-DAN classifier (arXiv:1901.09891 section 3.1), and a plain classifier as baseline."""

import dataclasses
import io
from contextlib import redirect_stderr
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wsdan.checkpoint import FORMAT, load_checkpoint
from wsdan.config import ATTENTIONS, Config
from wsdan.distributed import call_on_main
from wsdan.errors import UserError
from wsdan.networks.backbones import (
    Backbone,
    build_backbone,
    name_with_layer,
    pretrained_weights,
    set_in_channels,
)
from wsdan.networks.state_dicts import check_state_dict, find_state_dicts, read_weights_file
from wsdan.validation import option_name, split_weights
from wsdan_kernels import BilinearAttentionPool, FeatureCenters, attend_and_pool


class Output(NamedTuple):
    """The output of a forward pass.

    logits: (B,N), in the model's dtype. pooled: (B,M*C), of unit norm, float32 at least.
    attentions: (B,M,h,w), None for a plain classifier. effect: (B,N), the logits less those with
    counterfactual maps, or None.
    """

    logits: Tensor
    pooled: Tensor
    attentions: Tensor | None
    effect: Tensor | None = None


# So that torch.export.save can write programs that return it, under this name.
torch.utils._pytree._register_namedtuple(Output, serialized_type_name="wsdan.Output")


class AttentionHead(nn.Sequential):
    """Attention maps (eq. 1): convolution, batch norm, ReLU. (B,C,h,w) -> (B,M,h,w).

    bias: initial bias of the batch norm. size: of the convolution, odd.
    """

    def __init__(self, channels: int, num_attentions: int, bias: float = 0.0, size: int = 1):
        super().__init__(
            nn.Conv2d(channels, num_attentions, size, padding=size // 2, bias=False),
            nn.BatchNorm2d(num_attentions),
            nn.ReLU(),
        )
        nn.init.constant_(self[1].bias, bias)


class WSDAN(nn.Module):
    """Backbone, attention maps, bilinear attention pooling, linear classifier.

    forward: images (B,3,H,W) -> Output. With counterfactual=True also the effect of the maps (CAL,
    arXiv:2108.08728): the logits less those of the same features pooled with random maps, uniform
    in [0,2) from `generator`, or, in evaluation mode, with maps of ones.

    images are RGB, of values in [0,1] less ImageNet's mean and divided by its standard deviation:
    wsdan.constants.IMAGENET_MEAN and IMAGENET_STD, which torchvision's and timm's transforms use
    too. That holds for every backbone: where published weights expect other statistics (Inception
    v3, GoogLeNet, several of timm's), the backbone itself scales its input.

    torch.export.save writes it; torch.export.load needs WSDAN imported before.

    Args:
        backbone: a Backbone, or a name for `build_backbone`, with random weights. With ImageNet's:
            wsdan.networks.backbones.build_backbone(name, pretrained=True).
        num_classes: N. num_attentions: M.
        attention: "conv", a 1x1 convolution with batch norm and ReLU; "conv3x3", a 3x3 one;
            "slice", the first M channels of the features (the official Inception model); or a
            module of your own, features (B,C,h,w) -> maps (B,M,h',w').
        attention_bias: initial bias of that batch norm.
        beta: step of the feature centers.
        scale: factor on the pooled features before the classifier; if it is small, learning stalls.
        pool_eps: inside the pooling's signed root.

    Raises:
        ValueError: a number out of its range, or, in forward, a number of maps other than M.
    """

    def __init__(
        self,
        backbone: Backbone | str,
        num_classes: int,
        num_attentions: int = 32,
        *,
        attention: str | nn.Module = "conv",
        attention_bias: float = 0.0,
        beta: float = 0.05,
        scale: float = 100.0,
        pool_eps: float = 1e-12,
    ):
        super().__init__()
        if isinstance(backbone, str):
            backbone = build_backbone(backbone)
        if not (isinstance(attention, nn.Module) or attention in ATTENTIONS):
            raise ValueError(f"WSDAN: attention must be one of {ATTENTIONS}, but got {attention!r}")
        if num_attentions < 1:
            raise ValueError(f"WSDAN: num_attentions must be at least 1, but got {num_attentions}")
        if num_classes < 2:
            raise ValueError(f"WSDAN: num_classes must be at least 2, but got {num_classes}")
        if attention == "slice" and num_attentions > backbone.channels:
            rule = f"at most the backbone's {backbone.channels} channels"
            raise ValueError(f"WSDAN: num_attentions must be {rule}, but got {num_attentions}")
        self.num_attentions = num_attentions
        self.scale = scale
        self.backbone = backbone.network
        self.attention = attention if isinstance(attention, nn.Module) else None
        if attention in ("conv", "conv3x3"):
            size = 3 if attention == "conv3x3" else 1
            self.attention = AttentionHead(backbone.channels, num_attentions, attention_bias, size)
        self.pool = BilinearAttentionPool(eps=pool_eps)
        dim = num_attentions * backbone.channels
        self.classifier = nn.Linear(dim, num_classes)
        self.centers = FeatureCenters(num_classes, dim, beta)

    def forward(
        self,
        images: Tensor,
        counterfactual: bool = False,
        generator: torch.Generator | None = None,
    ) -> Output:
        features = self.backbone(images)
        if self._can_fuse() and not counterfactual:
            head, options = self.attention, self.pool.options
            pooled, attentions = attend_and_pool(features, head[0].weight, head[1], **options)
        else:
            if self.attention is None:
                attentions = features[:, : self.num_attentions]
            else:
                attentions = self.attention(features)
                if attentions.shape[1] != self.num_attentions:
                    raise ValueError(
                        f"WSDAN: attention must give {self.num_attentions} maps, "
                        f"but got {attentions.shape[1]}"
                    )
            if counterfactual:
                return self._forward_counterfactual(features, attentions, generator)
            pooled = self.pool(features, attentions)
        pooled = pooled.flatten(1)
        return Output(self._classify(pooled), pooled, attentions)

    def _forward_counterfactual(
        self, features: Tensor, attentions: Tensor, generator: torch.Generator | None
    ) -> Output:
        """The output with the effect of the maps; both poolings in one read of features."""
        if self.training:
            fakes = torch.empty_like(attentions).uniform_(0, 2, generator=generator)
        else:
            fakes = torch.ones_like(attentions)
        groups = 2 if self.pool.options["normalize"] == "all" else 1
        both = self.pool(features, torch.cat((attentions, fakes), dim=1), groups)
        pooled, fake_pooled = (half.flatten(1) for half in both.chunk(2, dim=1))
        logits = self._classify(pooled)
        return Output(logits, pooled, attentions, logits - self._classify(fake_pooled))

    def _classify(self, pooled: Tensor) -> Tensor:
        """Pooled features (B,M*C), float32 even in a model of half precision -> logits (B,N)."""
        return self.classifier((self.scale * pooled).to(self.classifier.weight.dtype))

    def _can_fuse(self) -> bool:
        """Whether attention maps and pooling can be computed by one operator, in inference only."""
        return (
            not (self.training or torch.is_grad_enabled())
            and isinstance(self.attention, AttentionHead)
            and self.attention[0].kernel_size == (1, 1)
            and type(self.attention[0].weight) is nn.Parameter  # not FSDP's shard
            and isinstance(self.pool, BilinearAttentionPool)
            and self.pool.options["reduce"] != "max"
        )


class PlainClassifier(nn.Module):
    """The backbone with global average pooling and a linear classifier, as baseline.

    forward: images (B,3,H,W) -> Output with pooled (B,C) and no attentions.
    """

    def __init__(self, backbone: Backbone, num_classes: int):
        super().__init__()
        self.backbone = backbone.network
        self.classifier = nn.Linear(backbone.channels, num_classes)

    def forward(self, images: Tensor) -> Output:
        pooled = self.backbone(images).mean((2, 3))
        return Output(self.classifier(pooled), pooled, None)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside torch's wrappers, nested in any order: DataParallel, AveragedModel,
    DistributedDataParallel, torch.compile. A model without a wrapper is returned itself."""
    return unwrapping(model)[-1]


def unwrapping(model: nn.Module) -> list[nn.Module]:
    """The wrappers of a model, from the outermost on, and the model."""
    children = dict(model.named_children())
    inner = children.get("module", children.get("_orig_mod"))
    return [model] if inner is None else [model, *unwrapping(inner)]


def build_model(config: Config, num_classes: int) -> nn.Module:
    """Build the model of a resolved configuration on the CPU, with its initial weights.

    With config.resume no weights are loaded: the run's checkpoint has them. With config.pretrained
    all ranks must call it. Raises UserError.
    """
    if config.resume:
        config = without_weights(config)
    weights = checkpoint = None
    if config.weights is not None:
        path, key = split_weights(config.weights)
        content = read_weights_file(path, "--weights")
        if content.get("format") == FORMAT:
            checkpoint = load_checkpoint(path)
        else:
            weights = find_state_dicts(content, f"--weights: {path}", key)
    if config.pretrained:  # one process downloads, on one machine
        weights = call_on_main(partial(pretrained_weights, config.backbone))
    backbone = build_backbone(config.backbone, weights=weights, drop_path=config.drop_path)
    set_in_channels(backbone.network, config.in_channels)
    if min(config.input_size) < backbone.stride:
        raise UserError(
            f"--image-size must be at least the stride of {config.backbone} "
            f"({backbone.stride} pixels); got {config.image_size}"
        )
    try:
        if config.method == "baseline":
            model = PlainClassifier(backbone, num_classes)
        else:
            model = WSDAN(
                backbone,
                num_classes,
                config.num_attentions,
                attention=config.attention,
                attention_bias=config.attention_bias,
                beta=config.beta,
                pool_eps=config.pool_eps,
            )
        check_image_size(model, config.input_size, config.in_channels)
    except (ValueError, RuntimeError) as error:
        raise UserError(str(error).splitlines()[0]) from None
    if checkpoint is not None:
        _load_initial_weights(checkpoint, model, config, num_classes)
    return model


def describe_start(config: Config) -> str:
    """What the weights of a run of this resolved configuration start from."""
    if config.resume:
        return "resuming"
    if config.weights is not None:
        return f"starting from {config.weights}"
    return f"starting from {'ImageNet' if config.pretrained else 'random'} weights"


def without_weights(config: Config) -> Config:
    """The configuration of the same model, to be loaded from a checkpoint: no download, no file."""
    return dataclasses.replace(config, pretrained=False, weights=None, ignore_classifier=False)


def _load_initial_weights(
    checkpoint: dict, model: nn.Module, config: Config, num_classes: int
) -> None:
    """Load a wsdan checkpoint, its averaged weights if it has them, into the model of a new run.

    Raises UserError if their settings or classes differ.
    """
    saved, source = checkpoint["config"], f"--weights: {config.weights}"
    differing = []
    for name in ("method", "backbone", "in_channels", "attention", "num_attentions", "pool_eps"):
        theirs, ours = getattr(saved, name), getattr(config, name)
        if name == "backbone":
            theirs, ours = name_with_layer(theirs), name_with_layer(ours)
        if theirs != ours:
            differing.append(f"{option_name(name)} {theirs} (here {ours})")
    if differing:
        raise UserError(f"{source} was made with {', '.join(differing)}")
    count = len(checkpoint["classes"])
    if count != num_classes and not config.ignore_classifier:
        raise UserError(
            f"{source} has {count} classes, the data {num_classes}; "
            "--ignore-classifier leaves out its classifier and centers"
        )
    state, wanted = _initial_state(checkpoint, config.weights), model.state_dict()
    if config.ignore_classifier:
        state, wanted = _without_classifier(state), _without_classifier(wanted)
    check_state_dict(state, wanted, source)
    model.load_state_dict(state, strict=not config.ignore_classifier)


def _initial_state(checkpoint: dict, weights: str) -> dict[str, Tensor]:
    """The state dict asked for as FILE:model or FILE:ema; else the averaged one if there is one."""
    path, key = split_weights(weights)
    held = {name: checkpoint[name] for name in ("ema", "model") if checkpoint.get(name)}
    if key is None:
        return next(iter(held.values()))
    if key not in held:
        raise UserError(f"--weights: {path}: holds no {key}; it holds {', '.join(held)}")
    return held[key]


def _without_classifier(state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = ("classifier.", "centers.")
    return {key: value for key, value in state.items() if not key.startswith(names)}


@torch.no_grad()
def check_image_size(model: nn.Module, size: tuple[int, int], channels: int) -> None:
    """Run the model on an image of size (H,W): an unsuitable size is an error at the start.

    Raises UserError.
    """
    was_training = model.training
    device = next(model.parameters()).device
    try:
        with redirect_stderr(io.StringIO()):  # traced networks print their code
            model.eval()(torch.zeros(1, channels, *size, device=device))
    except (RuntimeError, AssertionError) as error:  # timm raises AssertionError
        reason = str(error).splitlines()[0]
        text = size[0] if size[0] == size[1] else f"{size[0]}x{size[1]}"
        raise UserError(f"--image-size {text} does not suit the model: {reason}") from None
    model.train(was_training)
