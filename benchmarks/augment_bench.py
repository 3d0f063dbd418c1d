"""The attention-guided views on the CPU: ours against the published loop, checked equal first.

python benchmarks/augment_bench.py [--batch B] [--json FILE]
"""

import argparse

import torch
from run import measure, table, write_json
from torch.nn import functional as F

import wsdan_kernels as wk
from wsdan_kernels import backends
from wsdan_kernels.testing import TOLERANCES, paper_shape, relative_error

CROP_THRESHOLD, DROP_THRESHOLD, PADDING = 0.5, 0.35, 0.1


def published_boxes(maps, size):
    """The published rule, image by image, as the loops of the field do it. maps (B,h,w)."""
    boxes = []
    for single in maps:
        up = F.interpolate(single[None, None], size, mode="bilinear", align_corners=True)[0, 0]
        where = torch.nonzero(up >= CROP_THRESHOLD * up.max())
        (y1, x1), (y2, x2) = where.min(0).values.tolist(), where.max(0).values.tolist()
        pad_y, pad_x = int(PADDING * size[0]), int(PADDING * size[1])
        corner = [min(x2 + pad_x, size[1]), min(y2 + pad_y, size[0])]
        boxes.append([max(0, x1 - pad_x), max(0, y1 - pad_y), *corner])
    return torch.tensor(boxes, dtype=torch.int32)


def published_crop_drop(images, crop_maps, drop_maps):
    """Crop and drop of two chosen maps, image by image."""
    size = images.shape[2:]
    crops, drops = [], []
    for image, box in zip(images, published_boxes(crop_maps, size).tolist(), strict=True):
        x1, y1, x2, y2 = box
        part = image[None, :, y1:y2, x1:x2]
        crops.append(F.interpolate(part, size, mode="bilinear", align_corners=True))
    for image, single in zip(images, drop_maps, strict=True):
        up = F.interpolate(single[None, None], size, mode="bilinear", align_corners=True)
        drops.append(image[None] * (up < DROP_THRESHOLD * up.max()).float())
    return torch.cat(crops), torch.cat(drops)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=12, help="pictures (default: 12, the paper's)")
    parser.add_argument("--json", metavar="FILE", help="write the rows to this file too")
    options = parser.parse_args()
    shape = paper_shape(options.batch)
    generator = torch.Generator().manual_seed(0)
    crop_maps = torch.rand((shape["B"], shape["h"], shape["w"]), generator=generator)
    drop_maps = torch.rand((shape["B"], shape["h"], shape["w"]), generator=generator)
    images = torch.rand((shape["B"], 3, shape["H"], shape["W"]), generator=generator)
    size = (shape["H"], shape["W"])

    def boxes(backend):
        return wk.attention_boxes(
            crop_maps, size, threshold=CROP_THRESHOLD, padding=PADDING, backend=backend
        )

    def crop_drop(backend="auto"):
        return wk.attention_crop_drop(
            images,
            crop_maps,
            drop_maps,
            crop_threshold=CROP_THRESHOLD,
            drop_threshold=DROP_THRESHOLD,
            padding=PADDING,
            backend=backend,
        )

    names = [
        name
        for name in backends.NAMES
        if backends.why_not("attention_boxes", name, "cpu", torch.float32) is None
    ]
    for name in names:
        assert torch.equal(boxes(name), published_boxes(crop_maps, size)), name
    for ours, theirs in zip(
        crop_drop(), published_crop_drop(images, crop_maps, drop_maps), strict=True
    ):
        assert relative_error(ours, theirs) <= TOLERANCES[torch.float32]

    shape_text = f"B {shape['B']}, {shape['h']}x{shape['w']} to {size[0]}x{size[1]}"
    rows = measure(
        f"boxes, {shape_text}",
        {
            "published": lambda: published_boxes(crop_maps, size),
            **{name: lambda name=name: boxes(name) for name in names},
        },
        "published",
    )
    rows += measure(
        f"crop+drop, {shape_text}",
        {
            "published": lambda: published_crop_drop(images, crop_maps, drop_maps),
            "reference": lambda: crop_drop("reference"),
            "auto": crop_drop,
        },
        "published",
    )
    print(table(rows, "published"))
    if options.json:
        write_json(rows, options.json)


if __name__ == "__main__":
    main()
