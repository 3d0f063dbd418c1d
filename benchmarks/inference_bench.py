"""Inference with two views: one view alone, both by this package, both as published.

python benchmarks/inference_bench.py [--device cuda] [--batch B] [--backbone NAME] [--image-size S]
All pass the same network over one batch that is on the device, in channels_last. "raw" is one pass:
half of its images/s is the most that two can have. "auto" is `predict_views` of `wsdan eval` and
`wsdan predict`: the raw view and the refined one, a crop around the object. "published" cuts the
crops of the listing one after the other, waits for the device in each image, and is otherwise the
same. Each works eagerly, with the network under torch.compile, and on a GPU as a CUDA graph, which
holds everything but the published loop. In bfloat16 all run under autocast. Times are the host's.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import torch
from harness import gpu, published
from harness.run import COMPILED, RAW, Work, network_options, parse, run
from torch import Tensor, nn
from torch.nn import functional as F

from wsdan import WSDAN
from wsdan.config import Config
from wsdan.inference.evaluate import predict_views
from wsdan.networks.backbones import build_backbone
from wsdan.networks.model import Output
from wsdan.precision import autocast
from wsdan_kernels.testing import TOLERANCES, paper_shape

BACKBONE, CLASSES = "resnet50", 200
BATCHES = (1, 16, 128)
OPTIONS = network_options(BACKBONE)
PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16"}
EAGER, GRAPH = "eager", "graph"
WARM_UP = 3  # calls before a capture


def works(options: argparse.Namespace) -> Iterator[Work]:
    modes = [EAGER, COMPILED, GRAPH]
    if options.no_compile:
        modes.remove(COMPILED)
    if options.device != gpu.NAME:
        modes.remove(GRAPH)
    for batch in options.batches if options.device == gpu.NAME else options.batches[:1]:
        sizes = {**paper_shape(batch), "H": options.image_size, "W": options.image_size}
        for dtype in (torch.bfloat16, torch.float32):
            for mode in modes:
                yield views_work(sizes, options.device, dtype, mode, options.backbone)


def views_work(
    sizes: dict[str, int],
    device: str,
    dtype: torch.dtype,
    mode: str = EAGER,
    backbone: str | None = None,
) -> Work:
    """sizes: as of `paper_shape`; C, h, w are the backbone's (by default BACKBONE's) own.

    mode: EAGER, COMPILED or GRAPH.
    """
    name = backbone or BACKBONE
    torch.manual_seed(0)
    model = WSDAN(build_backbone(name), CLASSES, sizes["M"]).eval()
    model.to(device, memory_format=torch.channels_last)
    images = objects(sizes).to(device).to(memory_format=torch.channels_last)
    config = Config("folder", ".", batch_size=sizes["B"], precision=PRECISIONS[dtype]).resolved()
    if mode == COMPILED:
        model.compile()
    forward = partial(_forward, model, config=config)
    two, one, network = partial(_ours, model, config=config), partial(_raw, forward), model
    if mode == GRAPH:
        two, one, network = (Graphed(part, images) for part in (two, one, forward))
    kind = str(dtype).removeprefix("torch.")
    return Work(
        "inference",
        f"B {sizes['B']} M {sizes['M']} {name} {sizes['H']} px {kind} {mode}",
        {
            "published": partial(_published, network, images, config),
            "auto": partial(two, images),
            RAW: partial(one, images),
        },
        TOLERANCES[dtype],
        moved=float(images.nbytes),
        device=device,
        images=sizes["B"],
    )


def objects(sizes: dict[str, int]) -> Tensor:
    """Images (B,3,H,W): noise of half the sides somewhere on plain ground, so that boxes differ."""
    batch, height, width = (sizes[key] for key in "BHW")
    images = torch.zeros((batch, 3, height, width))
    for image in images:
        y, x = (int(torch.randint(size - size // 2, ())) for size in (height, width))
        image[:, y : y + height // 2, x : x + width // 2].uniform_(-2, 2)
    return images


class Graphed:
    """A function of images (B,3,H,W) as a CUDA graph; the next call overwrites its results."""

    def __init__(self, function: Callable[[Tensor], tuple[Tensor, ...]], images: Tensor):
        self._images = images.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                function(self._images)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=stream):
            self._results = function(self._images)

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        self._images.copy_(images)
        self._graph.replay()
        return self._results


@torch.no_grad()
def _forward(model: nn.Module, images: Tensor, config: Config) -> Output:
    with autocast(config, images.device):
        return model(images)


def _raw(forward: Callable[[Tensor], Output], images: Tensor) -> tuple[Tensor, ...]:
    return (F.softmax(forward(images).logits.float(), dim=1),)


def _ours(model: nn.Module, images: Tensor, config: Config) -> tuple[Tensor, ...]:
    prediction = predict_views(model, images, config)
    return prediction.raw, prediction.refined, prediction.mean


@torch.no_grad()
def _published(
    network: Callable[[Tensor], Output], images: Tensor, config: Config
) -> tuple[Tensor, ...]:
    with autocast(config, images.device):
        return published.predict_views(network, images)


if __name__ == "__main__":
    raise SystemExit(run(works, parse(__doc__.splitlines()[0], more=OPTIONS, batches=BATCHES)))
