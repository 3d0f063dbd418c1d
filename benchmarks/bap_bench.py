"""Bilinear attention pooling and the feature centers: ours, the published code, the limits.

python benchmarks/bap_bench.py [--batch B] [--json FILE] [--plot FILE.png] [--base FILE] ...
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import published
import torch
from run import LIMIT, Work, compiled, ours, parse, run
from torch import Tensor

import wsdan_kernels as wk
from wsdan_kernels.reference import bilinear_attention_pool as reference_pool
from wsdan_kernels.reference import center_loss as reference_centers
from wsdan_kernels.testing import CASES, TOLERANCES, paper_shape

CLASSES = 200
PUBLISHED = {"mean": published.pool_mean, "max": published.pool_max}


def works(options: argparse.Namespace) -> Iterator[Work]:
    """The paper's shape first, then others: (B,M,C,h,w)."""
    size = paper_shape(options.batch)
    batch, channels = size["B"], size["C"]
    paper = (batch, size["M"], channels, size["h"], size["w"])
    device = options.device
    yield from pool_works(paper, "mean", device)
    yield from pool_works(paper, "max", device)
    yield from pool_works(paper, "mean", device, layout=torch.channels_last)
    yield from pool_works(paper, "mean", device, dtype=torch.bfloat16)
    others = [(batch, maps, *paper[2:]) for maps in (5, 8, 64)]
    for shape in (*others, (batch, size["M"], 2048, 12, 12), (1, *paper[1:])):
        if shape != paper:
            yield from pool_works(shape, "mean", device)
    yield center_work(batch, size["M"] * channels, device)


def pool_works(
    shape: tuple[int, ...],
    reduce: str,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.contiguous_format,
) -> Iterator[Work]:
    """Forward, then forward and backward. shape (B,M,C,h,w)."""
    batch, maps, channels, height, width = shape
    inputs = make_inputs(shape, reduce, device, dtype, layout)
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn((batch, maps, channels), generator=generator).to(device)
    pools = _pools(reduce, device, dtype)
    leaves = [value.clone().requires_grad_() for value in inputs]
    forward = {name: partial(pool, *inputs) for name, pool in pools.items()}
    both = {name: partial(_with_gradients, pool, leaves, grad) for name, pool in pools.items()}
    if reduce == "mean":
        forward[LIMIT] = partial(_product, *inputs)
        both[LIMIT] = partial(_products, *inputs, grad)
    text = f"B {batch} M {maps} C {channels} {height}x{width} {_name(dtype)}"
    text += " channels_last" if layout == torch.channels_last else ""
    read = sum(value.nbytes for value in inputs)
    operations = 2.0 * batch * maps * channels * height * width
    common = {"shape": text, "tolerance": TOLERANCES[dtype], "device": device}
    yield Work(
        f"{reduce} forward", variants=forward, moved=read + grad.nbytes,
        operations=operations, **common,
    )  # fmt: skip
    yield Work(
        f"{reduce} forward+backward", variants=both, moved=3 * read + 2 * grad.nbytes,
        operations=3 * operations, **common,
    )  # fmt: skip


def make_inputs(
    shape: tuple[int, ...],
    reduce: str,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.contiguous_format,
) -> list[Tensor]:
    """Features and attentions as after a ReLU. shape (B,M,C,h,w)."""
    case = next(case for case in CASES if case.name == f"bilinear_attention_pool[{reduce}]")
    return [
        value.detach().relu().to(device).to(memory_format=layout)
        for value in case.inputs(shape, dtype).values()
    ]


def center_work(batch: int, dim: int, device: str = "cpu") -> Work:
    """Loss, gradient and update of the centers (N,D), which each variant has for itself."""
    case = next(case for case in CASES if case.name == "center_loss")
    inputs = case.inputs((batch, CLASSES, dim))
    features, centers, labels = (
        inputs[name].detach().to(device) for name in ("features", "centers", "labels")
    )
    features.requires_grad_()
    steps: dict[str, Callable] = {
        "published": published.center_step,
        "reference": partial(_center_step, backend="reference"),
        "compiled": _CompiledCenters(),
    }
    for name in ours(("center_loss", "update_centers_"), device, torch.float32):
        steps[name] = partial(_center_step, backend=name)
    states = {name: centers.clone() for name in steps}
    return Work(
        "center loss+gradient+update",
        f"B {batch} D {dim} N {CLASSES} float32",
        {name: partial(_on_state, step, features, states[name], labels)
         for name, step in steps.items()},
        tolerance=TOLERANCES[torch.float32],
        moved=4.0 * features.nbytes,
        device=device,
    )  # fmt: skip


def _pools(reduce: str, device: str, dtype: torch.dtype) -> dict[str, Callable]:
    """The variants as functions of features and attentions, each -> (B,M,C) float32."""

    def eager(features: Tensor, attentions: Tensor) -> Tensor:
        pooled = PUBLISHED[reduce](features, attentions)
        return pooled.view(features.shape[0], attentions.shape[1], -1)

    def plain(features: Tensor, attentions: Tensor) -> Tensor:
        options = (reduce, True, "all", 1, 1e-12, 1.0)
        return reference_pool.forward(features, attentions, *options)[0]

    pools = {"published": eager, "reference": None, "compiled": compiled(plain)}
    for name in ("reference", *ours(("bilinear_attention_pool",), device, dtype)):
        pools[name] = partial(wk.bilinear_attention_pool, reduce=reduce, backend=name)
    return pools


def _with_gradients(pool: Callable, leaves: list[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
    output = pool(*leaves)
    return output.detach(), *torch.autograd.grad(output, leaves, grad.to(output.dtype))


def _product(features: Tensor, attentions: Tensor) -> Tensor:
    return torch.bmm(attentions.flatten(2), features.flatten(2).mT)


def _products(features: Tensor, attentions: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """The three products of forward and backward, and nothing else."""
    rows, maps = features.flatten(2), attentions.flatten(2)
    grad = grad.to(features.dtype)
    return torch.bmm(maps, rows.mT), torch.bmm(grad.mT, maps), torch.bmm(grad, rows)


def _center_step(
    features: Tensor, centers: Tensor, labels: Tensor, backend: str
) -> tuple[Tensor, Tensor]:
    loss = wk.center_loss(features, centers, labels, backend=backend)
    (grad,) = torch.autograd.grad(loss, features)
    wk.update_centers_(centers, features, labels, backend=backend)
    return loss.detach(), grad


class _CompiledCenters:
    """The reference's two functions, compiled."""

    def __init__(self):
        self.loss = compiled(lambda *inputs: reference_centers.forward(*inputs)[0])
        self.update = compiled(reference_centers.update)

    def __call__(self, features: Tensor, centers: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        loss = self.loss(features, centers, labels)
        (grad,) = torch.autograd.grad(loss, features)
        self.update(centers, features.detach(), labels, 0.05, "accumulate")
        return loss.detach(), grad


def _on_state(
    step: Callable, features: Tensor, centers: Tensor, labels: Tensor
) -> tuple[Tensor, ...]:
    return *step(features, centers, labels), centers


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    raise SystemExit(run(works, parse(__doc__.splitlines()[0])))
