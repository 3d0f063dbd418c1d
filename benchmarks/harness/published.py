"""The published steps of WS-DAN, told again in our own words: the baselines of the benchmarks.

Two codes, each as it spends its time: WS-DAN.PyTorch (guyuc), and the published listing as
WS_DAN_PyTorch has it. tests/benchmarks/test_benchmarks.py holds the functions against tests/golden,
tests/benchmarks/test_train_bench.py the whole step against ours.
Alphabet: B batch, C channels, M maps, h w map size, H W image size, N classes, D = M*C.
"""

import random
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

CROP_RANGE, DROP_RANGE, PADDING = (0.4, 0.6), (0.2, 0.5), 0.1
RANGES = CROP_RANGE, DROP_RANGE
REFINE_THRESHOLD, REFINE_PADDING = 0.1, 0.05


def resize(images: Tensor, size: tuple[int, int], align_corners: bool = True) -> Tensor:
    """(B,C,h,w) -> (B,C,*size)."""
    return F.interpolate(images, size, mode="bilinear", align_corners=align_corners)


def pool_mean(features: Tensor, attentions: Tensor, eps: float = 1e-12) -> Tensor:
    """Both codes: one product, then root and norm step by step. -> (B,M*C).

    They write the product as an einsum over (y,x), for which torch first copies the features; here
    it is the plain product, so that the baseline is the faster of the two.
    """
    attentions = fit(attentions, features)
    rows, maps = features.flatten(2), attentions.flatten(2)
    return _root_and_norm(maps @ rows.mT / rows.shape[2], eps)


def pool_max(features: Tensor, attentions: Tensor, eps: float = 1e-12) -> Tensor:
    """WS-DAN.PyTorch: map by map, features (B,C,h,w) times the map is stored. -> (B,M*C)."""
    attentions = fit(attentions, features)
    parts = []
    for m in range(attentions.shape[1]):
        weighted = features * attentions[:, m : m + 1]
        parts.append(F.adaptive_max_pool2d(weighted, 1).flatten(1))
    return _root_and_norm(torch.stack(parts, dim=1), eps)


def center_step(
    features: Tensor, centers: Tensor, labels: Tensor, beta: float = 0.05
) -> tuple[Tensor, Tensor]:
    """Loss and its gradient (B,D); moves centers (N,D) in place, a label met twice moves twice."""
    loss = center_loss_(features, centers, labels, beta)
    (grad,) = torch.autograd.grad(loss, features)
    return loss.detach(), grad


def center_loss_(features: Tensor, centers: Tensor, labels: Tensor, beta: float) -> Tensor:
    """Mean squared distance of features (B,D) from their normalized centers, which then move."""
    chosen = F.normalize(centers[labels], dim=-1)
    centers.index_add_(0, labels, beta * (features.detach() - chosen))
    return F.mse_loss(features, chosen, reduction="sum") / features.shape[0]


def attend(features: Tensor, weight: Tensor, norm: torch.nn.BatchNorm2d) -> Tensor:
    """Both codes: 1x1 convolution, batch norm, ReLU. features (B,C,h,w), weight (M,C,1,1)."""
    return F.relu(norm(F.conv2d(features, weight)))


def sample(attentions: Tensor, uniforms: Tensor) -> Tensor:
    """The listing's draws, by numpy on the host: (B,M,h,w), (B,S) -> maps (B,S) int64.

    numpy.random.choice finds a uniform number of its own in the running sum of the weights.
    """
    weights = attentions.float().mean((2, 3)).sqrt().double()
    weights = (weights / weights.sum(1, keepdim=True)).cpu().numpy()
    picks = []
    for shares, numbers in zip(weights, uniforms.cpu().numpy(), strict=True):
        ends = shares.cumsum()
        picks.append((ends / ends[-1]).searchsorted(numbers, side="right"))
    return torch.from_numpy(np.stack(picks)).to(attentions.device)


def boxes_guyuc(
    maps: Tensor, size: tuple[int, int], thresholds: list[float], padding: float = PADDING
) -> list[tuple[int, int, int, int]]:
    """WS-DAN.PyTorch, image by image: maps (B,h,w) -> y1 x1 y2 x2 each."""
    return [
        _box(resize(single[None, None], size)[0, 0] >= threshold * single.max(), padding, "guyuc")
        for single, threshold in zip(maps, thresholds, strict=True)
    ]


def boxes_paper(
    maps: Tensor, size: tuple[int, int], thresholds: list[float], padding: float = PADDING
) -> list[tuple[int, int, int, int]]:
    """The listing's rule for given maps (B,h,w), image by image -> y1 x1 y2 x2 each."""
    boxes = []
    for single, threshold in zip(maps, thresholds, strict=True):
        up = resize(single[None, None], size)[0, 0]
        boxes.append(_box(up >= threshold * up.max(), padding, "paper"))
    return boxes


