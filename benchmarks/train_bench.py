"""A whole three-view training step: ours, the published step, three passes of the backbone.

python benchmarks/train_bench.py [--device cuda] [--batch B] [--backbone NAME] [--image-size S] ...
All train the same first weights, in channels_last, on one batch that is on the device; "graph" is
ours in a CUDA graph. The three passes are the plain classifier's, with one backward through them
and one step of the optimizer: the floor of any such step. In bfloat16 all run under autocast. Times
are the host's, of steps that follow each other.
"""

import argparse
import copy
from collections.abc import Callable, Iterator
from functools import partial

import gpu
import published
import torch
from run import PASSES, Work, parse, run
from torch import Tensor, nn
from torch.nn import functional as F

from wsdan import WSDAN, wsdan_objective
from wsdan.backbones import build_backbone
from wsdan.model import PlainClassifier
from wsdan_kernels.testing import TOLERANCES, paper_shape

BACKBONE, CLASSES = "inception_v3", 200
RECIPE = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-5}
WARM_UP = 3  # steps on a stream of their own, before one is captured

Losses = tuple[Tensor, Tensor]


def works(options: argparse.Namespace) -> Iterator[Work]:
    for dtype in (torch.bfloat16, torch.float32):
        sizes = {**paper_shape(options.batch), "H": options.image_size, "W": options.image_size}
        yield step_work(sizes, options.device, dtype, options.backbone)


def step_work(
    sizes: dict[str, int], device: str, dtype: torch.dtype, backbone: str | None = None
) -> Work:
    """sizes: as of `paper_shape`; C, h and w are the backbone's (by default BACKBONE) own."""
    name = backbone or BACKBONE
    torch.manual_seed(0)
    network = build_backbone(name)
    model = WSDAN(network, CLASSES, sizes["M"])
    images = torch.rand((sizes["B"], 3, sizes["H"], sizes["W"])).to(device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (sizes["B"],)).to(device)

    def trained(losses: Callable, model: nn.Module) -> Callable[[], Losses]:
        """A step of this model, from its present weights on."""
        model = copy.deepcopy(model).to(device, memory_format=torch.channels_last).train()
        optimizer = torch.optim.SGD(model.parameters(), **RECIPE)
        return partial(_step, partial(losses, model, images, labels), optimizer, device, dtype)

    variants = {
        "published": trained(published.step_losses, model),
        "auto": trained(wsdan_objective, model),
    }
    if device == gpu.NAME:
        variants["graph"] = Captured(trained(wsdan_objective, model))
    variants[PASSES] = trained(_passes, PlainClassifier(network, CLASSES))
    kind = str(dtype).removeprefix("torch.")
    return Work(
        "training step",
        f"B {sizes['B']} M {sizes['M']} {name} {sizes['H']} px {kind}",
        variants,
        TOLERANCES[dtype],
        moved=float(images.nbytes),
        device=device,
        pictures=sizes["B"],
    )


def _step(
    losses: Callable[[], dict[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    device: str,
    dtype: torch.dtype,
) -> Losses:
    """One step; the losses of the raw view and of the centers, which no draw has a part in."""
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        result = losses()
    result["loss"].backward()
    optimizer.step()
    return result["raw"].detach().float(), result["center"].detach().float()


def _passes(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Three plain passes."""
    loss = sum(F.cross_entropy(model(images).logits, labels) for _ in range(3))
    return {"loss": loss, "raw": loss, "center": torch.zeros_like(loss)}


class Captured:
    """A step as a CUDA graph. The first call takes WARM_UP steps and gives the first's losses."""

    def __init__(self, step: Callable[[], Losses]):
        self.step = step
        self.graph = None

    def __call__(self) -> Losses:
        if self.graph is None:
            return self._capture()
        self.graph.replay()
        return self.losses

    def _capture(self) -> Losses:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            first, *_ = [self.step() for _ in range(WARM_UP)]
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.losses = self.step()
        return first


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", default=BACKBONE, help="of wsdan (default: %(default)s)")
    parser.add_argument("--image-size", type=int, default=448, help="pixels (default: 448)")


if __name__ == "__main__":
    raise SystemExit(run(works, parse(__doc__.splitlines()[0], more=_options)))
