"""The attention-guided views: ours, the published loops, other libraries, the copy bandwidth.

python benchmarks/augment_bench.py [--batch B] [--json FILE] [--plot FILE.png] [--base FILE] ...
With --device cuda: at B 12 and 128, in float32 and bfloat16, on several sets of inputs in turn. The
published loops wait for the GPU in every image: their times are from the first launch to the end of
the last, with what the host does in between; all others are the GPU's alone.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from harness import gpu, others, published
from harness.compiled_views import compiled_boxes, compiled_views
from harness.run import COMPILED, Work, compiled, parse, run
from harness.variants import steps, variants
from harness.view_inputs import SEED, Inputs, drawn, in_turns, make_inputs
from torch import Tensor

import wsdan_kernels as wk
from wsdan_kernels.reference import attention_drop as reference_drop
from wsdan_kernels.reference import attention_swap as reference_swap
from wsdan_kernels.reference import crop_resize as reference_crop
from wsdan_kernels.testing import TOLERANCES, paper_shape

PAIR = ("attention_crop_drop",)
BF16, FLOAT = torch.bfloat16, torch.float32
LAST, FIRST = torch.channels_last, torch.contiguous_format
# On a GPU multiply-adds are fused or not, as a compiler chose: others.py on what this does.
COMPILED_TOLERANCE = 1e-4


def works(options: argparse.Namespace) -> Iterator[Work]:
    if options.device == gpu.NAME:
        yield from gpu_works(options.batches)
        return
    yield from all_works(paper_shape(options.batch), options.device)


def all_works(sizes: dict[str, int], device: str = "cpu") -> Iterator[Work]:
    """sizes: as of `paper_shape`."""
    inputs = make_inputs(sizes, device)
    yield boxes_work(inputs)
    yield chosen_work(inputs)
    yield chosen_work(make_inputs(sizes, device, layout=LAST))
    yield chosen_work(make_inputs(sizes, device, dtype=BF16))
    yield per_part_work(inputs)
    yield refine_work(inputs)
    yield from crop_works(inputs)
    yield drop_work(inputs)
    yield swap_work(inputs)


def gpu_works(batches: tuple[int, ...]) -> Iterator[Work]:
    """Every work in float32, and in bfloat16 as channels_last; the pair of views in all four."""
    for batch in batches:
        sizes = paper_shape(batch)
        yield boxes_work(make_inputs(sizes, gpu.NAME))
        for dtype, layout in ((FLOAT, FIRST), (BF16, LAST)):
            inputs = make_inputs(sizes, gpu.NAME, dtype, layout)
            yield chosen_work(inputs)
            yield per_part_work(inputs)
            yield refine_work(inputs)
            yield from crop_works(inputs)
            yield drop_work(inputs)
            yield swap_work(inputs)
        for dtype, layout in ((FLOAT, LAST), (BF16, FIRST)):
            yield chosen_work(make_inputs(sizes, gpu.NAME, dtype, layout))


def boxes_work(inputs: Inputs) -> Work:
    def eager(inputs: Inputs) -> Tensor:
        boxes = published.boxes_paper(inputs.crop_maps, inputs.size, inputs.crop_list)
        return torch.tensor(boxes, dtype=torch.int32, device=inputs.device)[:, [1, 0, 3, 2]]

    def ours_on(inputs: Inputs, backend: str) -> Tensor:
        return wk.attention_boxes(
            inputs.crop_maps,
            inputs.size,
            threshold=inputs.crop_thresholds,
            padding=published.PADDING,
            backend=backend,
        )

    find = compiled_boxes(inputs.device)

    def plain(inputs: Inputs) -> Tensor:
        return find(inputs.crop_maps, inputs.crop_thresholds, inputs.size, "paper")

    moved = inputs.crop_maps.nbytes + 16 * len(inputs.crop_maps)
    return _work("boxes", inputs, eager, ours_on, plain, ("attention_boxes",), moved)


def chosen_work(inputs: Inputs) -> Work:
    """Crop and drop by the maps that were chosen before, WS-DAN.PyTorch's rule."""

    def eager(inputs: Inputs) -> tuple[Tensor, Tensor]:
        maps = inputs.crop_maps, inputs.drop_maps
        return published.crop_drop_chosen(inputs.images, *maps, inputs.crop_list, inputs.drop_list)

    def ours_on(inputs: Inputs, backend: str) -> tuple[Tensor, Tensor]:
        return wk.attention_crop_drop(
            inputs.images,
            inputs.crop_maps,
            inputs.drop_maps,
            crop_threshold=inputs.crop_thresholds,
            drop_threshold=inputs.drop_thresholds,
            rule="guyuc",
            backend=backend,
        )

    views = compiled_views(inputs.device)

    def plain(inputs: Inputs) -> tuple[Tensor, Tensor]:
        maps = inputs.crop_maps, inputs.drop_maps
        return views(inputs.images, *maps, *inputs.thresholds, "guyuc")

    moved = 3 * inputs.images.nbytes + inputs.crop_maps.nbytes + inputs.drop_maps.nbytes
    return _work("crop+drop, chosen maps", inputs, eager, ours_on, plain, PAIR, moved)