def crops(images: Tensor, boxes: list[tuple[int, int, int, int]]) -> Tensor:
    """Cut and resize, image by image: images (B,C,H,W) -> (B,C,H,W)."""
    size = tuple(images.shape[2:])
    views = [
        resize(image[None, :, y1:y2, x1:x2], size)
        for image, (y1, x1, y2, x2) in zip(images, boxes, strict=True)
    ]
    return torch.cat(views)


def swaps(images: Tensor, boxes: list[tuple[int, int, int, int]]) -> Tensor:
    """CALMix as published: the boxes of images 2i and 2i+1, pair by pair. (B,C,H,W)."""
    views = []
    for first in range(0, len(images), 2):
        parts = [
            images[b : b + 1, :, y1:y2, x1:x2].clone()
            for b, (y1, x1, y2, x2) in enumerate(boxes[first : first + 2], first)
        ]
        for b, other in enumerate(reversed(parts), first):
            y1, x1, y2, x2 = boxes[b]
            view = images[b : b + 1].clone()
            view[:, :, y1:y2, x1:x2] = resize(other, (y2 - y1, x2 - x1))
            views.append(view)
    return torch.cat(views)


def drops_guyuc(images: Tensor, maps: Tensor, thresholds: list[float]) -> Tensor:
    """WS-DAN.PyTorch: the masks image by image, then one product. (B,C,H,W), (B,h,w)."""
    size = tuple(images.shape[2:])
    masks = [
        resize(single[None, None], size) < threshold * single.max()
        for single, threshold in zip(maps, thresholds, strict=True)
    ]
    return images * torch.cat(masks).to(images.dtype)


def crop_drop_chosen(
    images: Tensor,
    crop_maps: Tensor,
    drop_maps: Tensor,
    crop_thresholds: list[float],
    drop_thresholds: list[float],
) -> tuple[Tensor, Tensor]:
    """WS-DAN.PyTorch's two views, by one chosen map (B,h,w) each."""
    boxes = boxes_guyuc(crop_maps, tuple(images.shape[2:]), crop_thresholds)
    return crops(images, boxes), drops_guyuc(images, drop_maps, drop_thresholds)


def crop_drop_per_part(
    images: Tensor,
    attentions: Tensor,
    align_corners: bool = True,
    thresholds: Iterable[tuple[float, float]] | None = None,
    picks: Iterable[tuple[int, int]] | None = None,
) -> tuple[Tensor, Tensor]:
    """The listing's two views: all maps of an image are resized, then two of them drawn and used.

    images (B,C,H,W), attentions (B,M,h,w). A map's weight is the root of its mean; numpy draws the
    maps, Python the thresholds, where none are given (to crop and to drop, for each image).
    align_corners: of the maps' resize (False in WS_DAN_PyTorch).
    """
    if thresholds is None:
        thresholds = ((random.uniform(*CROP_RANGE), random.uniform(*DROP_RANGE)) for _ in images)
    if picks is None:
        picks = _drawn_picks(attentions)
    size = tuple(images.shape[2:])
    cropped, dropped = [], []
    for image, maps, (to_crop, to_drop), (crop_threshold, drop_threshold) in zip(
        images, attentions, picks, thresholds, strict=True
    ):
        up = resize(maps[None], size, align_corners)[0]
        crop_map, drop_map = up[to_crop], up[to_drop]
        y1, x1, y2, x2 = _box(crop_map >= crop_threshold * crop_map.max(), PADDING, "paper")
        cropped.append(resize(image[None, :, y1:y2, x1:x2], size))
        kept = drop_map < drop_threshold * drop_map.max()
        dropped.append(image[None] * kept.to(image.dtype))
    return torch.cat(cropped), torch.cat(dropped)


def _drawn_picks(attentions: Tensor) -> Iterator[tuple[int, int]]:
    """Two maps (B,M,h,w) of each image, drawn by numpy."""
    weights = attentions.mean((2, 3)).sqrt().double()
    weights = (weights / weights.sum(1, keepdim=True)).cpu().numpy()
    for shares in weights:
        first, second = (np.random.choice(len(shares), 1, p=shares)[0] for _ in range(2))
        yield first, second


def refine(images: Tensor, attentions: Tensor, thresholds: Iterable[float] | None = None) -> Tensor:
    """The listing at test time: all maps of an image are resized, then their mean cuts the box."""
    size = tuple(images.shape[2:])
    views = []
    thresholds = [REFINE_THRESHOLD] * len(images) if thresholds is None else thresholds
    for image, maps, threshold in zip(images, attentions, thresholds, strict=True):
        mean = resize(maps[None], size)[0].mean(0)
        y1, x1, y2, x2 = _box(mean >= threshold * mean.max(), REFINE_PADDING, "paper")
        views.append(resize(image[None, :, y1:y2, x1:x2], size))
    return torch.cat(views)


