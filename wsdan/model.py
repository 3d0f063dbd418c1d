"""The WS-DAN classifier (arXiv:1901.09891 section 3.1) and the plain one it is compared with."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from wsdan.backbones import Backbone, build_backbone
from wsdan.config import ATTENTIONS, Config
from wsdan.errors import UserError
from wsdan_kernels import BilinearAttentionPool, FeatureCenters, attend_and_pool


class Output(NamedTuple):
    """What a forward pass gives.

    logits (B,N); pooled (B,M*C), of unit norm; attentions (B,M,h,w), None for a plain classifier;
    effect (B,N), the logits less those under maps that mean nothing, None where not asked for.
    """

    logits: Tensor
    pooled: Tensor
    attentions: Tensor | None
    effect: Tensor | None = None


class AttentionHead(nn.Sequential):
    """Attention maps (eq. 1): 1x1 convolution, batch norm, ReLU. (B,C,h,w) -> (B,M,h,w)."""

    def __init__(self, channels: int, num_attentions: int, bias: float = 0.0):
        super().__init__(
            nn.Conv2d(channels, num_attentions, 1, bias=False),
            nn.BatchNorm2d(num_attentions),
            nn.ReLU(),
        )
        nn.init.constant_(self[1].bias, bias)


class WSDAN(nn.Module):
    """Backbone, attention maps, bilinear attention pooling, linear classifier.

    forward: images (B,3,H,W) -> Output. With counterfactual=True also the effect of the maps (CAL,
    arXiv:2108.08728): the logits less those of the same features pooled under maps uniform in
    [0,2), drawn from `generator`, or, in evaluation mode, under ones.

    Args:
        backbone: a Backbone, or a name for `build_backbone`.
        num_classes: N. num_attentions: M.
        attention: "conv", a 1x1 convolution with batch norm and ReLU, or "slice", the first M
            channels of the features (the official Inception model).
        attention_bias: initial bias of that batch norm.
        beta: step of the feature centers.
        scale: factor on the pooled features before the classifier; without it learning stalls.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self,
        backbone: Backbone | str,
        num_classes: int,
        num_attentions: int = 32,
        *,
        attention: str = "conv",
        attention_bias: float = 0.0,
        beta: float = 0.05,
        scale: float = 100.0,
    ):
        super().__init__()
        if isinstance(backbone, str):
            backbone = build_backbone(backbone)
        if attention not in ATTENTIONS:
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
        self.attention = None
        if attention == "conv":
            self.attention = AttentionHead(backbone.channels, num_attentions, attention_bias)
        self.pool = BilinearAttentionPool()
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
        if self._in_one_pass() and not counterfactual:
            head, options = self.attention, self.pool.options
            pooled, attentions = attend_and_pool(features, head[0].weight, head[1], **options)
        else:
            if self.attention is None:
                attentions = features[:, : self.num_attentions]
            else:
                attentions = self.attention(features)
            if counterfactual:
                return self._with_effect(features, attentions, generator)
            pooled = self.pool(features, attentions)
        pooled = pooled.flatten(1)
        return Output(self.classifier(self.scale * pooled), pooled, attentions)

    def _with_effect(
        self, features: Tensor, attentions: Tensor, generator: torch.Generator | None
    ) -> Output:
        """The output with the effect of the maps; the features are read once for both poolings."""
        if self.training:
            fakes = torch.empty_like(attentions).uniform_(0, 2, generator=generator)
        else:
            fakes = torch.ones_like(attentions)
        groups = 2 if self.pool.options["normalize"] == "all" else 1
        both = self.pool(features, torch.cat((attentions, fakes), dim=1), groups)
        pooled, fake_pooled = (half.flatten(1) for half in both.chunk(2, dim=1))
        logits = self.classifier(self.scale * pooled)
        effect = logits - self.classifier(self.scale * fake_pooled)
        return Output(logits, pooled, attentions, effect)

    def _in_one_pass(self) -> bool:
        """Whether the maps and the pooling under them can be computed together: in inference."""
        return (
            not (self.training or torch.is_grad_enabled())
            and isinstance(self.attention, AttentionHead)
            and isinstance(self.pool, BilinearAttentionPool)
            and self.pool.options["reduce"] != "max"
        )


class PlainClassifier(nn.Module):
    """The backbone with global average pooling and a linear classifier, for comparison.

    forward: images (B,3,H,W) -> Output with pooled (B,C) and no attentions.
    """

    def __init__(self, backbone: Backbone, num_classes: int):
        super().__init__()
        self.backbone = backbone.network
        self.classifier = nn.Linear(backbone.channels, num_classes)

    def forward(self, images: Tensor) -> Output:
        pooled = self.backbone(images).mean((2, 3))
        return Output(self.classifier(pooled), pooled, None)


def build_model(config: Config, num_classes: int) -> nn.Module:
    """The model of a resolved configuration, on the CPU. Raises UserError."""
    backbone = build_backbone(config.backbone, config.pretrained)
    if config.image_size < backbone.stride:
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
            )
        _probe(model, config.image_size)
    except (ValueError, RuntimeError) as error:
        raise UserError(str(error).splitlines()[0]) from None
    return model


@torch.no_grad()
def _probe(model: nn.Module, image_size: int) -> None:
    """One picture through the model, so that an image too small for it is known at the start."""
    try:
        model.eval()(torch.zeros(1, 3, image_size, image_size))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--image-size {image_size} is too small for the model: {reason}") from None
    model.train()
