"""One OpCase for every operator: inputs, shapes, tolerances. Tests and benchmarks draw from it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from wsdan_kernels import functional as ops
from wsdan_kernels import views

# Largest difference allowed between two backends, relative to the largest value.
TOLERANCES = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.bfloat16: 1e-2,
    torch.float16: 2e-3,
}

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class OpCase:
    """An operator with inputs to call it on.

    name: the case; op: the dispatcher operator it exercises.
    run: called as run(inputs, backend), returns the result (a tensor or a tuple of tensors).
    make: called as make(shape, dtype, generator), returns the inputs on the CPU.
    shapes: small shapes, odd ones among them. differentiable: names of the inputs with a gradient.
    """

    name: str
    op: str
    run: Callable[[Inputs, str], Tensor | tuple[Tensor, ...]]
    make: Callable[[tuple[int, ...], torch.dtype, torch.Generator], Inputs]
    shapes: tuple[tuple[int, ...], ...]
    differentiable: tuple[str, ...] = ()

    def inputs(
        self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0
    ) -> Inputs:
        """Inputs of this shape, the same for the same seed; leaves that want a gradient ask it."""
        made = self.make(shape, dtype, torch.Generator().manual_seed(seed))
        for name in self.differentiable:
            made[name].requires_grad_()
        return made

    def __str__(self) -> str:
        return self.name


def relative_error(value: Tensor, truth: Tensor) -> float:
    """Largest difference, relative to the largest absolute value of the truth; NaN if any is."""
    if value.shape != truth.shape:
        raise AssertionError(f"shape {tuple(value.shape)}, but the truth has {tuple(truth.shape)}")
    if truth.numel() == 0:
        return 0.0
    value, truth = value.detach().double(), truth.detach().double()
    largest = truth.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    return float((value - truth).abs().max() / largest)


def paper_shape(batch: int = 12) -> dict[str, int]:
    """Sizes of the paper's model (Inception v3 Mixed_6e at 448 px), for benchmarks."""
    return {"B": batch, "M": 32, "C": 768, "h": 26, "w": 26, "H": 448, "W": 448}


