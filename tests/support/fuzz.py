"""Random cases of every C++ operator against the reference.

python tests/support/fuzz.py --cases 10000

Each case has a seed of its own; a failure prints the command that repeats it.
"""

import argparse
import faulthandler
import functools
import random
import sys
from collections import defaultdict

import torch
from parity import (
    DTYPES,
    OPS,
    STRIDES,
    arranged,
    assert_layout,
    check_boxes,
    check_drop,
    check_pool,
    parity,
    share_of_tolerance,
    threads,
    values,
    worst,
)

from wsdan_kernels import backends
from wsdan_kernels._dtypes import accumulation_dtype
from wsdan_kernels.ops.crop_resize import int32_boxes
from wsdan_kernels.testing import TOLERANCES

UNAVAILABLE = backends.available()["cpu"]  # loads the library
SIDES = (1, 2, 3, 4, 5, 7, 8, 11, 13, 16, 17, 23, 31, 32, 33, 48, 61, 64, 65, 97, 128, 131)


def fuzz_sample(rng, seed):
    """A sum in another order moves the ends of the maps' shares: picks may be those beside them."""
    shape = (rng.choice([0, 1, 2, 5]), rng.choice(SIDES), *rng.choices(SIDES[:15], k=2))
    attentions = values(shape, rng.choice(DTYPES), seed).abs()
    for m in range(shape[1] if shape[0] else 0):
        attentions[rng.randrange(shape[0]), m] *= rng.choice([1, 1, 1, 0, -1, float("nan")])
    attentions = arranged(attentions, rng.choice(STRIDES))
    uniforms = values((shape[0], rng.choice([1, 2, 7])), torch.float64, seed + 1).frac().abs()
    weighting = rng.choice(["sqrt_mass", "uniform"])
    found = OPS.sample_attention(attentions, uniforms, weighting, "cpu")
    least, most = (
        OPS.sample_attention(attentions, uniforms + side, weighting, "reference")
        for side in (-TOLERANCES[torch.float32], TOLERANCES[torch.float32])
    )
    assert bool(((least <= found) & (found <= most)).all()), "picks differ"
    return 0.0


def draw_maps(rng, batch, seed):
    """Maps (B,h,w), not negative, some of them unusable."""
    shape = (batch, rng.choice(SIDES[:14]), rng.choice(SIDES[:14]))
    maps = values(shape, rng.choice(DTYPES), seed)
    maps = maps.relu() if rng.random() < 0.5 else maps.abs()
    if batch and rng.random() < 0.2:
        bad = maps[rng.randrange(batch)]
        if rng.random() < 0.4:
            bad.zero_()
        else:
            bad[-1, rng.randrange(shape[2])] = rng.choice([float("nan"), float("inf")])
    return arranged(maps, rng.choice(STRIDES))


def draw_sides(rng, budget):
    """Two sides with no more than `budget` elements, now and then one of 513."""
    while True:
        sides = [513 if rng.random() < 0.03 else rng.choice(SIDES) for _ in range(2)]
        if sides[0] * sides[1] <= budget:
            return sides


def draw_thresholds(rng, maps, columns):
    """Thresholds (B,columns) of the dtype that the maps are computed in."""
    rows = [[rng.choice([0.0, 1.0, rng.random()]) for _ in range(columns)] for _ in maps]
    wide = accumulation_dtype(maps.dtype)
    return torch.tensor(rows, dtype=wide).view(maps.shape[0], columns)


