"""The attention-guided views: ours, the published loops, the copy bandwidth.

python benchmarks/augment_bench.py [--batch B] [--json FILE] [--plot FILE.png] [--base FILE] ...
"""

import argparse
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import published
import torch
from run import Work, compiled, ours, parse, run
from torch import Tensor

import wsdan_kernels as wk
from wsdan_kernels.reference import attention_boxes as reference_boxes
from wsdan_kernels.reference import attention_drop as reference_drop
from wsdan_kernels.reference import crop_resize as reference_crop
from wsdan_kernels.testing import TOLERANCES, paper_shape

VIEW_OPS = ("attention_boxes", "crop_resize", "attention_drop")
SEED = 0  # of the drawn maps and thresholds: set before every call, so that all draw the same


@dataclass
class Inputs:
    """Pictures, their maps, and for each picture two chosen maps with their thresholds."""

    images: Tensor  # (B,3,H,W)
    attentions: Tensor  # (B,M,h,w)
    crop_maps: Tensor  # (B,h,w)
    drop_maps: Tensor  # (B,h,w)
    crop_thresholds: Tensor  # (B,)
    drop_thresholds: Tensor  # (B,)

    @property
    def size(self) -> tuple[int, int]:
        return tuple(self.images.shape[2:])

    @property
    def device(self) -> str:
        return self.images.device.type

    def chosen(self) -> tuple[Tensor, Tensor, list[float], list[float]]:
        """What the loops over chosen maps take besides the images."""
        thresholds = self.crop_thresholds.tolist(), self.drop_thresholds.tolist()
        return self.crop_maps, self.drop_maps, *thresholds


def make_inputs(
    sizes: dict[str, int],
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.contiguous_format,
) -> Inputs:
    """Random pictures; every map is a blob at a random place over a little noise."""
    generator = torch.Generator().manual_seed(SEED)
    batch, maps, height, width = (sizes[key] for key in "BMhw")
    images = torch.rand((batch, 3, sizes["H"], sizes["W"]), generator=generator)
    y, x = (torch.rand((batch, maps, 1, 1), generator=generator) for _ in range(2))
    rows = torch.linspace(0, 1, height)[:, None]
    columns = torch.linspace(0, 1, width)
    attentions = torch.exp(-30 * ((rows - y) ** 2 + (columns - x) ** 2))
    attentions += 0.05 * torch.rand(attentions.shape, generator=generator)
    picks = torch.randint(maps, (batch, 2), generator=generator)
    every = torch.arange(batch)
    return Inputs(
        images.to(device, dtype).to(memory_format=layout),
        attentions.to(device),
        attentions[every, picks[:, 0]].to(device),
        attentions[every, picks[:, 1]].to(device),
        torch.empty(batch).uniform_(*published.CROP_RANGE, generator=generator).to(device),
        torch.empty(batch).uniform_(*published.DROP_RANGE, generator=generator).to(device),
    )


def works(options: argparse.Namespace) -> Iterator[Work]:
    yield from all_works(paper_shape(options.batch), options.device)


def all_works(sizes: dict[str, int], device: str = "cpu") -> Iterator[Work]:
    """sizes: as of `paper_shape`."""
    inputs = make_inputs(sizes, device)
    yield boxes_work(inputs)
    yield chosen_work(inputs)
    yield chosen_work(make_inputs(sizes, device, layout=torch.channels_last))
    yield chosen_work(make_inputs(sizes, device, dtype=torch.bfloat16))
    yield per_part_work(inputs)
    yield refine_work(inputs)
    yield from crop_works(inputs)
    yield drop_work(inputs)


def boxes_work(inputs: Inputs) -> Work:
    maps, size, thresholds = inputs.crop_maps, inputs.size, inputs.crop_thresholds

    def eager() -> Tensor:
        boxes = published.boxes_paper(maps, size, thresholds.tolist())
        return torch.tensor(boxes, dtype=torch.int32, device=maps.device)[:, [1, 0, 3, 2]]

    def ours_on(backend: str) -> Tensor:
        return wk.attention_boxes(
            maps, size, threshold=thresholds, padding=published.PADDING, backend=backend
        )

    plain = partial(_compiled_boxes(), maps, thresholds, size, "paper")
    moved = maps.nbytes + 16 * maps.shape[0]
    return _work("boxes", inputs, eager, ours_on, plain, ("attention_boxes",), moved)


