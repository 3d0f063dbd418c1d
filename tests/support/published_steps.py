"""The training steps of the published codes, restated, and their functions as loops over images.

Each step takes the functions it calls as `tools`: the loops here, or a module of
wsdan_kernels.compat. A step moves the network and the centers, and returns the loss.
"""

import random
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class TinyNet(nn.Module):
    """Features (B,6,h,w) at a quarter of the image, 5 maps of them, a classifier of 3 classes."""

    def __init__(self, bap: nn.Module):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 5, stride=4, padding=2), nn.Tanh())
        self.attention = nn.Conv2d(6, 5, 1)
        self.bap = bap
        self.classifier = nn.Linear(30, 3, bias=False)

    def forward(self, images):
        """-> maps (B,5,h,w), what the BAP returns."""
        features = self.features(images)
        maps = self.attention(features).relu()
        return maps, self.bap(features, maps)


def losses(step, tools, dtype, steps=3) -> list[torch.Tensor]:
    """The losses of some steps from one start, images and random numbers."""
    for generator in (random.seed, np.random.seed, torch.manual_seed):
        generator(5)
    net = TinyNet(tools.BAP()).to(dtype)
    images = torch.randn(4, 3, 34, 34, dtype=dtype)
    labels = torch.tensor([0, 2, 1, 2])
    centers = torch.zeros(3, 30, dtype=dtype)
    found = []
    for _ in range(steps):
        loss = step(tools, net, images, labels, centers)
        net.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= 1e-4 * parameter.grad
        found.append(loss.detach())
    return found


def wvinzh_step(tools, net, images, labels, centers):
    """WS_DAN_PyTorch: its centers move before the other two passes, the last of a label wins."""
    maps, (raw, scaled) = net(images)
    center_loss, move = tools.calculate_pooling_center_loss(raw, centers, labels, alfa=0.9)
    centers[labels] += move
    crops, drops = tools.attention_crop_drop(maps, images)
    total = F.cross_entropy(net.classifier(scaled), labels)
    for views in (drops, crops):
        _, (_, scaled) = net(views)
        total = total + F.cross_entropy(net.classifier(scaled), labels)
    return total / 3 + center_loss


def guyuc_step(tools, net, images, labels, centers):
    """WS-DAN.PyTorch."""
    maps, pooled = net(images)
    chosen = tools.choose_attention(maps)
    target = _moved(centers, labels, pooled)
    total = F.cross_entropy(net.classifier(pooled * 100), labels)
    for index, mode, theta in ((0, "crop", (0.4, 0.6)), (1, "drop", (0.2, 0.5))):
        with torch.no_grad():
            views = tools.batch_augment(images, chosen[:, index : index + 1], mode, theta)
        _, again = net(views)
        total = total + F.cross_entropy(net.classifier(again * 100), labels)
    return total / 3 + tools.CenterLoss()(pooled, target)


def cal_step(tools, net, images, labels, centers):
    """CAL, and FGIR-Backbones without its exchange of boxes."""
    maps, (pooled, fake) = net(images)
    chosen = tools.choose_attention(maps)
    target = _moved(centers, labels, pooled)
    with torch.no_grad():
        crops = tools.batch_augment(
            images, chosen[:, :1], mode="crop", theta=(0.4, 0.6), padding_ratio=0.1
        )
        drops = tools.batch_augment(images, chosen[:, 1:], mode="drop", theta=(0.2, 0.5))
    _, (again, fake_again) = net(torch.cat((crops, drops)))
    of = net.classifier
    effects = of(100 * pooled) - of(100 * fake), of(100 * again) - of(100 * fake_again)
    twice = labels.repeat(2)
    return (
        F.cross_entropy(of(100 * pooled), labels) / 3
        + F.cross_entropy(torch.cat(effects), labels.repeat(3))
        + F.cross_entropy(of(100 * again), twice) * 2 / 3
        + tools.CenterLoss()(pooled, target)
    )


def _moved(centers, labels, pooled):
    target = F.normalize(centers[labels], dim=-1)
    centers[labels] += 0.05 * (pooled.detach() - target)
    return target


def _pooled(features, maps, eps):
    """The einsum over the positions, then the signed root and the norm, each (B,M*C)."""
    area = features.shape[2] * features.shape[3]
    sums = (torch.einsum("bmyz,bnyz->bmn", maps, features) / area).flatten(1)
    return F.normalize(sums.sign() * (sums.abs() + eps).sqrt(), dim=-1)