def per_part_work(inputs: Inputs) -> Work:
    """Crop and drop with the draw of the maps in the call, the listing's rule.

    Ours and the compiled reference draw too, and then take the numbers that numpy drew.
    """

    def eager(inputs: Inputs) -> tuple[Tensor, Tensor]:
        np.random.seed(SEED)
        thresholds = zip(inputs.crop_list, inputs.drop_list, strict=True)
        return published.crop_drop_per_part(inputs.images, inputs.attentions, thresholds=thresholds)

    def draw(inputs: Inputs) -> tuple[Tensor, ...]:
        torch.rand((2, *inputs.uniforms.shape), device=inputs.device)  # of maps and thresholds
        return *drawn(inputs.attentions, inputs.uniforms), *inputs.thresholds

    def ours_on(inputs: Inputs, backend: str) -> tuple[Tensor, Tensor]:
        crop_maps, drop_maps, crop_thresholds, drop_thresholds = draw(inputs)
        return wk.attention_crop_drop(
            inputs.images,
            crop_maps,
            drop_maps,
            crop_threshold=crop_thresholds,
            drop_threshold=drop_thresholds,
            backend=backend,
        )

    views = compiled_views(inputs.device)  # without the draw, which torch.compile makes its own

    def plain(inputs: Inputs) -> tuple[Tensor, Tensor]:
        return views(inputs.images, *draw(inputs), "paper")

    moved = 3 * inputs.images.nbytes + inputs.attentions.nbytes
    work = _work("crop+drop, drawn maps", inputs, eager, ours_on, plain, PAIR, moved)
    work.directions = 3  # the draw besides
    return work


def refine_work(inputs: Inputs) -> Work:
    """The refined view of test time, by the mean of all maps."""

    def eager(inputs: Inputs) -> Tensor:
        return published.refine(inputs.images, inputs.attentions, inputs.refine_list)

    def refined(inputs: Inputs, backend: str) -> tuple[Tensor, Tensor]:
        return wk.attention_refine(
            inputs.images, inputs.attentions, threshold=inputs.refine_thresholds, backend=backend
        )

    def ours_on(inputs: Inputs, backend: str) -> Tensor:
        return refined(inputs, backend)[0]

    find, crop = compiled_boxes(inputs.device), compiled(reference_crop.by_batch)

    def plain(inputs: Inputs) -> Tensor:
        options = (inputs.refine_thresholds, inputs.size, "paper", published.REFINE_PADDING)
        boxes = find(inputs.attentions.mean(1), *options)
        return crop(inputs.images, boxes, *inputs.size, True)

    images, boxes = inputs.images, refined(inputs, "reference")[1]
    moved = _pixels(boxes) * images.itemsize * 3 + images.nbytes + inputs.attentions.nbytes
    ops = ("attention_boxes", "crop_resize")
    work = _work("refine", inputs, eager, ours_on, plain, ops, moved)
    work.directions = 2
    return work


def crop_works(inputs: Inputs) -> Iterator[Work]:
    """crop_resize of given boxes, alone and with its gradient."""
    images = inputs.images
    corners = published.boxes_guyuc(inputs.crop_maps, inputs.size, inputs.crop_list)
    boxes = torch.tensor(corners, dtype=torch.int32, device=images.device)[:, [1, 0, 3, 2]]
    grad = torch.ones_like(images)

    def eager(batch: Tensor) -> Tensor:
        return published.crops(batch, corners)

    def ours_on(batch: Tensor, backend: str) -> Tensor:
        return wk.crop_resize(batch, boxes, backend=backend)

    def plain(batch: Tensor) -> Tensor:
        return reference_crop.by_batch(batch, boxes, *inputs.size, True)

    def forward(inputs: Inputs, crop: Callable, **options) -> Tensor:
        return crop(inputs.images, **options)

    def both(inputs: Inputs, crop: Callable, **options) -> tuple[Tensor, Tensor]:
        leaf = inputs.images.detach().requires_grad_()
        output = crop(leaf, **options)
        return output.detach(), *torch.autograd.grad(output, leaf, grad)

    libraries, notes = others.crops(images.dtype)
    moved = _pixels(boxes) * images.itemsize * 3 + images.nbytes
    for name, call, more in (("forward", forward, 0), ("forward+backward", both, 2)):
        ways = {key: partial(crop, boxes=boxes) for key, crop in libraries.items()}
        work = _work(
            f"crop_resize {name}",
            inputs,
            partial(call, crop=eager),
            partial(call, crop=ours_on),
            partial(call, crop=compiled(plain)),
            ("crop_resize",),
            moved + more * images.nbytes,
            {key: partial(call, crop=crop) for key, crop in ways.items()},
        )
        work.directions = 2 if more else 1
        work.notes += notes
        yield work


