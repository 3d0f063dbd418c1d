"""Every argument error names the function, the argument, the rule and what came."""

import pytest
import torch

import wsdan_kernels as wk
from wsdan_kernels.compat import guyuc

F = torch.ones(2, 3, 4, 4)
A = torch.ones(2, 5, 4, 4)
MAPS = torch.ones(2, 4, 4)
IMAGES = torch.ones(2, 3, 8, 8)
BOXES = torch.tensor([[0, 0, 4, 4]] * 2)
POOLED = torch.ones(2, 6)
CENTERS = torch.ones(3, 6)
LABELS = torch.tensor([0, 1])
WEIGHT = torch.ones(5, 3, 1, 1)
NORM = torch.nn.BatchNorm2d(5)
NESTED = torch.nested.nested_tensor([torch.ones(3, 4, 4), torch.ones(3, 4, 2)])
META = torch.device("meta")


def pool(features=F, attentions=A, **options):
    return wk.bilinear_attention_pool(features, attentions, **options)


def sample(attentions=A, num_samples=2, **options):
    return wk.sample_attention(attentions, num_samples, **options)


def boxes(maps=MAPS, image_size=(8, 8), threshold=0.5, padding=0.1, **options):
    return wk.attention_boxes(maps, image_size, threshold=threshold, padding=padding, **options)


def crop(images=IMAGES, boxes=BOXES, size=None, **options):
    return wk.crop_resize(images, boxes, size, **options)


def swap(images=IMAGES, boxes=BOXES, partners=LABELS, **options):
    return wk.attention_swap(images, boxes, partners, **options)


def drop(images=IMAGES, maps=MAPS, threshold=0.5, **options):
    return wk.attention_drop(images, maps, threshold=threshold, **options)


def crop_drop(
    images=IMAGES, crop_maps=MAPS, drop_maps=MAPS, crop_threshold=0.5, drop_threshold=0.3, **options
):
    return wk.attention_crop_drop(
        images,
        crop_maps,
        drop_maps,
        crop_threshold=crop_threshold,
        drop_threshold=drop_threshold,
        **options,
    )


def attend(features=F, weight=WEIGHT, norm=NORM, **options):
    return wk.attend_and_pool(features, weight, norm, **options)


def loss(features=POOLED, centers=CENTERS, labels=LABELS):
    return wk.center_loss(features, centers, labels)


def update(features=POOLED, centers=CENTERS, labels=LABELS, **options):
    return wk.update_centers_(centers.clone(), features, labels, **options)


