"""A whole three-view training step: ours, the published step, three passes of the backbone.

python benchmarks/train_bench.py [--device cuda] [--batch B] [--backbone NAME] [--image-size S] ...
All train the same first weights, in channels_last, on one batch that is on the device, with the
same fused optimizer. Ours are the trainer's own step, its checks and rollback included: "auto" as
`wsdan train` has it, "joint" with --joint-views, "compiled" with --compile, "graph" with
--cuda-graph. The published step also waits for its loss, which its loop shows after each. The three
passes are the plain classifier's, with one backward through them and one step of the optimizer: the
floor of any such step. In bfloat16 all run under autocast. Times are the host's, of steps that
follow each other; the shares of the phases are those of "auto", timed apart.
"""

import argparse
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from harness import gpu, published
from harness.run import COMPILED, PASSES, Work, network_options, parse, run
from torch import Tensor, nn
from torch.nn import functional as F

from wsdan import WSDAN
from wsdan.config import Config
from wsdan.networks.backbones import build_backbone
from wsdan.networks.model import PlainClassifier
from wsdan.precision import autocast
from wsdan.profiling import WARM_UP, StepProfiler, device_clock
from wsdan.training.optim import build_optimizer
from wsdan.training.step import build_step
from wsdan_kernels.testing import TOLERANCES, paper_shape

BACKBONE, CLASSES = "inception_v3", 200
PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16"}
PROFILED = 3  # steps after the warm-up


@dataclass
class Trained:
    """A variant: steps of one model on one batch, images (B,3,H,W), labels (B,), uniforms (B,4).

    A call returns the losses of the raw view and of the centers, which no draw has a part in.
    """

    model: nn.Module
    step: Callable[..., dict[str, Tensor]]
    batch: tuple[Tensor, Tensor, Tensor]

    def __call__(self) -> tuple[Tensor, Tensor]:
        results = self.step(*self.batch)
        return results["raw"].detach().float(), results["center"].detach().float()


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
    batch = _batch(sizes, device)
    # The published recipe; no image is read.
    config = Config("folder", ".", batch_size=sizes["B"], precision=PRECISIONS[dtype]).resolved()

    def trained(build: Callable, model: nn.Module, **settings: object) -> Trained:
        """A step of a copy of this model, from its present weights on."""
        chosen = replace(config, **settings)
        model = copy.deepcopy(model).to(device, memory_format=torch.channels_last).train()
        if chosen.compile:
            model.compile()
        return Trained(model, build(model, build_optimizer(model, chosen), chosen), batch)

    variants = {
        "published": trained(partial(_plain_step, _published), model),
        "auto": trained(build_step, model),
        "joint": trained(build_step, model, joint_views=True),
        COMPILED: trained(build_step, model, compile=True),
    }
    if device == gpu.NAME:
        variants["graph"] = trained(build_step, model, cuda_graph=True)
    variants[PASSES] = trained(partial(_plain_step, _passes), PlainClassifier(network, CLASSES))
    kind = str(dtype).removeprefix("torch.")
    return Work(
        "training step",
        f"B {sizes['B']} M {sizes['M']} {name} {sizes['H']} px {kind}",
        variants,
        TOLERANCES[dtype],
        moved=float(batch[0].nbytes),
        device=device,
        images=sizes["B"],
        phases=partial(_phases, model, config, batch),
    )


def _batch(sizes: dict[str, int], device: str) -> tuple[Tensor, Tensor, Tensor]:
    images = torch.rand((sizes["B"], 3, sizes["H"], sizes["W"])).to(device)
    labels = torch.randint(CLASSES, (sizes["B"],)).to(device)
    uniforms = torch.rand((sizes["B"], 4)).to(device)
    return images.to(memory_format=torch.channels_last), labels, uniforms


def _plain_step(
    losses: Callable, model: nn.Module, optimizer: torch.optim.Optimizer, config: Config
) -> Callable[..., dict[str, Tensor]]:
    """A step without more to it than zeroing, forward, backward and the optimizer."""

    def step(images: Tensor, labels: Tensor, uniforms: Tensor) -> dict[str, Tensor]:
        optimizer.zero_grad(set_to_none=True)
        with autocast(config, images.device):
            result = losses(model, images, labels)
        result["loss"].backward()
        optimizer.step()
        if "shown" in result:
            result["shown"].item()
        return result

    return step


def _published(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The published losses, of which the loop shows the sum after each step."""
    result = published.step_losses(model, images, labels)
    return {**result, "shown": result["loss"].detach()}


def _passes(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Three plain passes."""
    loss = sum(F.cross_entropy(model(images).logits, labels) for _ in range(3))
    return {"loss": loss, "raw": loss, "center": torch.zeros_like(loss)}


def _phases(
    model: nn.Module, config: Config, batch: tuple[Tensor, Tensor, Tensor]
) -> dict[str, float]:
    """Milliseconds of each phase of a step of ours on a copy of this model; they wait for a GPU."""
    device = batch[0].device
    model = copy.deepcopy(model).to(device, memory_format=torch.channels_last).train()
    timed = StepProfiler(device_clock(device), model)
    step = build_step(model, build_optimizer(model, config), config, profiler=timed)
    for inputs in timed.data([batch] * (WARM_UP + PROFILED)):
        step(*inputs)
        timed.end_step()
    return {name: 1e3 * value / timed.measured for name, value in timed.seconds.items()}


if __name__ == "__main__":
    options = parse(__doc__.splitlines()[0], more=network_options(BACKBONE))
    raise SystemExit(run(works, options))
