"""Images that hold a NaN or an infinity: every backend spreads them as torch's interpolate does."""

import pytest
import torch
from torch.nn import functional as F
from view_parity import BOXES_OF_NONFINITE, check_nonfinite_images, nonfinite_images

from wsdan_kernels import backends, crop_resize
from wsdan_kernels.reference import _sampling
from wsdan_kernels.reference import crop_resize as reference

each_value = pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
each_layout = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
SIZES = ((9, 11), (17, 21), (5, 6), (9, 4), (5, 11))


@each_value
@pytest.mark.parametrize("align_corners", [True, False])
def test_the_reference_is_torchs_interpolate(value, align_corners):
    images = nonfinite_images(value)
    for (x1, y1, x2, y2), size in ((box, size) for box in BOXES_OF_NONFINITE for size in SIZES):
        boxes = torch.tensor([[x1, y1, x2, y2]] * len(images))
        found = crop_resize(images, boxes, size, align_corners=align_corners, backend="reference")
        part = images[:, :, y1:y2, x1:x2]
        truth = F.interpolate(part, size, mode="bilinear", align_corners=align_corners)
        torch.testing.assert_close(found, truth, equal_nan=True)
        inside = _sampling.clamped_boxes(boxes, *images.shape[2:])
        batched = reference.by_batch(images, inside, *size, align_corners)
        assert torch.equal(batched.isfinite(), truth.isfinite())


@each_value
@each_layout
@pytest.mark.skipif(backends.available()["cpu"] is not None, reason="no C++ library")
def test_the_cpu_kernels_are_the_reference(value, layout):
    check_nonfinite_images("cpu", value, layout)


def test_a_box_of_the_results_size_spreads_nothing():
    images = nonfinite_images(float("nan"))
    whole = torch.tensor([[0, 0, 11, 9]] * len(images))
    for backend in ("auto", "reference"):
        found = crop_resize(images, whole, backend=backend)
        torch.testing.assert_close(found, images, equal_nan=True)
