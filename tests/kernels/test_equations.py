"""The reference kernels against the equations written out the slow way, and the edge cases."""

import math

import pytest
import torch
from torch.nn import functional as F

import wsdan_kernels as wk
from wsdan_kernels.reference import crop_resize
from wsdan_kernels.reference.attention_boxes import resize_maps
from wsdan_kernels.testing import TOLERANCES, relative_error


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("reduce", ["mean", "sum", "max"])
def test_pooling_by_loops(reduce):
    features, attentions = random(2, 3, 2, 4, dtype=torch.float64), random(2, 5, 2, 4).double()
    expected = torch.zeros(2, 5, 3, dtype=torch.float64)
    for b in range(2):
        for m in range(5):
            for c in range(3):
                products = [
                    float(attentions[b, m, y, x] * features[b, c, y, x])
                    for y in range(2)
                    for x in range(4)
                ]
                pooled = max(products) if reduce == "max" else math.fsum(products)
                pooled = pooled / len(products) if reduce == "mean" else pooled
                root = math.copysign(math.sqrt(abs(pooled) + 1e-12), pooled)
                expected[b, m, c] = root if pooled else 0.0
        expected[b] *= 100 / float(expected[b].norm())
    found = wk.bilinear_attention_pool(features, attentions, reduce=reduce, scale=100.0)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("normalize", ["all", "part", None])
@pytest.mark.parametrize("signed_sqrt", [True, False])
@pytest.mark.parametrize("reduce", ["mean", "sum", "max"])
def test_pooling_gradient_equals_autograd_of_the_published_expression(
    reduce, signed_sqrt, normalize
):
    features, attentions = random(3, 4, 3, 3), random(3, 2, 3, 3, seed=1)
    attentions[0, 0] = 0  # P = 0 for a whole map, and for a whole image below
    features[1] = 0
    upstream = random(3, 2, 4, seed=2)

    def published(f, a):
        if reduce == "max":
            pooled = (a[:, :, None] * f[:, None]).flatten(3).amax(3)
        else:
            pooled = torch.einsum("imjk,injk->imn", a, f) / (9.0 if reduce == "mean" else 1.0)
        if signed_sqrt:
            pooled = torch.sign(pooled) * torch.sqrt(pooled.abs() + 1e-12)
        if normalize is None:
            return pooled
        if normalize == "part":
            return F.normalize(pooled, dim=-1)
        return F.normalize(pooled.flatten(1), dim=-1).view_as(pooled)

    def gradients(function):
        f, a = features.double().requires_grad_(), attentions.double().requires_grad_()
        output = function(f, a)
        return output, *torch.autograd.grad(output, (f, a), upstream.double())

    def ours(f, a):
        return wk.bilinear_attention_pool(
            f, a, reduce=reduce, signed_sqrt=signed_sqrt, normalize=normalize
        )

    for found, expected in zip(gradients(ours), gradients(published), strict=True):
        assert torch.isfinite(found).all()
        if reduce == "max":  # amax shares a tie's gradient, the rule here gives it to the lowest k
            found, expected = found[2:], expected[2:]
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_max_pooling_gives_a_tie_to_the_lowest_position():
    features = torch.tensor([[1.0, 3.0, 3.0, 3.0]]).view(1, 1, 2, 2).requires_grad_()
    attentions = torch.ones(1, 1, 2, 2)
    wk.bilinear_attention_pool(
        features, attentions, reduce="max", signed_sqrt=False, normalize=None
    ).sum().backward()
    assert features.grad.flatten().tolist() == [0, 1, 0, 0]


def test_attention_of_another_resolution_is_resized():
    features, attentions = random(2, 3, 6, 5), random(2, 4, 3, 2, seed=1)
    resized = F.interpolate(attentions, (6, 5), mode="bilinear", align_corners=True)
    for backend, tolerance in (("reference", 0.0), ("auto", TOLERANCES[torch.float32])):
        found = wk.bilinear_attention_pool(features, attentions, backend=backend)
        expected = wk.bilinear_attention_pool(features, resized, backend=backend)
        assert relative_error(found, expected) <= tolerance