def chosen_work(inputs: Inputs) -> Work:
    """Crop and drop by the maps that were chosen before, WS-DAN.PyTorch's rule."""
    images, crop_maps, drop_maps = inputs.images, inputs.crop_maps, inputs.drop_maps

    def eager() -> tuple[Tensor, Tensor]:
        return published.crop_drop_chosen(images, *inputs.chosen())

    def ours_on(backend: str) -> tuple[Tensor, Tensor]:
        return wk.attention_crop_drop(
            images,
            crop_maps,
            drop_maps,
            crop_threshold=inputs.crop_thresholds,
            drop_threshold=inputs.drop_thresholds,
            rule="guyuc",
            backend=backend,
        )

    thresholds = inputs.crop_thresholds, inputs.drop_thresholds
    plain = partial(_compiled_views(), images, crop_maps, drop_maps, *thresholds, "guyuc")
    moved = 3 * images.nbytes + crop_maps.nbytes + drop_maps.nbytes
    return _work("crop+drop, chosen maps", inputs, eager, ours_on, plain, VIEW_OPS, moved)


def per_part_work(inputs: Inputs) -> Work:
    """Crop and drop with the draw of the maps and thresholds in the call, the listing's rule."""
    images, attentions = inputs.images, inputs.attentions

    def eager() -> tuple[Tensor, Tensor]:
        _seed()
        return published.crop_drop_per_part(images, attentions)

    def ours_on(backend: str) -> tuple[Tensor, Tensor]:
        crop_maps, drop_maps, crop_thresholds, drop_thresholds = _draw(attentions)
        return wk.attention_crop_drop(
            images,
            crop_maps,
            drop_maps,
            crop_threshold=crop_thresholds,
            drop_threshold=drop_thresholds,
            backend=backend,
        )

    plain = _compiled_views()  # without the draws, which torch.compile makes its own

    def compiled_call() -> tuple[Tensor, Tensor]:
        return plain(images, *_draw(attentions), "paper")

    moved = 3 * images.nbytes + attentions.nbytes
    return _work("crop+drop, drawn maps", inputs, eager, ours_on, compiled_call, VIEW_OPS, moved)


def refine_work(inputs: Inputs) -> Work:
    """The refined view of test time, by the mean of all maps."""
    images, attentions = inputs.images, inputs.attentions
    thresholds = torch.full_like(inputs.crop_thresholds, published.REFINE_THRESHOLD)

    def ours_on(backend: str) -> Tensor:
        return wk.attention_refine(images, attentions, backend=backend)[0]

    find, crop = _compiled_boxes(), compiled(reference_crop.by_batch)

    def plain() -> Tensor:
        rule = ("paper", published.REFINE_PADDING)
        boxes = find(attentions.mean(1), thresholds, inputs.size, *rule)
        return crop(images, boxes, *inputs.size, True)

    boxes = wk.attention_refine(images, attentions, backend="reference")[1]
    moved = _pixels(boxes) * images.itemsize * 3 + images.nbytes + attentions.nbytes
    return _work(
        "refine",
        inputs,
        partial(published.refine, images, attentions),
        ours_on,
        plain,
        ("attention_boxes", "crop_resize"),
        moved,
    )


def crop_works(inputs: Inputs) -> Iterator[Work]:
    """crop_resize of given boxes, alone and with its gradient."""
    images, size = inputs.images, inputs.size
    corners = published.boxes_guyuc(inputs.crop_maps, size, inputs.crop_thresholds.tolist())
    boxes = torch.tensor(corners, dtype=torch.int32, device=images.device)[:, [1, 0, 3, 2]]
    leaf = images.detach().clone().requires_grad_()
    grad = torch.ones_like(images)

    def eager(pictures: Tensor) -> Tensor:
        return published.crops(pictures, corners)

    def ours_on(pictures: Tensor, backend: str) -> Tensor:
        return wk.crop_resize(pictures, boxes, backend=backend)

    def plain(pictures: Tensor) -> Tensor:
        return reference_crop.by_batch(pictures, boxes, *size, True)

    def with_gradient(crop: Callable) -> tuple[Tensor, Tensor]:
        output = crop(leaf)
        return output.detach(), *torch.autograd.grad(output, leaf, grad)

    moved = _pixels(boxes) * images.itemsize * 3 + images.nbytes
    yield _work(
        "crop_resize forward",
        inputs,
        partial(eager, images),
        partial(ours_on, images),
        partial(compiled(plain), images),
        ("crop_resize",),
        moved,
    )
    yield _work(
        "crop_resize forward+backward",
        inputs,
        partial(with_gradient, eager),
        lambda backend: with_gradient(partial(ours_on, backend=backend)),
        partial(with_gradient, compiled(plain)),
        ("crop_resize",),
        moved + 2 * images.nbytes,
    )


