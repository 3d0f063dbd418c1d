"""Random cases of every C++ operator against the reference; fuzz.py runs them."""

import random

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

import wsdan_kernels as wk
from wsdan_kernels._dtypes import accumulation_dtype
from wsdan_kernels.testing import TOLERANCES

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


def draw_map_side(rng, side, exact):
    """A side of maps for features of this one: any, or with steps of 1/4 to 4 from which whole
    numbers are resized without rounding."""
    if not exact:
        return rng.choice((*SIDES[:18], side))
    return rng.choice(
        [1, side]
        + [(side - 1) * n + 1 for n in (2, 4) if side <= 64]
        + [(side - 1) // n + 1 for n in (2, 4) if (side - 1) % n == 0]
    )


def exact_maps(reduce, dtype):
    """Whether a case needs maps that are resized without rounding.

    A maximum hangs on it. In half precision a resized value near the middle of two that the type
    has becomes either, by the last bit of float32: seldom, so that tests of few cases do not see
    it, and a thousand times the tolerance of the float32 result where there are few positions.
    """
    return reduce == "max" or dtype in (torch.bfloat16, torch.float16)


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
    reduce, dtype = rng.choice(["mean", "sum", "max"]), rng.choice(DTYPES)
    map_size = None
    if rng.random() < 0.4:
        exact = exact_maps(reduce, dtype)
        map_size = tuple(draw_map_side(rng, side, exact) for side in (height, width))
    return check_pool(
        (batch, maps, channels, height, width),
        dtype,
        strides=rng.choice(STRIDES),
        upstream_strides=rng.choice(STRIDES),
        signed=signed,
        poison=rng.choice([float("nan"), float("inf")]) if rng.random() < 0.1 else None,
        seed=seed,
        map_size=map_size,
        whole=map_size is not None and exact,
        reduce=reduce,
        signed_sqrt=not signed and rng.random() < 0.7,
        normalize=normalize,
        groups=rng.choice(divisors) if normalize == "all" else 1,
        eps=rng.choice([0.0, 1e-12, 1e-6]),
        scale=rng.choice([1.0, 100.0, -0.5]),
    )


def fuzz_attend(rng, seed):
    """Positive features: the root of values near 0 amplifies rounding."""
    batch, channels = rng.choice([0, 1, 2, 3]), rng.choice(SIDES)
    maps, sides = rng.choice(SIDES[:17]), draw_sides(rng, 1024)
    dtype = rng.choice(DTYPES)
    features = values((batch, channels, *sides), dtype, seed).relu() + 0.0625
    norm = values((4, maps), accumulation_dtype(dtype), seed + 1)
    norm[3] = norm[3].abs() + 0.5
    inputs = {
        "features": arranged(features, rng.choice(STRIDES)),
        "weight": arranged(values((maps, channels), dtype, seed + 2), rng.choice(STRIDES)),
    }
    options = (
        rng.choice([1e-5, 1e-3]), rng.choice(["mean", "sum"]), rng.random() < 0.7,
        rng.choice(["all", "part", "none"]), rng.choice([0.0, 1e-12, 1e-6]),
        rng.choice([1.0, 100.0, -0.5]),
    )  # fmt: skip

    def run(inputs, backend):
        vectors = norm.to(accumulation_dtype(inputs["features"].dtype))
        return OPS.attend_and_pool(*inputs.values(), *vectors, *options, backend)

    return parity(run, inputs)[0]


def fuzz_refine(rng, seed):
    images = draw_images(rng, rng.choice([0, 1, 1, 2, 3]), seed, 30_000)
    batch = images.shape[0]
    shape = (batch, rng.choice(SIDES[:10]), *rng.choices(SIDES[:12], k=2))
    attentions = arranged(values(shape, rng.choice(DTYPES), seed + 1).relu(), rng.choice(STRIDES))
    mean = attentions.mean(1)
    thresholds = draw_thresholds(rng, mean, 1)
    options = {
        "padding": rng.choice([0.0, 0.05, 0.1, 0.7]),
        "rule": rng.choice(["paper", "guyuc"]),
        "align_corners": rng.random() < 0.5,
    }
    views, boxes = wk.attention_refine(
        images, attentions, threshold=thresholds[:, 0], **options, backend="cpu"
    )
    size = images.shape[2:]
    check_boxes(boxes[:, None], mean, thresholds, *size, *options.values())
    assert_layout(views, images)
    truth = OPS.crop_resize(images, boxes, *size, True, "reference")
    return share_of_tolerance(views, truth)


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


def fuzz_swap(rng, seed):
    """Partners at random: some images keep their own, some are the partner of several."""
    images = draw_images(rng, rng.choice([0, 1, 2, 2, 3, 5]), seed, 30_000)
    batch = images.shape[0]
    boxes = draw_boxes(rng, batch, *images.shape[2:])
    partners = torch.tensor([rng.randrange(batch) for _ in range(batch)], dtype=torch.int64)
    partners, strides = arranged(partners, rng.choice(STRIDES)), rng.choice(STRIDES)

    def run(inputs, backend):
        return OPS.attention_swap(inputs["images"], boxes, partners, backend)

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
    batch, size = images.shape[0], images.shape[2:]
    maps, crop_maps = (draw_maps(rng, batch, seed + i) for i in (1, 4))
    if rng.random() < 0.5:
        crop_maps = maps.flip(1)
    padding = rng.choice([0.0, 0.05, 0.1, 1.0])
    options = (rng.choice(["paper", "guyuc"]), rng.random() < 0.5)
    thresholds = draw_thresholds(rng, maps, 1)[:, 0]
    crop_thresholds = draw_thresholds(rng, crop_maps, 1)
    strides = rng.choice(STRIDES)
    upstreams = [arranged(values(images.shape, images.dtype, seed + i), strides) for i in (2, 3)]
    leaf = images.detach().requires_grad_()
    found = OPS.attention_crop_drop(
        leaf, crop_maps, maps, crop_thresholds[:, 0], thresholds, padding, *options, "cpu"
    )
    (grad,) = torch.autograd.grad(found[:2], leaf, upstreams)
    crops, drops, boxes = (result.detach() for result in found)
    apart = OPS.attention_boxes(crop_maps, crop_thresholds, *size, padding, *options, "cpu")
    assert torch.equal(boxes, apart[:, 0])
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
    "attend_and_pool": fuzz_attend,
    "sample_attention": fuzz_sample,
    "attention_boxes": fuzz_boxes,
    "crop_resize": fuzz_crop,
    "attention_swap": fuzz_swap,
    "attention_drop": fuzz_drop,
    "attention_crop_drop": fuzz_crop_drop,
    "attention_refine": fuzz_refine,
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