def test_groups_equal_separate_calls():
    features, first, second = random(2, 3, 4, 4), random(2, 5, 4, 4, seed=1), random(2, 5, 4, 4)
    together = wk.bilinear_attention_pool(features, torch.cat((first, second), 1), groups=2)
    torch.testing.assert_close(together[:, :5], wk.bilinear_attention_pool(features, first))
    torch.testing.assert_close(together[:, 5:], wk.bilinear_attention_pool(features, second))


def test_autocast_takes_the_mixed_dtypes_it_makes():
    features, attentions = random(2, 3, 4, 4).bfloat16(), random(2, 5, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        found = wk.bilinear_attention_pool(features, attentions)
    assert torch.equal(found, wk.bilinear_attention_pool(features, attentions.bfloat16()))


def test_sampling_follows_the_square_root_of_the_mass():
    attentions = torch.tensor([0.0, 1.0, 4.0, 16.0]).view(1, 4, 1, 1).expand(1, 4, 3, 3)
    picks = wk.sample_attention(attentions, 40_000, generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(picks[0], minlength=4) / 40_000
    torch.testing.assert_close(shares, torch.tensor([0.0, 1.0, 2.0, 4.0]) / 7, atol=0.01, rtol=0)
    uniform = wk.sample_attention(
        attentions, 40_000, weighting="uniform", generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(
        torch.bincount(uniform[0], minlength=4) / 40_000, torch.full((4,), 0.25), atol=0.01, rtol=0
    )


def test_sampling_of_unusable_weights():
    attentions = torch.full((3, 4, 2, 2), -1.0)
    attentions[1] = float("nan")
    attentions[2, 1] = 2.0  # the only usable map of its image
    picks = wk.sample_attention(attentions, 500, generator=torch.Generator().manual_seed(0))
    assert set(picks[0].tolist()) == set(picks[1].tolist()) == {0, 1, 2, 3}
    assert set(picks[2].tolist()) == {1}


def test_sampling_never_leaves_the_range():
    attentions = random(2, 3, 2, 2).abs()
    attentions[:, 2] = 0
    ends = torch.tensor([[0.0, 1 - 2**-53], [0.0, 1 - 2**-53]], dtype=torch.float64)
    assert wk.sample_attention(attentions, 2, uniforms=ends).tolist() == [[0, 1], [0, 1]]


@pytest.mark.parametrize("align_corners", [True, False])
def test_crop_resize_equals_interpolate(align_corners):
    images = random(3, 2, 17, 23)
    boxes = torch.tensor([[0, 0, 23, 17], [4, 3, 5, 16], [10, 2, 21, 9]])
    found = wk.crop_resize(images, boxes, (11, 29), align_corners=align_corners)
    for b, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        expected = F.interpolate(
            images[b : b + 1, :, y1:y2, x1:x2],
            (11, 29),
            mode="bilinear",
            align_corners=align_corners,
        )
        torch.testing.assert_close(found[b : b + 1], expected)
    batched = crop_resize.by_batch(images, boxes, 11, 29, align_corners)  # what a GPU runs
    torch.testing.assert_close(batched, found)


def test_boxes_outside_the_image_are_moved_inside():
    images = random(5, 1, 6, 8)
    boxes = torch.tensor(
        [[-5, -5, 100, 100], [3, 2, 3, 2], [20, 20, 30, 30], [-9, -9, -3, -3], [5, 4, 2, 1]]
    )
    inside = torch.tensor([[0, 0, 8, 6], [3, 2, 4, 3], [7, 5, 8, 6], [0, 0, 1, 1], [5, 4, 6, 5]])
    assert torch.equal(wk.crop_resize(images, boxes), wk.crop_resize(images, inside))
    assert torch.equal(wk.crop_resize(images, inside)[3], images[3, :, :1, :1].expand(1, 6, 8))


@pytest.mark.parametrize("rule", ["paper", "guyuc"])
def test_drop_erases_exactly_where_the_map_reaches(rule):
    images, maps = random(2, 3, 9, 12), random(2, 4, 5, seed=1).abs()
    up = resize_maps(maps, 9, 12, True)
    peak = (up if rule == "paper" else maps).amax((1, 2))
    for threshold in (0.3, torch.tensor([0.2, 0.6])):
        cut = (threshold * peak)[:, None, None]
        expected = images * (up < cut)[:, None]
        found = wk.attention_drop(images, maps, threshold=threshold, rule=rule)
        assert torch.equal(found, expected)


def test_a_dead_map_leaves_the_image_untouched():
    images, maps = random(3, 3, 8, 8), torch.zeros(3, 4, 4)
    maps[1] = float("nan")
    maps[2] = -2
    assert torch.equal(wk.attention_drop(images, maps, threshold=0.5), images)


def test_drop_keeps_bad_pixels_out():
    """What is erased is 0 even where the image is not finite."""
    images = torch.full((1, 1, 4, 4), float("inf"))
    assert torch.equal(
        wk.attention_drop(images, torch.ones(1, 2, 2), threshold=0.5), torch.zeros(1, 1, 4, 4)
    )


def test_center_loss_by_its_definition():
    features, centers = random(4, 6), random(3, 6, seed=1)
    labels = torch.tensor([2, 0, 2, 1], dtype=torch.int32)
    expected = sum(
        float((features[b] - centers[k] / centers[k].norm()).square().sum())
        for b, k in enumerate(labels.tolist())
    )
    assert float(wk.center_loss(features, centers, labels)) == pytest.approx(expected / 4)


@pytest.mark.parametrize("duplicates", ["accumulate", "mean"])
def test_update_centers_with_duplicates(duplicates):
    features, centers = random(4, 6), random(3, 6, seed=1)
    labels = torch.tensor([2, 0, 2, 2])
    unit = F.normalize(centers[2], dim=0)
    step = sum(0.1 * (features[b] - unit) for b in (0, 2, 3))
    found = wk.update_centers_(centers.clone(), features, labels, beta=0.1, duplicates=duplicates)
    expected = centers[2] + step / (3 if duplicates == "mean" else 1)
    torch.testing.assert_close(found[2], expected)
    assert torch.equal(found[1], centers[1])


def test_center_loss_gradient_survives_the_update():
    """The training step updates the centers between the forward and the backward pass."""
    features, centers = random(4, 6).requires_grad_(), random(3, 6, seed=1)
    labels = torch.tensor([2, 0, 2, 1])
    expected = torch.autograd.grad(wk.center_loss(features, centers, labels), features)[0]
    loss = wk.center_loss(features, centers, labels)
    wk.update_centers_(centers, features, labels, beta=1.0)
    torch.testing.assert_close(torch.autograd.grad(loss, features)[0], expected)


def test_modules_equal_functions():
    features, attentions = random(2, 3, 4, 4), random(2, 5, 4, 4)
    module = wk.BilinearAttentionPool(reduce="max", scale=3.0)
    expected = wk.bilinear_attention_pool(features, attentions, reduce="max", scale=3.0)
    assert torch.equal(module(features, attentions), expected)
    assert "reduce='max'" in repr(module)

    centers, labels = wk.FeatureCenters(3, 15, beta=0.5), torch.tensor([2, 0])
    pooled = expected.flatten(1).requires_grad_()
    assert float(centers(pooled, labels).detach()) == pytest.approx(
        float(pooled.detach().square().sum() / 2)
    )
    centers.update_(pooled, labels)
    torch.testing.assert_close(centers.centers[2], 0.5 * pooled[0].detach())
    assert list(centers.state_dict()) == ["centers"]