OPERATORS = {
    pool: "bilinear_attention_pool",
    attend: "attend_and_pool",
    sample: "sample_attention",
    boxes: "attention_boxes",
    crop: "crop_resize",
    swap: "attention_swap",
    drop: "attention_drop",
    crop_drop: "attention_crop_drop",
    loss: "center_loss",
    update: "update_centers_",
}
MISTAKES = [
    (pool, {"features": [1.0]}, TypeError, "features must be a torch.Tensor, but got list"),
    (pool, {"features": F.to_sparse()}, TypeError, "features must be a dense"),
    (pool, {"features": F.int()}, TypeError, "features must be of dtype float32.*got int32"),
    (
        pool,
        {"features": F[0]},
        ValueError,
        r"features must be of shape \(B, C, h, w\).*\(3, 4, 4\)",
    ),
    (pool, {"features": F[:, :0]}, ValueError, r"features must be non-empty along axis 1"),
    (pool, {"attentions": A[:, :, :0]}, ValueError, "attentions must be non-empty along axis 2"),
    (pool, {"attentions": A[:1]}, ValueError, r"attentions must be of the batch size of features"),
    (pool, {"attentions": A.double()}, TypeError, "attentions must be of the dtype of features"),
    (
        pool,
        {"attentions": A.to(META)},
        ValueError,
        r"attentions must be on the device.*\(cpu\).*meta",
    ),
    (
        pool,
        {"reduce": "median"},
        ValueError,
        "reduce must be one of 'mean', 'sum', 'max'.*'median'",
    ),
    (pool, {"normalize": "both"}, ValueError, "normalize must be one of 'all', 'part', None"),
    (pool, {"signed_sqrt": 1}, TypeError, "signed_sqrt must be True or False, but got int"),
    (pool, {"eps": -1.0}, ValueError, "eps must be finite and >= 0, but got -1"),
    (pool, {"eps": "x"}, TypeError, "eps must be a number, but got str"),
    (pool, {"scale": float("nan")}, ValueError, "scale must be finite, but got nan"),
    (pool, {"groups": 2}, ValueError, "groups must be a divisor of M.*got 2 for M = 5"),
    (pool, {"groups": 0}, ValueError, "groups must be an integer >= 1 of 32 bits, but got 0"),
    (pool, {"groups": 5.0}, TypeError, "groups must be an integer, but got float"),
    (pool, {"groups": True}, TypeError, "groups must be an integer, but got bool"),
    (pool, {"groups": 10**400}, ValueError, "groups must be .*got an integer of 1329 bits"),
    (pool, {"eps": 10**400}, ValueError, "eps must be .*got an integer of 1329 bits"),
    (pool, {"scale": -(10**5000)}, ValueError, "scale must be finite.*an integer of 16610 bits"),
    (pool, {"features": NESTED}, TypeError, "features must be a dense.*got a nested tensor"),
    (pool, {"attentions": NESTED}, TypeError, "attentions must be a dense.*got a nested tensor"),
    (pool, {"reduce": F}, TypeError, "reduce must be one of 'mean', 'sum', 'max', but got Tensor"),
    (pool, {"reduce": None}, ValueError, "reduce must be one of 'mean', 'sum', 'max'"),
    (pool, {"groups": 5, "normalize": None}, ValueError, "groups must be .*normalize"),
    (pool, {"backend": "gpu"}, ValueError, "backend must be one of 'auto', 'reference'.*got 'gpu'"),
    (attend, {"features": F[0]}, ValueError, r"features must be of shape \(B, C, h, w\)"),
    (attend, {"weight": WEIGHT[:, :2]}, ValueError, r"weight must be of 3 columns.*\(5, 2\)"),
    (attend, {"weight": [1.0]}, TypeError, "weight must be a torch.Tensor, but got list"),
    (attend, {"norm": None}, ValueError, "norm must be a BatchNorm2d"),
    (attend, {"weight": WEIGHT[:0]}, ValueError, "weight must be non-empty along axis 0"),
    (attend, {"weight": WEIGHT.to(META)}, ValueError, "weight must be on the device of features"),
    (
        attend,
        {"norm": torch.nn.BatchNorm2d(4)},
        ValueError,
        r"norm must be a BatchNorm2d\(5\), affine and with running statistics",
    ),
    (attend, {"reduce": "max"}, ValueError, "reduce must be one of 'mean', 'sum', but got 'max'"),
    (sample, {"attentions": MAPS}, ValueError, r"attentions must be of shape \(B, M, h, w\)"),
    (sample, {"num_samples": 0}, ValueError, "num_samples must be .*got 0"),
    (sample, {"num_samples": 2.0}, TypeError, "num_samples must be an integer, but got float"),
    (sample, {"num_samples": 2**40}, ValueError, "num_samples must be .* of 32 bits"),
    (sample, {"weighting": "mass"}, ValueError, "weighting must be one of 'sqrt_mass', 'uniform'"),
    (sample, {"uniforms": torch.zeros(2, 3)}, ValueError, r"uniforms must be of shape \(2, 2\)"),
    (boxes, {"maps": A}, ValueError, r"maps must be of shape \(B, h, w\)"),
    (
        boxes,
        {"image_size": 8},
        TypeError,
        r"image_size must be a pair \(height, width\), but got 8",
    ),
    (boxes, {"image_size": (8, 0)}, ValueError, "image_size must be a pair of positive integers"),
    (boxes, {"image_size": (8, 4.0)}, TypeError, "image_size must be a pair of integers"),
    (boxes, {"image_size": (8, None)}, TypeError, "image_size must be a pair of integers"),
    (boxes, {"image_size": (8, 2**40)}, ValueError, "image_size must be a pair of integers up to"),
    (boxes, {"image_size": (10**5000, 8)}, ValueError, "image_size must be a pair of integers up"),
    (boxes, {"threshold": 1.5}, ValueError, r"threshold must be in \[0, 1\], but got 1.5"),
    (boxes, {"threshold": "half"}, TypeError, "threshold must be a number, but got str"),
    (boxes, {"threshold": ()}, ValueError, "threshold must be at least one number"),
    (boxes, {"threshold": torch.ones(3)}, ValueError, r"threshold must be .*B = 2.*\(3\)"),
    (boxes, {"threshold": LABELS}, TypeError, "threshold must be floating point"),
    (
        boxes,
        {"threshold": torch.ones(2, device=META)},
        ValueError,
        "threshold must be on the device",
    ),
    (boxes, {"padding": -0.1}, ValueError, "padding must be finite and >= 0"),
    (boxes, {"rule": "mine"}, ValueError, "rule must be one of 'paper', 'guyuc', but got 'mine'"),
    (boxes, {"align_corners": None}, TypeError, "align_corners must be True or False"),
    (crop, {"images": IMAGES.int()}, TypeError, "images must be of dtype .*uint8, but got int32"),
    (crop, {"boxes": BOXES.float()}, TypeError, "boxes must be of dtype int64 or int32.*float32"),
    (crop, {"boxes": BOXES[:, :3]}, ValueError, r"boxes must be of shape \(B, 4\), .*\(2, 3\)"),
    (crop, {"boxes": BOXES[:1]}, ValueError, "boxes must be of the batch size of images"),
    (crop, {"size": (0, 4)}, ValueError, "size must be a pair of positive integers"),
    (swap, {"images": IMAGES.int()}, TypeError, "images must be of dtype .*uint8, but got int32"),
    (swap, {"images": IMAGES[:, :0]}, ValueError, "images must be non-empty along axis 1"),
    (swap, {"boxes": BOXES.float()}, TypeError, "boxes must be of dtype int64 or int32.*float32"),
    (swap, {"boxes": BOXES[:, :3]}, ValueError, r"boxes must be of shape \(B, 4\), .*\(2, 3\)"),
    (swap, {"partners": [1, 0]}, TypeError, "partners must be a torch.Tensor, but got list"),
    (swap, {"partners": BOXES}, ValueError, r"partners must be of shape \(B\), .*\(2, 4\)"),
    (swap, {"partners": LABELS.float()}, TypeError, "partners must be of dtype int64 or int32"),
    (swap, {"partners": LABELS[:1]}, ValueError, "partners must be of the batch size of images"),
    (swap, {"partners": LABELS.to(META)}, ValueError, "partners must be on the device of images"),
    (swap, {"partners": LABELS + 1}, ValueError, r"partners must be in \[0, 2\), but got 2"),
    (swap, {"partners": LABELS - 1}, ValueError, r"partners must be in \[0, 2\), but got -1"),
    (drop, {"images": IMAGES[0]}, ValueError, r"images must be of shape \(B, C, H, W\)"),
    (drop, {"maps": MAPS[:1]}, ValueError, "maps must be of the batch size of images"),
    (drop, {"maps": MAPS.to(META)}, ValueError, "maps must be on the device of images"),
    (drop, {"threshold": (0.1, 0.2)}, ValueError, "threshold must be one number per image"),
    (crop_drop, {"images": IMAGES.int()}, TypeError, "images must be of dtype .*uint8"),
    (crop_drop, {"drop_maps": A}, ValueError, r"drop_maps must be of shape \(B, h, w\)"),
    (crop_drop, {"crop_maps": MAPS[:1]}, ValueError, "crop_maps must be of the batch size"),
    (crop_drop, {"drop_threshold": 2.0}, ValueError, r"drop_threshold must be in \[0, 1\]"),
    (crop_drop, {"crop_threshold": (0.1, 0.2)}, ValueError, "crop_threshold must be one number"),
    (loss, {"labels": LABELS.float()}, TypeError, "labels must be of dtype int64 or int32"),
    (loss, {"labels": LABELS + 2}, ValueError, r"labels must be in \[0, 3\), but got 3"),
    (loss, {"labels": LABELS - 1}, ValueError, r"labels must be in \[0, 3\), but got -1"),
    (loss, {"labels": LABELS[:1]}, ValueError, "labels must be of the batch size of features"),
    (loss, {"features": POOLED[:, :5]}, ValueError, r"features must be of the width of centers"),
    (loss, {"centers": CENTERS.double()}, TypeError, "centers must be of the dtype of features"),
    (loss, {"centers": CENTERS[:0]}, ValueError, "centers must be non-empty"),
    (update, {"beta": 1.5}, ValueError, r"beta must be in \[0, 1\], but got 1.5"),
    (update, {"duplicates": "last"}, ValueError, "duplicates must be one of 'accumulate', 'mean'"),
    (update, {"centers": CENTERS.clone().requires_grad_()}, ValueError, "requires_grad=True"),
]


@pytest.mark.parametrize(
    ("function", "mistake", "kind", "text"),
    MISTAKES,
    ids=[f"{m[0].__name__}-{next(iter(m[1]))}-{i}" for i, m in enumerate(MISTAKES)],
)
def test_mistake(function, mistake, kind, text):
    function()  # right without the mistake
    with pytest.raises(kind, match=text) as caught:
        function(**mistake)
    assert str(caught.value).startswith(OPERATORS[function] + ": ")


def test_a_refused_update_leaves_the_centers_alone():
    centers = CENTERS.clone()
    with pytest.raises(ValueError, match="labels"):
        wk.update_centers_(centers, POOLED, LABELS + 2)
    assert torch.equal(centers, CENTERS)


def test_compat_mistakes():
    with pytest.raises(ValueError, match="pool must be 'GAP' or 'GMP', but got 'max'"):
        guyuc.BAP("max")
    with pytest.raises(ValueError, match="mode must be 'crop' or 'drop', but got 'zoom'"):
        guyuc.batch_augment(IMAGES, A, mode="zoom")