def drop_work(inputs: Inputs) -> Work:
    images, maps, thresholds = inputs.images, inputs.drop_maps, inputs.drop_thresholds

    def ours_on(backend: str) -> Tensor:
        return wk.attention_drop(images, maps, threshold=thresholds, rule="guyuc", backend=backend)

    return _work(
        "attention_drop",
        inputs,
        partial(published.drops_guyuc, images, maps, thresholds.tolist()),
        ours_on,
        partial(compiled(reference_drop.forward), images, maps, thresholds, "guyuc", True),
        ("attention_drop",),
        2 * images.nbytes + maps.nbytes,
    )


def _work(
    name: str,
    inputs: Inputs,
    eager: Callable,
    ours_on: Callable,
    compiled_call: Callable,
    ops: tuple[str, ...],
    moved: float,
) -> Work:
    """eager: the published loop; ours_on: called with a backend; compiled_call: the reference's.

    ops: the operators it takes, whose backends are ours.
    """
    images, attentions = inputs.images, inputs.attentions
    variants = {
        "published": eager,
        "reference": partial(ours_on, "reference"),
        "compiled": compiled_call,
    }
    for backend in ours(ops, inputs.device, images.dtype):
        variants[backend] = partial(ours_on, backend)
    text = f"B {images.shape[0]} M {attentions.shape[1]} {'x'.join(map(str, attentions.shape[2:]))}"
    text += f" to {'x'.join(map(str, inputs.size))} {str(images.dtype).removeprefix('torch.')}"
    if images.is_contiguous(memory_format=torch.channels_last):
        text += " channels_last"
    return Work(name, text, variants, TOLERANCES[images.dtype], moved, device=inputs.device)


def _seed() -> None:
    np.random.seed(SEED)
    random.seed(SEED)


def _draw(attentions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The listing's draws with our sampler: crop and drop maps (B,h,w), their thresholds (B,)."""
    _seed()
    batch, device = attentions.shape[0], attentions.device
    uniforms = torch.from_numpy(np.random.random_sample((batch, 2))).to(device)
    picks = wk.sample_attention(attentions, uniforms=uniforms)
    ranges = (published.CROP_RANGE, published.DROP_RANGE)
    draws = [[random.uniform(*limits) for limits in ranges] for _ in range(batch)]
    thresholds = torch.tensor(draws).to(device)
    rows = torch.arange(batch, device=device)
    return attentions[rows, picks[:, 0]], attentions[rows, picks[:, 1]], *thresholds.unbind(1)


def _compiled_boxes() -> Callable[..., Tensor]:
    """The reference's boxes, compiled in two pieces.

    In one piece torch 2.11 fuses the maps' resize with the search of the rows and columns into
    C++ that writes past its buffers for B > 1, and the process dies.
    """
    reached, spans = compiled(reference_boxes.reached), compiled(_spans)

    def boxes(
        maps: Tensor,
        thresholds: Tensor,
        size: tuple[int, int],
        rule: str,
        padding: float = published.PADDING,
    ) -> Tensor:
        return spans(reached(maps, thresholds[:, None], *size, rule, True), padding, rule)

    return boxes


def _spans(hit: Tensor, padding: float, rule: str) -> Tensor:
    """hit (B,1,H,W) -> boxes (B,4), as the reference has it."""
    height, width = hit.shape[2:]
    y1, y2 = reference_boxes._span(hit.any(3), height, padding, rule)
    x1, x2 = reference_boxes._span(hit.any(2), width, padding, rule)
    return torch.cat((x1, y1, x2, y2), dim=1).to(torch.int32)


def _compiled_views() -> Callable[..., tuple[Tensor, Tensor]]:
    """The reference's crop and drop without a look at the boxes on the host, compiled."""
    find = _compiled_boxes()
    crop, drop = compiled(reference_crop.by_batch), compiled(reference_drop.forward)

    def views(
        images: Tensor,
        crop_maps: Tensor,
        drop_maps: Tensor,
        crop_thresholds: Tensor,
        drop_thresholds: Tensor,
        rule: str,
    ) -> tuple[Tensor, Tensor]:
        size = tuple(images.shape[2:])
        boxes = find(crop_maps, crop_thresholds, size, rule)
        cropped = crop(images, boxes, *size, True)
        return cropped, drop(images, drop_maps, drop_thresholds, rule, True)

    return views


def _pixels(boxes: Tensor) -> int:
    """boxes (B,4) -> how many pixels of a channel they hold."""
    x1, y1, x2, y2 = boxes.long().unbind(1)
    return int(((x2 - x1) * (y2 - y1)).sum())


if __name__ == "__main__":
    raise SystemExit(run(works, parse(__doc__.splitlines()[0])))