class _Plain(nn.Module):
    def forward(self, features, maps):
        return _pooled(features, maps, 1e-12)


class _Scaled(nn.Module):
    def forward(self, features, maps):
        raw = _pooled(features, maps, 1e-12)
        return raw, raw * 100


class _Pair(nn.Module):
    def forward(self, features, maps):
        actual = _pooled(features, maps, 1e-6)
        return actual, _pooled(features, torch.zeros_like(maps).uniform_(0, 2), 1e-6)


class _CenterLoss(nn.Module):
    def forward(self, outputs, targets):
        return F.mse_loss(outputs, targets, reduction="sum") / outputs.shape[0]


def _cut_out(image, hit, padding, whole_pixels):
    """image (C,H,W), hit (H,W) -> the padded box of hit at the image's size."""
    spans = []
    for axis, size in enumerate(hit.shape):
        places = hit.any(1 - axis).nonzero()[:, 0]
        pad = int(padding * size) if whole_pixels else padding * size
        first = max(int(places.min().item() - pad), 0)
        spans.append(slice(first, min(int(places.max().item() + pad), size)))
    part = image[None, :, spans[0], spans[1]]
    return F.interpolate(part, hit.shape, mode="bilinear", align_corners=True)


def _wvinzh_views(maps, images):
    size, crops, drops = images.shape[2:], [], []
    up = F.interpolate(maps.detach(), size, mode="bilinear", align_corners=False)
    for one, image in zip(up, images, strict=True):
        weights = one.mean((1, 2)).sqrt() + 1e-12
        shares = (weights / weights.sum()).numpy()
        to_crop, to_drop = (one[np.random.choice(len(one), 1, p=shares)[0]] for _ in range(2))
        hit = to_crop >= to_crop.max() * random.uniform(0.4, 0.6)
        crops.append(_cut_out(image, hit, 0.1, whole_pixels=True))
        kept = to_drop < random.uniform(0.2, 0.5) * to_drop.max()
        drops.append(image[None] * kept.to(image.dtype))
    return torch.cat(crops), torch.cat(drops)


def _wvinzh_centers(features, centers, labels, alfa):
    chosen = F.normalize(centers[labels], dim=-1)
    away = features - chosen
    return (away**2).sum(-1).mean(), (1 - alfa) * (features.detach() - chosen)


def _augment(resize):
    """batch_augment of CAL's kind, with its resize of the maps."""

    def run(images, maps, mode="crop", theta=0.5, padding_ratio=0.1):
        views = []
        for one, image in zip(maps, images, strict=True):
            cut = (random.uniform(*theta) if isinstance(theta, tuple) else theta) * one.max()
            up = F.interpolate(one[None], image.shape[1:], **resize)[0, 0]
            if mode == "crop":
                views.append(_cut_out(image, up >= cut, padding_ratio, whole_pixels=False))
            else:
                views.append(image[None] * (up < cut).to(image.dtype))
        return torch.cat(views)

    return run


def chooser(eps):
    """Two maps an image with the weight sqrt(sum + eps)."""

    def choose_attention(maps):
        drawn = []
        for one in maps:
            shares = F.normalize((one.detach().sum((1, 2)) + eps).sqrt(), p=1, dim=0)
            drawn.append(one[np.random.choice(len(one), 2, p=shares.numpy())])
        return torch.stack(drawn)

    return choose_attention


BILINEAR = {"mode": "bilinear", "align_corners": True}
WVINZH = SimpleNamespace(
    BAP=_Scaled,
    attention_crop_drop=_wvinzh_views,
    calculate_pooling_center_loss=_wvinzh_centers,
)
GUYUC = SimpleNamespace(
    BAP=_Plain,
    CenterLoss=_CenterLoss,
    batch_augment=_augment(BILINEAR),
    choose_attention=chooser(1e-12),
)
CAL = SimpleNamespace(
    BAP=_Pair,
    CenterLoss=_CenterLoss,
    batch_augment=_augment(BILINEAR),
    choose_attention=chooser(1e-6),
)
FGIR = SimpleNamespace(
    BAP=_Pair,
    CenterLoss=_CenterLoss,
    batch_augment=_augment({"mode": "bicubic"}),
    choose_attention=chooser(1e-6),
)