def draw_boxes(rng, batch, height, width):
    """Boxes inside, across the edge, outside, reversed, and beyond 32 bits."""
    far = rng.random() < 0.1
    rows = []
    for _ in range(batch):
        x = [rng.randint(-width // 4, width + width // 4) for _ in range(2)]
        y = [rng.randint(-height // 4, height + height // 4) for _ in range(2)]
        if rng.random() < 0.8:
            x, y = sorted(x), sorted(y)
        row = [x[0], y[0], x[1], y[1]]
        rows.append([rng.choice([-1, 1]) * 2**40 for _ in row] if far else row)
    kind = torch.int64 if far or rng.random() < 0.5 else torch.int32
    return arranged(torch.tensor(rows, dtype=kind).view(batch, 4), rng.choice(STRIDES))


def draw_images(rng, batch, seed, budget=70_000):
    height, width = draw_sides(rng, budget)
    most = max(1, budget // (height * width))
    channels = rng.choice([c for c in (1, 2, 3, 3, 3, 4, 5, 16, 17) if c <= most])
    images = values((batch, channels, height, width), rng.choice(DTYPES), seed)
    return arranged(images, rng.choice(STRIDES))


def draw_map_side(rng, side, reduce):
    """A side of maps for features of this one: any, or with steps of 1/4 to 4 for a maximum."""
    if reduce != "max":
        return rng.choice((*SIDES[:18], side))
    return rng.choice(
        [1, side]
        + [(side - 1) * n + 1 for n in (2, 4) if side <= 64]
        + [(side - 1) // n + 1 for n in (2, 4) if (side - 1) % n == 0]
    )


def fuzz_pool(rng, seed):
    batch = rng.choice([0, 1, 1, 2, 3, 5])
    while True:
        maps, channels = rng.choice(SIDES[:17]), rng.choice((*SIDES, 193, 257))
        height, width = draw_sides(rng, 4096)
        if max(1, batch) * maps * channels * height * width <= 2_000_000:
            break
    signed = rng.random() < 0.5
    normalize = rng.choice(["all", "part", "none"])
    divisors = [n for n in range(1, maps + 1) if maps % n == 0]
    reduce = rng.choice(["mean", "sum", "max"])
    map_size = None
    if rng.random() < 0.4:
        map_size = tuple(draw_map_side(rng, side, reduce) for side in (height, width))
    return check_pool(
        (batch, maps, channels, height, width),
        rng.choice(DTYPES),
        strides=rng.choice(STRIDES),
        upstream_strides=rng.choice(STRIDES),
        signed=signed,
        poison=rng.choice([float("nan"), float("inf")]) if rng.random() < 0.1 else None,
        seed=seed,
        map_size=map_size,
        reduce=reduce,
        signed_sqrt=not signed and rng.random() < 0.7,
        normalize=normalize,
        groups=rng.choice(divisors) if normalize == "all" else 1,
        eps=rng.choice([0.0, 1e-12, 1e-6]),
        scale=rng.choice([1.0, 100.0, -0.5]),
    )


def fuzz_boxes(rng, seed):
    maps = draw_maps(rng, rng.choice([0, 1, 2, 3, 5]), seed)
    thresholds = draw_thresholds(rng, maps, rng.choice([1, 2, 5]))
    options = (
        *draw_sides(rng, 40_000), rng.choice([0.0, 0.05, 0.1, 0.7]),
        rng.choice(["paper", "guyuc"]), rng.random() < 0.5,
    )  # fmt: skip
    found = OPS.attention_boxes(maps, thresholds, *options, "cpu")
    check_boxes(found, maps, thresholds, *options)
    return 0.0


def fuzz_crop(rng, seed):
    images = draw_images(rng, rng.choice([0, 1, 1, 2, 3]), seed)
    boxes = draw_boxes(rng, images.shape[0], *images.shape[2:])
    size = draw_sides(rng, 20_000 if rng.random() < 0.5 else 2_000)
    align_corners = rng.random() < 0.5
    strides = rng.choice(STRIDES)

    def run(inputs, backend):
        return OPS.crop_resize(inputs["images"], boxes, *size, align_corners, backend)

    share, found = parity(run, {"images": images}, ("images",), upstream_strides=strides)
    assert_layout(found[0], images)
    return share


def fuzz_drop(rng, seed):
    images = draw_images(rng, rng.choice([0, 1, 1, 2, 3]), seed)
    maps = draw_maps(rng, images.shape[0], seed + 1)
    options = (rng.choice(["paper", "guyuc"]), rng.random() < 0.5)
    thresholds = draw_thresholds(rng, maps, 1)[:, 0]
    upstream = arranged(values(images.shape, images.dtype, seed + 2), rng.choice(STRIDES))
    leaf = images.detach().requires_grad_()
    found = OPS.attention_drop(leaf, maps, thresholds, *options, "cpu")
    (grad,) = torch.autograd.grad(found, leaf, upstream)
    for result, source in ((found.detach(), images), (grad, upstream)):
        check_drop(result, source, maps, thresholds, *options)
        assert_layout(result, source)
    return 0.0


def fuzz_crop_drop(rng, seed):
    images = draw_images(rng, rng.choice([0, 1, 1, 2, 3]), seed, 30_000)
    size = images.shape[2:]
    boxes = int32_boxes(draw_boxes(rng, images.shape[0], *size))
    maps = draw_maps(rng, images.shape[0], seed + 1)
    options = (rng.choice(["paper", "guyuc"]), rng.random() < 0.5)
    thresholds = draw_thresholds(rng, maps, 1)[:, 0]
    strides = rng.choice(STRIDES)
    upstreams = [arranged(values(images.shape, images.dtype, seed + i), strides) for i in (2, 3)]
    leaf = images.detach().requires_grad_()
    found = OPS.attention_crop_drop(leaf, boxes, maps, thresholds, *options, "cpu")
    (grad,) = torch.autograd.grad(found, leaf, upstreams)
    crops, drops = (result.detach() for result in found)
    check_drop(drops, images, maps, thresholds, *options)
    for result in (crops, drops):
        assert_layout(result, images)
    kept = OPS.attention_drop(torch.ones_like(images), maps, thresholds, *options, "cpu")
    expected = OPS.crop_resize_backward(upstreams[0], boxes, *size, True, "reference")
    truth = OPS.crop_resize(images, boxes, *size, True, "reference")
    expected = expected + upstreams[1] * kept
    return worst([share_of_tolerance(crops, truth), share_of_tolerance(grad, expected)])


def draw_centers(rng, seed):
    batch, classes = rng.choice([0, 1, 2, 5, 12]), rng.choice([1, 2, 3, 7, 20])
    dim = rng.choice((*SIDES, 1023, 1024, 1025, 2500))
    dtype = rng.choice(DTYPES)
    inputs = {"features": (batch, dim), "centers": (classes, dim)}
    inputs = {
        name: arranged(values(shape, dtype, seed + i), rng.choice(STRIDES))
        for i, (name, shape) in enumerate(inputs.items())
    }
    if rng.random() < 0.1:
        inputs["centers"] = torch.zeros(classes, dim, dtype=dtype)
    labels = torch.tensor([rng.randrange(classes) for _ in range(batch)], dtype=torch.int64)
    return {**inputs, "labels": arranged(labels, rng.choice(STRIDES))}


def fuzz_center_loss(rng, seed):
    def run(inputs, backend):
        return OPS.center_loss(*inputs.values(), backend)

    return parity(run, draw_centers(rng, seed), ("features",), seed=seed)[0]


def fuzz_update(rng, seed):
    inputs = draw_centers(rng, seed)
    options = rng.choice([0.0, 0.05, 1.0]), rng.choice(["accumulate", "mean"])
    strides = rng.choice([name for name in STRIDES if name != "expanded"])

    def run(inputs, backend):
        centers = arranged(inputs["centers"].clone(), strides)
        OPS.update_centers_(centers, inputs["features"], inputs["labels"], *options, backend)
        return centers

    return parity(run, inputs)[0]


FUZZERS = {
    "bilinear_attention_pool": fuzz_pool,
    "sample_attention": fuzz_sample,
    "attention_boxes": fuzz_boxes,
    "crop_resize": fuzz_crop,
    "attention_drop": fuzz_drop,
    "attention_crop_drop": fuzz_crop_drop,
    "center_loss": fuzz_center_loss,
    "update_centers_": fuzz_update,
}


def run_case(seed):
    """One case: the operator, and its error as a share of the tolerance or what is wrong."""
    rng = random.Random(seed)
    op = rng.choice([*FUZZERS, "bilinear_attention_pool"])
    try:
        with threads(rng.choice([1, 2, 4])):
            share = FUZZERS[op](rng, seed)
    except Exception as error:  # whatever it is, the seed is what matters
        return op, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return op, share if share <= 1 else f"error {share:.3g} of the tolerance"


def run_cases(cases, seed, trace=False):
    """Runs the cases and prints a summary; returns how many failed."""
    report = functools.partial(print, flush=True)
    shares, failed = defaultdict(list), defaultdict(int)
    for case in range(seed, seed + cases):
        if trace:
            report(f"seed {case}")
        op, outcome = run_case(case)
        if isinstance(outcome, str):
            failed[op] += 1
            report(
                f"FAIL {op}: {outcome}; again: python tests/support/fuzz.py --seed {case} --cases 1"
            )
        shares[op].append(outcome if isinstance(outcome, float) else float("inf"))
    for op, found in sorted(shares.items()):
        report(
            f"{op:26} {len(found):6} cases, worst error {worst(found):6.3f} of the tolerance, "
            f"{failed[op]} failed"
        )
    return sum(failed.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trace", action="store_true", help="name each case before it runs")
    options = parser.parse_args()
    faulthandler.enable()
    if UNAVAILABLE is not None:
        sys.exit(f"nothing to compare: {UNAVAILABLE}")
    sys.exit(1 if run_cases(options.cases, options.seed, options.trace) else 0)


if __name__ == "__main__":
    main()