def _random(shape, dtype, generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def _pool_inputs(shape, dtype, generator) -> Inputs:
    batch, maps, channels, height, width = shape
    return {
        "features": _random((batch, channels, height, width), dtype, generator),
        "attentions": _random((batch, maps, height, width), dtype, generator),
    }


def _resized_inputs(shape, dtype, generator) -> Inputs:
    """Maps lower and wider than the features."""
    batch, maps, _, height, width = shape
    made = _pool_inputs(shape, dtype, generator)
    size = (height // 2 + 1, width + 3)
    return {**made, "attentions": _random((batch, maps, *size), dtype, generator)}


_POOL_SHAPES = ((2, 4, 6, 5, 5), (1, 1, 1, 1, 1), (2, 3, 7, 1, 11), (3, 4, 5, 7, 1))


def _pool_case(name: str, make=_pool_inputs, **options) -> OpCase:
    return OpCase(
        name=f"bilinear_attention_pool[{name}]",
        op="bilinear_attention_pool",
        run=lambda inputs, backend: ops.bilinear_attention_pool(
            **inputs, **options, backend=backend
        ),
        make=make,
        shapes=_POOL_SHAPES,
        differentiable=("features", "attentions"),
    )


class _Norm(NamedTuple):
    """What attend_and_pool reads of a BatchNorm2d."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    eps: float = 1e-5


def _attend_inputs(shape, dtype, generator) -> Inputs:
    batch, maps, channels, height, width = shape
    return {
        "features": _random((batch, channels, height, width), dtype, generator),
        "weight": _random((maps, channels, 1, 1), dtype, generator),
        "norm": _random((4, maps), dtype, generator),
    }


def _attend_case(name: str, **options) -> OpCase:
    def run(inputs: Inputs, backend: str) -> tuple[Tensor, Tensor]:
        features, weight, vectors = inputs["features"], inputs["weight"], inputs["norm"]
        vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
        norm = _Norm(vectors[0], vectors[1], vectors[2], vectors[3].abs() + 0.5)
        return ops.attend_and_pool(features, weight, norm, **options, backend=backend)

    return OpCase(f"attend_and_pool[{name}]", "attend_and_pool", run, _attend_inputs, _POOL_SHAPES)


def _sample_inputs(shape, dtype, generator) -> Inputs:
    batch, maps, height, width = shape
    uniforms = torch.rand((batch, 2), generator=generator, dtype=torch.float64)
    return {
        "attentions": _random((batch, maps, height, width), dtype, generator).relu(),
        "uniforms": uniforms,
    }


def _map_inputs(shape, dtype, generator) -> Inputs:
    batch, map_height, map_width, height, width = shape
    return {
        "maps": _random((batch, map_height, map_width), dtype, generator).relu(),
        "images": _random((batch, 3, height, width), dtype, generator),
    }


_MAP_SHAPES = ((2, 5, 4, 24, 17), (1, 1, 1, 1, 1), (3, 7, 7, 13, 29), (2, 9, 1, 5, 31))


def _boxes_case(name: str, **options) -> OpCase:
    def run(inputs: Inputs, backend: str) -> Tensor:
        size = tuple(inputs["images"].shape[2:])
        return ops.attention_boxes(inputs["maps"], size, **options, backend=backend)

    return OpCase(f"attention_boxes[{name}]", "attention_boxes", run, _map_inputs, _MAP_SHAPES)


def _drop_case(name: str, **options) -> OpCase:
    return OpCase(
        name=f"attention_drop[{name}]",
        op="attention_drop",
        run=lambda inputs, backend: ops.attention_drop(**inputs, **options, backend=backend),
        make=_map_inputs,
        shapes=_MAP_SHAPES,
        differentiable=("images",),
    )


def _crop_inputs(shape, dtype, generator) -> Inputs:
    batch, height, width = shape
    corners = torch.rand((batch, 4), generator=generator, dtype=torch.float64)
    size = torch.tensor([width, height, width, height])
    first, second = (corners * size).to(torch.int32).view(batch, 2, 2).unbind(1)
    boxes = torch.cat((torch.minimum(first, second), torch.maximum(first, second) + 1), dim=1)
    return {"images": _random((batch, 3, height, width), dtype, generator), "boxes": boxes}


def _crop_case(name: str, **options) -> OpCase:
    return OpCase(
        name=f"crop_resize[{name}]",
        op="crop_resize",
        run=lambda inputs, backend: ops.crop_resize(**inputs, **options, backend=backend),
        make=_crop_inputs,
        shapes=((2, 11, 9), (1, 1, 1), (3, 13, 4)),
        differentiable=("images",),
    )


def _crop_drop(inputs: Inputs, backend: str) -> tuple[Tensor, Tensor]:
    maps = inputs["maps"]
    return views.attention_crop_drop(
        inputs["images"],
        maps,
        maps.flip(1),
        crop_threshold=0.5,
        drop_threshold=torch.full((maps.shape[0],), 0.35, device=maps.device),
        backend=backend,
    )


def _center_inputs(shape, dtype, generator) -> Inputs:
    batch, classes, dim = shape
    return {
        "features": _random((batch, dim), dtype, generator),
        "centers": _random((classes, dim), dtype, generator),
        "labels": torch.randint(classes, (batch,), generator=generator),
    }


_CENTER_SHAPES = ((5, 3, 8), (1, 1, 1), (4, 7, 33))


def _update_case(duplicates: str) -> OpCase:
    def run(inputs: Inputs, backend: str) -> Tensor:
        centers = inputs["centers"].clone()
        ops.update_centers_(
            centers, inputs["features"], inputs["labels"], duplicates=duplicates, backend=backend
        )
        return centers

    name = f"update_centers_[{duplicates}]"
    return OpCase(name, "update_centers_", run, _center_inputs, _CENTER_SHAPES)


CASES: tuple[OpCase, ...] = (
    _pool_case("mean"),
    _pool_case("sum,part", reduce="sum", normalize="part", scale=100.0),
    _pool_case("max", reduce="max"),
    _pool_case("linear", signed_sqrt=False, normalize=None),
    _pool_case("eps", eps=1e-6, normalize="all"),
    _pool_case("resized", make=_resized_inputs),
    _attend_case("mean"),
    _attend_case("sum,part", reduce="sum", normalize="part", scale=100.0),
    OpCase(
        "sample_attention",
        "sample_attention",
        lambda inputs, backend: ops.sample_attention(**inputs, backend=backend),
        _sample_inputs,
        ((3, 5, 4, 4), (1, 1, 1, 1), (2, 7, 1, 9)),
    ),
    _boxes_case("paper", threshold=0.5, padding=0.1),
    _boxes_case("guyuc", threshold=0.3, padding=0.05, rule="guyuc"),
    _boxes_case("several,corners", threshold=(0.2, 0.6), padding=0.0, align_corners=False),
    _crop_case("same size"),
    _crop_case("sized", size=(6, 15)),
    _crop_case("corners", size=(7, 3), align_corners=False),
    _drop_case("paper", threshold=0.4),
    _drop_case("guyuc", threshold=0.2, rule="guyuc", align_corners=False),
    OpCase(
        "attention_crop_drop",
        "attention_crop_drop",
        _crop_drop,
        _map_inputs,
        _MAP_SHAPES,
        ("images",),
    ),
    OpCase(
        "center_loss",
        "center_loss",
        lambda inputs, backend: ops.center_loss(**inputs, backend=backend),
        _center_inputs,
        _CENTER_SHAPES,
        ("features",),
    ),
    _update_case("accumulate"),
    _update_case("mean"),
)