def predict_views(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The listing's test of a WSDAN: probabilities (B,N) of the raw view, of the refined one, and
    their mean. The passes are the model's own, attention maps included.

    model: images (B,C,H,W), channels_last -> Output, which a later call may overwrite.
    """
    output = model(images)
    views = refine(images, output.attentions.float()).to(memory_format=torch.channels_last)
    raw = F.softmax(output.logits.float(), dim=1)
    refined = F.softmax(model(views).logits.float(), dim=1)
    return raw, refined, (raw + refined) / 2


def step_losses(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """WS-DAN.PyTorch's training step up to its loss, with a WSDAN's weights; moves its centers.

    The loss is "loss", of which "raw" and "center" are parts. Each of the three passes draws maps
    on the host, image by image, though only the first one's are used.
    """
    logits, pooled, drawn = _classify(model, images)
    center = center_loss_(pooled, model.centers.centers, labels, model.centers.beta)
    with torch.no_grad():
        crop_thresholds, drop_thresholds = (
            [random.uniform(*limits) for _ in images] for limits in (CROP_RANGE, DROP_RANGE)
        )
        boxes = boxes_guyuc(drawn[:, 0], tuple(images.shape[2:]), crop_thresholds, PADDING)
        cropped = crops(images, boxes)
        dropped = drops_guyuc(images, drawn[:, 1], drop_thresholds)
    raw = F.cross_entropy(logits, labels)
    views = sum(F.cross_entropy(_classify(model, view)[0], labels) for view in (cropped, dropped))
    return {"loss": (raw + views) / 3 + center, "raw": raw, "center": center}


def listing_losses(
    model: nn.Module, images: Tensor, labels: Tensor, uniforms: Tensor
) -> dict[str, Tensor]:
    """The listing's training step up to its loss, with a WSDAN's weights; moves its centers.

    uniforms (B,4) in [0,1): for the map to crop by, the map to drop by, the crop's threshold and
    the drop's threshold. Returns the terms, their sum "loss", and "logits" (B,N) of the raw view.
    """
    logits, pooled, attentions = _pass(model, images)
    center = center_loss_(pooled, model.centers.centers, labels, model.centers.beta)
    with torch.no_grad():
        picks = sample(attentions, uniforms[:, :2]).tolist()
        thresholds = [
            [low + (high - low) * number for (low, high), number in zip(RANGES, row, strict=True)]
            for row in uniforms[:, 2:].tolist()
        ]
        views = crop_drop_per_part(images, attentions, thresholds=thresholds, picks=picks)
    all_logits = [logits, *(_pass(model, view)[0] for view in views)]
    raw, crop, drop = (F.cross_entropy(scores, labels) for scores in all_logits)
    loss = (raw + crop + drop) / 3 + center
    terms = {"raw": raw, "crop": crop, "drop": drop, "center": center}
    return {"loss": loss, **terms, "logits": logits}


def _pass(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One pass: logits (B,N), pooled (B,D), maps (B,M,h,w)."""
    features = model.backbone(images)
    attentions = model.attention(features)
    pooled = pool_mean(features, attentions)
    return model.classifier(model.scale * pooled), pooled, attentions


def _classify(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One pass in training: logits (B,N), pooled (B,D), two drawn maps (B,2,h,w)."""
    logits, pooled, attentions = _pass(model, images)
    return logits, pooled, choose_maps(attentions)


def choose_maps(attentions: Tensor) -> Tensor:
    """WS-DAN.PyTorch's draw of two maps an image by the root of their sum: (B,M,h,w) -> (B,2,h,w).

    Weights go to the host image by image, where numpy draws.
    """
    chosen = []
    for maps in attentions.detach():
        weights = torch.sqrt(maps.sum((1, 2)).float() + 1e-12)
        shares = (weights / weights.sum()).cpu().numpy()
        chosen.append(maps[np.random.choice(len(shares), 2, p=shares)])
    return torch.stack(chosen)


def _box(hit: Tensor, padding: float, rule: str) -> tuple[int, int, int, int]:
    """hit (H,W) bool -> y1 x1 y2 x2 around it; the rules pad by whole pixels or by a fraction."""
    height, width = hit.shape
    places = torch.nonzero(hit)
    pad_y, pad_x = padding * height, padding * width
    if rule == "paper":
        pad_y, pad_x = int(pad_y), int(pad_x)
    y1 = max(int(places[:, 0].min().item() - pad_y), 0)
    y2 = min(int(places[:, 0].max().item() + pad_y), height)
    x1 = max(int(places[:, 1].min().item() - pad_x), 0)
    x2 = min(int(places[:, 1].max().item() + pad_x), width)
    return y1, x1, y2, x2


def fit(attentions: Tensor, features: Tensor) -> Tensor:
    """Maps (B,M,h',w') at the size of features (B,C,h,w)."""
    size = tuple(features.shape[2:])
    return attentions if tuple(attentions.shape[2:]) == size else resize(attentions, size)


def _root_and_norm(parts: Tensor, eps: float) -> Tensor:
    """(B,M,C) -> (B,M*C), signed root, then the norm over all."""
    rooted = torch.sign(parts) * torch.sqrt(torch.abs(parts) + eps)
    return F.normalize(rooted.flatten(1), dim=-1)
