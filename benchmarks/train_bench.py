"""A whole three-view training step: ours, the published step, three passes of the backbone.

python benchmarks/train_bench.py [--device cuda] [--batch B] [--backbone NAME] [--image-size S] ...
All train the same first weights, in channels_last, on one batch that is on the device; "graph" is
ours as --cuda-graph has it. The three passes are the plain classifier's, with one backward through
them and one step of the optimizer: the floor of any such step. In bfloat16 all run under autocast.
Times are the host's, of steps that follow each other.
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
from wsdan.graphs import GraphedStep
from wsdan.model import PlainClassifier
from wsdan_kernels.testing import TOLERANCES, paper_shape

BACKBONE, CLASSES = "inception_v3", 200
RECIPE = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-5}


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

    def trained(losses: Callable, model: nn.Module, graphed: bool = False) -> Callable:
        """A step of a copy of this model, from its present weights on."""
        model = copy.deepcopy(model).to(device, memory_format=torch.channels_last).train()
        optimizer = torch.optim.SGD(model.parameters(), **RECIPE, fused=device == gpu.NAME or None)
        step = partial(_step, partial(losses, model), optimizer, dtype)
        if graphed:
            step = GraphedStep(step, optimizer, len(images))
        return partial(_losses, step, images, labels)

    variants = {
        "published": trained(published.step_losses, model),
        "auto": trained(wsdan_objective, model),
    }
    if device == gpu.NAME:
        variants["graph"] = trained(wsdan_objective, model, graphed=True)
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


def _losses(step: Callable, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    return tuple(step(images, labels).values())


def _step(
    losses: Callable[[Tensor, Tensor], dict[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    dtype: torch.dtype,
    images: Tensor,
    labels: Tensor,
) -> dict[str, Tensor]:
    """One step; the losses of the raw view and of the centers, which no draw has a part in."""
    enabled = dtype == torch.bfloat16
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=enabled):
        result = losses(images, labels)
    optimizer.zero_grad(set_to_none=True)
    result["loss"].backward()
    optimizer.step()
    return {name: result[name].detach().float() for name in ("raw", "center")}


def _passes(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Three plain passes."""
    loss = sum(F.cross_entropy(model(images).logits, labels) for _ in range(3))
    return {"loss": loss, "raw": loss, "center": torch.zeros_like(loss)}


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", default=BACKBONE, help="of wsdan (default: %(default)s)")
    parser.add_argument("--image-size", type=int, default=448, help="pixels (default: 448)")


if __name__ == "__main__":
    raise SystemExit(run(works, parse(__doc__.splitlines()[0], more=_options)))
