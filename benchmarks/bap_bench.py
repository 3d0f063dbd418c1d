"""Bilinear attention pooling and the feature centers: ours, the published code, the limits.

python benchmarks/bap_bench.py [--batch B] [--json FILE] [--plot FILE.png] [--base FILE] ...
On the CPU also what a call of the GPU's kernels costs the host, without a launch (calls.py).
With --device cuda: at B 12 and 128, drawing maps and attend_and_pool too; --plot draws the times
against B, M, C and the resolution (sweep.py), which takes minutes more.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import torch
from harness import calls, gpu, published, sweep
from harness.run import LIMIT, Work, compiled, in_turn, parse, run
from harness.variants import copies, steps, variants
from torch import Tensor

import wsdan_kernels as wk
from wsdan_kernels.reference import attend_and_pool as reference_attend
from wsdan_kernels.reference import bilinear_attention_pool as reference_pool
from wsdan_kernels.reference import center_loss as reference_centers
from wsdan_kernels.reference import sample_attention as reference_sample
from wsdan_kernels.testing import CASES, TOLERANCES, paper_shape

CLASSES = 200
DRAWS = 2  # maps for each image: one to crop by, one to drop
PUBLISHED = {"mean": published.pool_mean, "max": published.pool_max}
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def works(options: argparse.Namespace) -> Iterator[Work]:
    """The paper's shape first, then others: (B,M,C,h,w)."""
    if options.device == gpu.NAME:
        yield from gpu_works(options.batches)
        return
    paper = paper_pool(options.batch)
    batch, maps, channels = paper[:3]
    yield from pool_works(paper, "mean")
    yield from pool_works(paper, "max")
    yield from pool_works(paper, "mean", layout=torch.channels_last)
    yield from pool_works(paper, "mean", dtype=torch.bfloat16)
    others = [(batch, count, *paper[2:]) for count in (5, 8, 64)]
    for shape in (*others, (batch, maps, 2048, 12, 12), (1, *paper[1:])):
        if shape != paper:
            yield from pool_works(shape, "mean")
    yield from pool_works(paper, "mean", map_size=tuple(side // 2 for side in paper[3:]))
    yield center_work(batch, maps * channels)
    yield from calls.works()


def gpu_works(batches: tuple[int, ...]) -> Iterator[Work]:
    """The paper's shape in every dtype and layout."""
    for batch in batches:
        paper = paper_pool(batch)
        for dtype in (torch.bfloat16, torch.float32):
            for layout in LAYOUTS:
                for reduce in PUBLISHED:
                    yield from pool_works(paper, reduce, gpu.NAME, dtype, layout)
                yield attend_work(paper, gpu.NAME, dtype, layout)
            yield sample_work(paper, gpu.NAME, dtype)
        yield center_work(batch, paper[1] * paper[2], gpu.NAME)


def paper_pool(batch: int) -> tuple[int, ...]:
    """(B,M,C,h,w) of the paper."""
    size = paper_shape(batch)
    return tuple(size[key] for key in "BMChw")


def pool_works(
    shape: tuple[int, ...],
    reduce: str,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.contiguous_format,
    map_size: tuple[int, int] | None = None,
) -> Iterator[Work]:
    """Forward, then forward and backward. shape (B,M,C,h,w); map_size: of maps that are resized."""
    batch, maps, channels, height, width = shape
    inputs = make_inputs(shape, reduce, device, dtype, layout)
    if map_size is not None:
        inputs[1] = make_inputs((batch, maps, 1, *map_size), reduce, device, dtype, layout)[1]
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn((batch, maps, channels), generator=generator).to(device)
    pools = _pools(reduce, device, dtype)
    read = sum(value.nbytes for value in inputs)
    sets = copies(inputs, gpu.input_sets(read, device))
    leaves = [[value.detach().requires_grad_() for value in values] for values in sets]
    forward = variants(pools, lambda pool, i: partial(pool, *sets[i]), len(sets))
    both = variants(
        pools, lambda pool, i: partial(_with_gradients, pool, leaves[i], grad), len(sets)
    )
    if reduce == "mean":
        fitted = [(values[0], published.fit(values[1], values[0])) for values in sets]
        forward[LIMIT] = in_turn([partial(_product, *values) for values in fitted])
        both[LIMIT] = in_turn([partial(_products, *values, grad) for values in fitted])
    operations = 2.0 * batch * maps * channels * height * width
    common = {
        "shape": _text(shape, dtype, layout, map_size), "tolerance": TOLERANCES[dtype],
        "device": device, "truth": _truth(dtype),
    }  # fmt: skip
    yield Work(
        f"{reduce} forward", variants=forward, moved=read + grad.nbytes,
        operations=operations, **common,
    )  # fmt: skip
    yield Work(
        f"{reduce} forward+backward", variants=both, moved=3 * read + 2 * grad.nbytes,
        operations=3 * operations, directions=2, **common,
    )  # fmt: skip


def attend_work(
    shape: tuple[int, ...],
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.contiguous_format,
) -> Work:
    """Attention maps and the pooling under them, for inference. shape (B,M,C,h,w)."""
    batch, maps, channels = shape[:3]
    features, attentions = make_inputs(shape, "mean", device, dtype, layout)
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn((maps, channels, 1, 1), generator=generator) / channels**0.5
    weight = weight.to(device, dtype)
    norm = torch.nn.BatchNorm2d(maps).eval().requires_grad_(False).to(device)
    norm.running_mean.copy_(0.1 * torch.randn(maps, generator=generator))
    norm.running_var.copy_(0.5 + torch.rand(maps, generator=generator))

    def eager(features: Tensor) -> tuple[Tensor, Tensor]:
        seen = published.attend(features, weight, norm)
        return published.pool_mean(features, seen).view(batch, maps, channels), seen

    def plain(features: Tensor) -> tuple[Tensor, Tensor]:
        vectors = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        options = ("mean", True, "all", 1e-12, 1.0)
        return reference_attend.forward(
            features, weight.flatten(1), *vectors, norm.eps, *options
        )  # fmt: skip

    def ours_on(features: Tensor, backend: str) -> tuple[Tensor, Tensor]:
        return wk.attend_and_pool(features, weight, norm, backend=backend)

    ways = steps(eager, ours_on, compiled(plain), ("attend_and_pool",), device, dtype)
    sets = copies([features], gpu.input_sets(features.nbytes, device))
    moved = features.nbytes + attentions.nbytes + 4 * batch * maps * channels
    return Work(
        "attend and pool",
        _text(shape, dtype, layout),
        variants(ways, lambda step, i: partial(step, *sets[i]), len(sets)),
        tolerance=TOLERANCES[dtype],
        moved=moved,
        operations=4.0 * batch * maps * features[0].numel(),
        device=device,
        truth=_truth(dtype),
    )


def sample_work(
    shape: tuple[int, ...], device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Work:
    """The draw of two maps for each image. shape (B,M,C,h,w)."""
    _, attentions = make_inputs((*shape[:2], 1, *shape[3:]), "mean", device, dtype)
    generator = torch.Generator().manual_seed(3)
    uniforms = torch.rand((shape[0], DRAWS), generator=generator).to(device)

    def plain(attentions: Tensor, uniforms: Tensor) -> Tensor:
        return reference_sample.forward(attentions, uniforms, "sqrt_mass")

    def ours_on(attentions: Tensor, uniforms: Tensor, backend: str) -> Tensor:
        return wk.sample_attention(attentions, DRAWS, uniforms=uniforms, backend=backend)

    ways = steps(published.sample, ours_on, compiled(plain), ("sample_attention",), device, dtype)
    sets = copies([attentions, uniforms], gpu.input_sets(attentions.nbytes, device))
    return Work(
        "sample attention",
        _text((*shape[:2], None, *shape[3:]), dtype, torch.contiguous_format),
        variants(ways, lambda step, i: partial(step, *sets[i]), len(sets)),
        tolerance=0.0,  # the same maps
        moved=attentions.nbytes + uniforms.nbytes + 8.0 * uniforms.numel(),
        device=device,
    )


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
    sets = copies([features, centers, labels], gpu.input_sets(3 * features.nbytes, device))
    for values in sets:
        values[0].requires_grad_()
    ways = steps(
        published.center_step, _center_step, _CompiledCenters(),
        ("center_loss", "update_centers_"), device, torch.float32,
    )  # fmt: skip

    def on_own_centers(step: Callable, i: int) -> Callable:
        features, centers, labels = sets[i]
        return partial(_on_state, step, features, centers.clone(), labels)

    return Work(
        "center loss+gradient+update",
        f"B {batch} D {dim} N {CLASSES} float32",
        variants(ways, on_own_centers, len(sets)),
        tolerance=TOLERANCES[torch.float32],
        moved=4.0 * features.nbytes,
        device=device,
        directions=3,
    )


def _pools(reduce: str, device: str, dtype: torch.dtype) -> dict[str, Callable]:
    """The variants as functions of features and attentions, each -> (B,M,C) float32."""

    def eager(features: Tensor, attentions: Tensor) -> Tensor:
        pooled = PUBLISHED[reduce](features, attentions)
        return pooled.view(features.shape[0], attentions.shape[1], -1)

    def plain(features: Tensor, attentions: Tensor) -> Tensor:
        options = (reduce, True, "all", 1, 1e-12, 1.0)
        attentions = published.fit(attentions, features)
        return reference_pool.forward(features, attentions, *options)[0]

    def ours_on(features: Tensor, attentions: Tensor, backend: str) -> Tensor:
        return wk.bilinear_attention_pool(features, attentions, reduce=reduce, backend=backend)

    return steps(eager, ours_on, compiled(plain), ("bilinear_attention_pool",), device, dtype)


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


def _truth(dtype: torch.dtype) -> str | None:
    """The published code rounds each step to the features' dtype, the reference only the inputs."""
    return None if dtype == torch.float32 else "reference"


def _text(
    shape: tuple[int | None, ...],
    dtype: torch.dtype,
    layout: torch.memory_format,
    map_size: tuple[int, int] | None = None,
) -> str:
    """The shape (B,M,C,h,w) of a work, without C where that is None."""
    batch, maps, channels, height, width = shape
    resized = "" if map_size is None else f" of {map_size[0]}x{map_size[1]}"
    middle = resized + ("" if channels is None else f" C {channels}")
    text = f"B {batch} M {maps}{middle} {height}x{width} {str(dtype).removeprefix('torch.')}"
    return text + (" channels_last" if layout == torch.channels_last else "")


def main() -> int:
    options = parse(__doc__.splitlines()[0])
    if options.device != gpu.NAME:
        return run(works, options)
    return run(works, options, plot=sweep.plot)


if __name__ == "__main__":
    raise SystemExit(main())
