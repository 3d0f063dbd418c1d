"""The networks of three published implementations, reimplemented: keys, shapes and forward."""

import contextlib
from collections.abc import Iterator
from unittest import mock

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.inception import BasicConv2d
from torchvision.models.vgg import cfgs, make_layers

SIDE = 112


class Sequential(nn.Module):
    """WS-DAN.PyTorch and CAL: features.N, attentions.conv and .bn (epsilon 1e-3), fc.

    eps: inside the signed root. bias: of fc. slices: maps are the first channels.
    """

    def __init__(self, layers, channels: int, eps: float, bias: bool, slices: bool = False):
        super().__init__()
        self.features = nn.Sequential(*layers)
        self.attentions = BasicConv2d(channels, 4, kernel_size=1)
        self.fc = nn.Linear(4 * channels, 5, bias=bias)
        self.eps, self.slices = eps, slices

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(images)
        maps = features[:, :4] if self.slices else self.attentions(features)
        return self.fc(100 * pooled(features, maps, self.eps)), maps


class Wvinzh(nn.Module):
    """WS_DAN_PyTorch: torchvision's names up to Mixed_7a, whose first branch gives the maps;
    images scaled to mean and standard deviation 0.5."""

    def __init__(self):
        super().__init__()
        inception = torchvision.models.inception_v3(weights=None, init_weights=False)
        for name, child in inception.named_children():
            if name.startswith(("Conv2d", "Mixed", "maxpool")) and name not in (
                "Mixed_7b", "Mixed_7c"
            ):  # fmt: skip
                self.add_module(name, child)
        self.fc_new = nn.Linear(4 * 768, 5)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        deviations, means = (0.229, 0.224, 0.225), (0.485, 0.456, 0.406)
        features = torch.cat(
            [
                images[:, i : i + 1] * (deviations[i] / 0.5) + (means[i] - 0.5) / 0.5
                for i in range(3)
            ],
            dim=1,
        )
        for name, child in self.named_children():
            if name not in ("Mixed_7a", "fc_new"):
                features = child(features)
        maps = self.Mixed_7a.branch3x3_1(features)[:, :4]
        self.Mixed_7a(features)  # computed and not used
        return self.fc_new(100 * pooled(features, maps, 1e-12)), maps


class WvinzhResNet(nn.Module):
    """WS_DAN_PyTorch's ResNets with maps: layer4 ends in its second block, of which the first
    convolution gives the features and the second the maps; the third is not used."""

    def __init__(self, depth: int = 50):
        super().__init__()
        network = torchvision.models.get_model(f"resnet{depth}", weights=None)
        network.layer4 = network.layer4[:2]
        for name, child in network.named_children():
            if name not in ("avgpool", "fc"):
                self.add_module(name, child)
        self.fc_new = nn.Linear(32 * 512, 5)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        first, second = self.layer4
        x = first(self.layer3(self.layer2(self.layer1(x))))
        features = second.bn1(second.conv1(x)).relu()
        maps = second.bn2(second.conv2(features)).relu()[:, :32]
        return self.fc_new(100 * pooled(features, maps, 1e-12)), maps


def pooled(features: Tensor, maps: Tensor, eps: float) -> Tensor:
    """Mean of map times feature, signed root, unit norm. -> (B,M*C), map by map."""
    product = (maps[:, :, None] * features[:, None]).mean((3, 4)).flatten(1)
    root = product.sign() * (product.abs() + eps).sqrt()
    return root / root.norm(dim=1, keepdim=True).clamp_min(1e-12)


def inception(last: str) -> list[nn.Module]:
    network = torchvision.models.inception_v3(weights=None, init_weights=False)
    children = dict(network.named_children())
    del children["AuxLogits"]
    names = list(children)
    return [children[name] for name in names[: names.index(last) + 1]]


def resnet(name: str, stride: int, bias: bool) -> list[nn.Module]:
    """stride: of the last stage. bias: of the two convolutions of each small block."""
    network = torchvision.models.get_model(name, weights=None)
    for block_name, block in network.named_modules():
        if bias and hasattr(block, "conv2"):
            for conv in ("conv1", "conv2"):
                old = getattr(block, conv)
                new = nn.Conv2d(old.in_channels, old.out_channels, 3, old.stride, 1)
                setattr(block, conv, new)
        if stride == 1 and block_name == "layer4.0":
            strided = block.conv2 if hasattr(block, "conv3") else block.conv1
            strided.stride = block.downsample[0].stride = (1, 1)
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    return [getattr(network, name) for name in names]


def vgg(name: str) -> list[nn.Module]:
    """Only the features: the classifier has most of the weights."""
    configuration = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}[name.split("_")[0]]
    return list(make_layers(cfgs[configuration], batch_norm=name.endswith("_bn")))


@torch.no_grad()
def settle(network: nn.Module, seed: int) -> nn.Module:
    """Random weights and batch statistics for all norms, so that every layer matters; eval mode."""
    torch.manual_seed(seed)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.weight.uniform_(0.8, 1.2)
        norm.bias.uniform_(-0.2, 0.2)
    network.train()(torch.randn(4, 3, SIDE, SIDE))
    for norm in norms:
        norm.running_mean += 0.1 * torch.randn_like(norm.running_mean)
    return network.eval()


@contextlib.contextmanager
def zero_initialization() -> Iterator[None]:
    """Modules made within start at 0, which is fast, for tests that load weights or need none.

    Not uninitialized: that memory might hold the very weights that a broken load does not load.
    """

    def zero(tensor: Tensor, *_: object, **__: object) -> Tensor:
        with torch.no_grad():
            return tensor.zero_()

    names = ("kaiming_normal_", "kaiming_uniform_", "normal_", "trunc_normal_", "uniform_")
    with mock.patch.multiple(nn.init, **dict.fromkeys(names, zero)):
        yield