def drop_work(inputs: Inputs) -> Work:
    def eager(inputs: Inputs) -> Tensor:
        return published.drops_guyuc(inputs.images, inputs.drop_maps, inputs.drop_list)

    def ours_on(inputs: Inputs, backend: str) -> Tensor:
        return wk.attention_drop(
            inputs.images,
            inputs.drop_maps,
            threshold=inputs.drop_thresholds,
            rule="guyuc",
            backend=backend,
        )

    drop = compiled(reference_drop.forward)

    def plain(inputs: Inputs) -> Tensor:
        return drop(inputs.images, inputs.drop_maps, inputs.drop_thresholds, "guyuc", True)

    moved = 2 * inputs.images.nbytes + inputs.drop_maps.nbytes
    return _work("attention_drop", inputs, eager, ours_on, plain, ("attention_drop",), moved)


def swap_work(inputs: Inputs) -> Work:
    """The boxes of images 2i and 2i+1 exchange their contents; a last one keeps its own."""
    images = inputs.images
    corners = published.boxes_guyuc(inputs.crop_maps, inputs.size, inputs.crop_list)
    boxes = torch.tensor(corners, dtype=torch.int32, device=images.device)[:, [1, 0, 3, 2]]
    batch = len(images)
    pairs = [b ^ 1 if b ^ 1 < batch else b for b in range(batch)]
    partners = torch.tensor(pairs, device=images.device)

    def eager(inputs: Inputs) -> Tensor:
        return published.swaps(inputs.images, corners)

    def ours_on(inputs: Inputs, backend: str) -> Tensor:
        return wk.attention_swap(inputs.images, boxes, partners, backend=backend)

    swap = compiled(reference_swap.by_batch)

    def plain(inputs: Inputs) -> Tensor:
        return swap(inputs.images, boxes, partners)

    moved = 2 * images.nbytes
    return _work("attention_swap", inputs, eager, ours_on, plain, ("attention_swap",), moved)


def _work(
    name: str,
    inputs: Inputs,
    eager: Callable,
    ours_on: Callable,
    compiled_call: Callable,
    ops: tuple[str, ...],
    moved: float,
    libraries: dict[str, Callable] | None = None,
) -> Work:
    """All are called with Inputs. eager: the published loop; ours_on: with a backend besides;
    compiled_call: the reference's; libraries: others' ways to do the same.

    ops: the operators it takes, whose backends are ours. On a GPU the reference is the truth: the
    published loop is torch's interpolation there, whose rounding differs from a CPU's.
    """
    images, attentions = inputs.images, inputs.attentions
    ways = steps(eager, ours_on, compiled_call, ops, inputs.device, images.dtype)
    ways |= libraries or {}
    sets = in_turns(inputs)
    tolerance, on_gpu = TOLERANCES[images.dtype], inputs.device == gpu.NAME
    coarse = {COMPILED: max(COMPILED_TOLERANCE, tolerance)} if on_gpu else {}
    text = f"B {images.shape[0]} M {attentions.shape[1]} {'x'.join(map(str, attentions.shape[2:]))}"
    text += f" to {'x'.join(map(str, inputs.size))} {str(images.dtype).removeprefix('torch.')}"
    if images.is_contiguous(memory_format=LAST):
        text += " channels_last"
    return Work(
        name,
        text,
        variants(ways, lambda way, i: partial(way, sets[i]), len(sets)),
        tolerance,
        moved,
        device=inputs.device,
        truth="reference" if on_gpu else None,
        tolerances={**others.TOLERANCES, **coarse},
    )


def _pixels(boxes: Tensor) -> int:
    """boxes (B,4) -> how many pixels of a channel they hold."""
    x1, y1, x2, y2 = boxes.long().unbind(1)
    return int(((x2 - x1) * (y2 - y1)).sum())


if __name__ == "__main__":
    raise SystemExit(run(works, parse(__doc__.splitlines()[0])))
