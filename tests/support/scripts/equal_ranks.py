"""The wsdan command on few images; at each checkpoint all ranks must have equal weights.

NETWORK=plain uses a network without batch norm, whose statistics differ between ranks;
NETWORK=plain64 computes it in float64, on the same images.
"""

import os
import sys

import torch
from few_images import draw_few
from torch import nn

import wsdan.training.loop
from wsdan.cli import main
from wsdan.distributed import gather_rows, is_main, world_size
from wsdan.networks import backbones
from wsdan.training.loop import save


class Plain(nn.Sequential):
    """Images (B,3,H,W) -> features (B,16,H/4,W/4)."""

    def __init__(self):
        convolutions = [nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)]
        super().__init__(nn.AvgPool2d(4), convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images.to(self[1].weight.dtype))


def save_and_compare(run, best=None):
    """Centers and weights have the same bits in every rank."""
    model = run.state.model
    tensors = {"centers": model.centers.centers, **dict(model.named_parameters())}
    for name, tensor in tensors.items():
        first, *others = gather_rows(tensor.detach()[None])
        assert len(others) == world_size() - 1
        assert all(torch.equal(other, first) for other in others), name
    assert model.centers.centers.abs().sum() > 0
    if is_main():
        print("ranks are equal", flush=True)
    return save(run, best)


if __name__ == "__main__":
    draw_few()
    wsdan.training.loop.save = save_and_compare
    network = os.environ.get("NETWORK", "")
    if network.startswith("plain"):
        backbones.Tiny = Plain
    if network == "plain64":
        torch.set_default_dtype(torch.float64)
    sys.exit(main())
