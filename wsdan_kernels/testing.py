"""An OpCase or more for every operator: inputs and shapes for the tests and the benchmarks."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from wsdan_kernels import functional, views

# Largest difference allowed between two backends, relative to the largest value.
TOLERANCES = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.bfloat16: 1e-2,
    torch.float16: 2e-3,
}

Inputs = dict[str, Tensor]
Result = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class OpCase:
    """An operator with inputs to call it on.

    name: the case. op: the dispatcher operator it exercises.
    call: called as call(**inputs, **options, backend=backend), returns a tensor or a tuple of them.
    make: called as make(shape, dtype, generator), returns the inputs on the CPU.
    shapes: small shapes, odd ones among them. differentiable: names of the inputs with a gradient.
    """

    name: str
    op: str
    call: Callable[..., Result]
    make: Callable[[tuple[int, ...], torch.dtype, torch.Generator], Inputs]
    shapes: tuple[tuple[int, ...], ...]
    options: dict[str, object] = field(default_factory=dict)
    differentiable: tuple[str, ...] = ()

    def run(self, inputs: Inputs, backend: str) -> Result:
        """The operator's result on these inputs."""
        return self.call(**inputs, **self.options, backend=backend)

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
        call=functional.bilinear_attention_pool,
        make=make,
        shapes=_POOL_SHAPES,
        options=options,
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


def _attend(features: Tensor, weight: Tensor, norm: Tensor, **options) -> tuple[Tensor, Tensor]:
    """norm (4,M): scale, shift, mean, and the variance as a number of any sign."""
    vectors = norm.to(torch.promote_types(norm.dtype, torch.float32))
    module = _Norm(vectors[0], vectors[1], vectors[2], vectors[3].abs() + 0.5)
    return functional.attend_and_pool(features, weight, module, **options)


def _attend_case(name: str, **options) -> OpCase:
    return OpCase(
        name=f"attend_and_pool[{name}]",
        op="attend_and_pool",
        call=_attend,
        make=_attend_inputs,
        shapes=_POOL_SHAPES,
        options=options,
    )


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


def _boxes(maps: Tensor, images: Tensor, **options) -> Tensor:
    return functional.attention_boxes(maps, tuple(images.shape[2:]), **options)


def _boxes_case(name: str, **options) -> OpCase:
    return OpCase(
        name=f"attention_boxes[{name}]",
        op="attention_boxes",
        call=_boxes,
        make=_map_inputs,
        shapes=_MAP_SHAPES,
        options=options,
    )


def _drop_case(name: str, **options) -> OpCase:
    return OpCase(
        name=f"attention_drop[{name}]",
        op="attention_drop",
        call=functional.attention_drop,
        make=_map_inputs,
        shapes=_MAP_SHAPES,
        options=options,
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
        call=functional.crop_resize,
        make=_crop_inputs,
        shapes=((2, 11, 9), (1, 1, 1), (3, 13, 4)),
        options=options,
        differentiable=("images",),
    )


def _pairs(batch: int) -> Tensor:
    """The first with the last, and so on; the one in the middle with itself."""
    return torch.arange(batch).flip(0)


def _swap_case(name: str, partners: Callable[[int], Tensor]) -> OpCase:
    """partners: of a batch of so many images."""

    def make(shape, dtype, generator) -> Inputs:
        return {**_crop_inputs(shape, dtype, generator), "partners": partners(shape[0])}

    return OpCase(
        name=f"attention_swap[{name}]",
        op="attention_swap",
        call=functional.attention_swap,
        make=make,
        shapes=((2, 11, 9), (1, 1, 1), (3, 13, 4)),
        differentiable=("images",),
    )


def _crop_drop_inputs(shape, dtype, generator) -> Inputs:
    made = _map_inputs(shape, dtype, generator)
    maps = made["maps"]
    return {
        "images": made["images"],
        "crop_maps": maps,
        "drop_maps": maps.flip(1),
        "drop_threshold": torch.full((maps.shape[0],), 0.35),
    }


def _center_inputs(shape, dtype, generator) -> Inputs:
    batch, classes, dim = shape
    return {
        "features": _random((batch, dim), dtype, generator),
        "centers": _random((classes, dim), dtype, generator),
        "labels": torch.randint(classes, (batch,), generator=generator),
    }


_CENTER_SHAPES = ((5, 3, 8), (1, 1, 1), (4, 7, 33))


def _updated(centers: Tensor, **arguments) -> Tensor:
    return functional.update_centers_(centers.clone(), **arguments)


def _update_case(duplicates: str) -> OpCase:
    return OpCase(
        name=f"update_centers_[{duplicates}]",
        op="update_centers_",
        call=_updated,
        make=_center_inputs,
        shapes=_CENTER_SHAPES,
        options={"duplicates": duplicates},
    )


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
        name="sample_attention",
        op="sample_attention",
        call=functional.sample_attention,
        make=_sample_inputs,
        shapes=((3, 5, 4, 4), (1, 1, 1, 1), (2, 7, 1, 9)),
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
        name="attention_crop_drop",
        op="attention_crop_drop",
        call=views.attention_crop_drop,
        make=_crop_drop_inputs,
        shapes=_MAP_SHAPES,
        options={"crop_threshold": 0.5},
        differentiable=("images",),
    ),
    _swap_case("pairs", _pairs),
    _swap_case("one for all", lambda batch: torch.zeros(batch, dtype=torch.int64)),
    OpCase(
        name="center_loss",
        op="center_loss",
        call=functional.center_loss,
        make=_center_inputs,
        shapes=_CENTER_SHAPES,
        differentiable=("features",),
    ),
    _update_case("accumulate"),
    _update_case("mean"),
)
