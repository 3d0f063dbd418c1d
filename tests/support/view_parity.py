"""What every backend of the image views must do: test_native.py, test_cuda.py."""

import parity
import torch
from parity import DEVICE, arranged, values

import wsdan_kernels as wk
from wsdan_kernels.testing import TOLERANCES, relative_error

NAN, INF = float("nan"), float("inf")


def check(run, inputs, leaves, backend, strides="contiguous", **options):
    """run(inputs, backend) and its gradients equal the reference's, which runs on the CPU."""
    inputs = {name: arranged(value.detach(), strides) for name, value in inputs.items()}
    share, found = parity.parity(
        run, inputs, leaves, backend,
        place=lambda value: arranged(value.to(DEVICE[backend]), strides), **options,
    )  # fmt: skip
    assert share <= 1
    return found


def check_images(backend, size, layout, targets=((97, 64), (1, 1), None)):
    """The image views at the sizes of real images and at one pixel; None: a crop of `size`."""
    height, width = size
    images = values((2, 3, height, width)).contiguous(memory_format=layout)
    boxes = torch.tensor([[width // 5, height // 7, width - width // 3, height], [0, 0, 1, 1]])
    for target in targets:
        for align_corners in (True, False):

            def crop(inputs, backend, target=target or size, align_corners=align_corners):
                images = inputs["images"]
                return wk.crop_resize(
                    images, boxes.to(images.device), target, align_corners=align_corners,
                    backend=backend,
                )  # fmt: skip

            share, found = parity.parity(
                crop, {"images": images}, ("images",), backend,
                place=lambda value: value.to(DEVICE[backend]),
            )  # fmt: skip
            assert share <= 1
            parity.assert_layout(found[0], images)
    maps, thresholds = values((2, 13, 11), seed=1).relu(), torch.tensor([0.5, 0.3])
    for rule in ("paper", "guyuc"):
        check_drop(backend, images, maps, thresholds, rule)
        check_boxes(backend, maps, thresholds[:, None], size, 0.1, rule)


def check_drop(backend, images, maps, thresholds, rule, align_corners=True):
    """attention_drop erases where the reference does, and copies the rest bit for bit."""
    found = wk.attention_drop(
        *(value.to(DEVICE[backend]) for value in (images, maps)),
        threshold=thresholds.to(DEVICE[backend]), rule=rule, align_corners=align_corners,
        backend=backend,
    )  # fmt: skip
    parity.assert_layout(found, images)
    parity.check_drop(found.cpu(), images, maps, thresholds, rule, align_corners)
    return found.cpu()


def check_boxes(backend, maps, thresholds, size, padding, rule, align_corners=True):
    """thresholds (B,T): the reference's boxes, up to the rounding of the resized map."""
    found = wk.attention_boxes(
        maps.to(DEVICE[backend]), size, threshold=thresholds.to(DEVICE[backend]), padding=padding,
        rule=rule, align_corners=align_corners, backend=backend,
    ).cpu()  # fmt: skip
    parity.check_boxes(found, maps, thresholds, *size, padding, rule, align_corners)
    return found


def check_odd_boxes(backend):
    """Boxes out of the image, reversed, empty, and beyond 32 bits."""
    rows = [
        [-3, -2, 4, 5], [5, 4, 20, 30], [40, 50, 60, 70], [-9, -9, -5, -5], [6, 5, 2, 1],
        [3, 3, 3, 3], [-(2**40), -(2**40), 2**40, 2**40], [2**40, 2**33, -(2**40), 2**31],
        [2**63 - 1, 0, 2**63 - 1, 4], [-(2**63), 2, -(2**63), 2**32 + 3],
    ]  # fmt: skip
    boxes = torch.tensor(rows)

    def crop(inputs, backend):
        images = inputs["images"]
        return wk.crop_resize(images, boxes.to(images.device), (6, 5), backend=backend)

    for layout in ("contiguous", "channels_last"):
        images = {"images": arranged(values((len(rows), 3, 9, 8)), layout)}
        check(crop, images, ("images",), backend, layout)


def check_unusable_maps(backend, dtype, layout, rule):
    """Maps of zeros, of negative values, with NaN or infinities erase nothing."""
    maps = torch.ones(6, 5, 4)
    maps[0], maps[1], maps[2, 3, 1], maps[3, 0, 0], maps[4, 4, 3] = 0, -1, NAN, INF, -INF
    images = values((6, 3, 20, 30), dtype).contiguous(memory_format=layout)
    images[:, :, 3, 7], images[:, :, 4, 8], images[:, :, 5, 9] = NAN, -INF, -0.0
    drops = check_drop(backend, images, maps, torch.full((6,), 0.5), rule)
    assert torch.equal(drops[:5].isnan(), images[:5].isnan())
    assert not drops[5].any()
    whole = wk.attention_boxes(
        maps.to(DEVICE[backend]), (20, 30), threshold=0.5, padding=0.0, rule=rule, backend=backend
    )
    assert whole[:5].tolist() == [[0, 0, 30, 20]] * 5


def images_of(shape, dtype, seed=0):
    if dtype != torch.uint8:
        return values(shape, dtype, seed)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=dtype)


def shifted(images):
    """The same strides, one element further than memory is aligned to."""
    room = images.new_empty(images.numel() + 1)
    return room[1:].as_strided(images.shape, images.stride()).copy_(images)


def in_wider_rows(images):
    """The left part of images whose rows are 64 pixels."""
    layout = parity.memory_format(images)
    room = images.new_empty((*images.shape[:3], 64)).contiguous(memory_format=layout)
    return room[..., : images.shape[3]].copy_(images)


def check_rows(backend, dtype, layout, channels, map_dtype=torch.float32):
    """Rows that are whole chunks of 16 bytes and that are not; every view of the same images."""
    for width in (16, 48, 50):
        images = images_of((2, channels, 11, width), dtype, width).contiguous(memory_format=layout)
        for place in (lambda images: images, shifted, in_wider_rows):
            check_views(backend, images, place, map_dtype)


def check_views(backend, images, place, map_dtype):
    """The backend gets place(images), which holds the same images."""
    height, width = images.shape[2:]
    boxes = torch.tensor([[3, 2, width - 2, height], [0, 0, width, height]], dtype=torch.int32)
    maps, thresholds = values((2, 4, 5), map_dtype, 1).abs(), torch.tensor([0.3, 0.5])
    thresholds = thresholds.double() if map_dtype == torch.float64 else thresholds
    given = [value.to(DEVICE[backend]) for value in (boxes, maps, thresholds)]
    placed = place(images.to(DEVICE[backend]))
    for size in ((height, width), (7, 32)):
        for align_corners in (True, False):
            options = {"align_corners": align_corners, "backend": backend}
            found = wk.crop_resize(placed, given[0], size, **options)
            parity.assert_layout(found, placed)
            check_crop(found.cpu(), images, boxes, size, align_corners)
    drops = wk.attention_drop(placed, given[1], threshold=given[2], backend=backend).cpu()
    parity.check_drop(drops, images, maps, thresholds, "paper", True)
    # Maps of the drop's kind are looked through together with them, others apart.
    for shape, dtype in (((2, 4, 5), map_dtype), ((2, 3, 7), map_dtype), ((2, 4, 5), torch.half)):
        crop_maps = values(shape, torch.float32, 2).abs().to(DEVICE[backend], dtype)
        crops, dropped, found = parity.OPS.attention_crop_drop(
            placed, crop_maps, given[1], given[2], given[2], 0.1, "paper", True, backend
        )
        options = {"threshold": given[2], "padding": 0.1, "backend": backend}
        assert torch.equal(found, wk.attention_boxes(crop_maps, (height, width), **options))
        check_crop(crops.cpu(), images, found.cpu(), (height, width), True)
        assert torch.equal(dropped.cpu(), drops)


def check_crop(found, images, boxes, size, align_corners):
    """Within the tolerance of the exact crop; bytes are the nearest to it."""
    exact = wk.crop_resize(
        images.double(), boxes, size, align_corners=align_corners, backend="reference"
    )
    assert found.dtype == images.dtype
    if images.dtype == torch.uint8:
        assert float((found.double() - exact).abs().max()) <= 0.5 + 255 * TOLERANCES[torch.float32]
    else:
        assert relative_error(found, exact) <= TOLERANCES[images.dtype]


# Whole, inner, on the border, of one pixel; some have a side of the results below.
BOXES_OF_NONFINITE = ([0, 0, 11, 9], [2, 3, 8, 7], [5, 4, 11, 9], [0, 0, 5, 4], [5, 4, 6, 5])


def nonfinite_images(value: float) -> torch.Tensor:
    """(2,3,9,11) with `value` inside of the first and at corners of the second."""
    images = torch.rand((2, 3, 9, 11), generator=torch.Generator().manual_seed(0))
    images[0, 0, 4, 5] = value
    images[1, :, 0, 0] = images[1, 1, 8, 10] = value
    return images


def check_nonfinite_images(backend: str, value: float, layout: torch.memory_format) -> None:
    """Crops, drops and refined views are the reference's, NaN and infinities included."""
    images = nonfinite_images(value).contiguous(memory_format=layout)
    maps = torch.rand((2, 4, 5, 6), generator=torch.Generator().manual_seed(1))
    thresholds = {"crop_threshold": 0.9, "drop_threshold": 0.5}
    calls = [
        lambda images, maps, **on: wk.attention_refine(images, maps, **on)[0],
        lambda images, maps, **on: wk.attention_refine(images, maps, threshold=0.9, **on)[0],
        lambda images, maps, **on: torch.cat(
            wk.attention_crop_drop(images, maps[:, 0], maps[:, 1], **thresholds, **on)
        ),
    ]
    for box in BOXES_OF_NONFINITE:
        boxes = torch.tensor([box] * 2)
        for size in ((9, 11), (17, 21), (5, 6), (9, 4), (5, 11)):
            for align_corners in (True, False):
                options = {"size": size, "align_corners": align_corners}
                calls.append(
                    lambda images, maps, boxes=boxes, options=options, **on: wk.crop_resize(
                        images, boxes.to(images.device), **options, **on
                    )
                )
    place = DEVICE.get(backend, "cpu")
    for call in calls:
        found = call(images.to(place), maps.to(place), backend=backend).cpu()
        expected = call(images, maps, backend="reference")
        torch.testing.assert_close(found, expected, equal_nan=True)
