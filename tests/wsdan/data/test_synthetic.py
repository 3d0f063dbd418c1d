"""The procedural dataset: deterministic, balanced, and with classes that only the moth shows."""

import numpy as np
import pytest
import torch

from wsdan.data.synthetic import CLASSES, SyntheticDataset, draw


def test_item_is_image_and_label():
    dataset = SyntheticDataset(3, seed=1, image_size=48)
    image, label = dataset[2]
    assert image.shape == (3, 48, 48)
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert type(label) is int
    assert label == 2
    assert len(dataset) == 3
    assert len(list(dataset)) == 3
    assert len(dataset.classes) == len(set(dataset.classes)) >= 16


def test_same_bytes_in_any_order():
    dataset = SyntheticDataset(20, seed=5, image_size=40)
    forward = [dataset[i][0] for i in range(20)]
    again = SyntheticDataset(40, seed=5, image_size=40)
    for index in reversed(range(20)):
        assert torch.equal(again[index][0], forward[index])
        assert np.array_equal(draw(5, index, 40).image, forward[index].permute(1, 2, 0).numpy())


def test_negative_index_counts_from_the_end():
    dataset = SyntheticDataset(5, image_size=32)
    assert torch.equal(dataset[-1][0], dataset[4][0])
    assert dataset[-1][1] == dataset[4][1]


@pytest.mark.parametrize("length", [1, 16, 50])
def test_labels_are_balanced(length):
    dataset = SyntheticDataset(length, image_size=32)
    counts = np.bincount([dataset[i][1] for i in range(length)], minlength=len(CLASSES))
    assert counts.max() - counts.min() <= 1


def test_seeds_and_indices_give_different_images():
    images = [draw(seed, index, 32).image for seed in range(3) for index in (0, 16, 32)]
    for i, first in enumerate(images):
        assert all((first != second).mean() > 0.5 for second in images[i + 1 :])


@pytest.mark.parametrize("image_size", [32, 45, 96, 224])
def test_classes_differ_only_inside_the_box(image_size):
    first = draw(3, 7, image_size, label=0)
    x1, y1, x2, y2 = first.box
    assert 0 <= x1 < x2 <= image_size
    assert 0 <= y1 < y2 <= image_size
    for label in range(1, len(CLASSES)):
        other = draw(3, 7, image_size, label=label)
        changed = (other.image != first.image).any(axis=2)
        assert other.label == label
        assert other.box == first.box
        assert changed[y1:y2, x1:x2].any()
        changed[y1:y2, x1:x2] = False
        assert not changed.any()


def test_box_fits_the_moth():
    """Over all classes the wings change colour, so the changed pixels span most of the box."""
    for index in range(8):
        images = [draw(0, index, 128, label=label) for label in (0, len(CLASSES) - 1)]
        changed = (images[0].image != images[1].image).any(axis=2)
        x1, y1, x2, y2 = images[0].box
        assert np.ptp(np.flatnonzero(changed.any(axis=0))) > 0.6 * (x2 - x1)
        assert np.ptp(np.flatnonzero(changed.any(axis=1))) > 0.6 * (y2 - y1)


def test_moth_is_small_and_varies_in_scale_and_place():
    boxes = np.array([draw(2, index, 128).box for index in range(64)])
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) / 128
    centres = (boxes[:, 2:] + boxes[:, :2]) / 256
    assert sides.min() > 0.15
    assert sides.max() < 0.7
    assert sides.max() / sides.min() > 1.6
    assert (np.ptp(centres, axis=0) > 0.4).all()


def test_colour_of_the_whole_image_does_not_tell_the_class():
    """A nearest-mean classifier on the images' colours stays near chance."""
    means = np.array([draw(4, index, 48).image.mean(axis=(0, 1)) for index in range(320)])
    labels = np.arange(320) % len(CLASSES)
    centres = np.stack([means[:160][labels[:160] == k].mean(axis=0) for k in range(len(CLASSES))])
    nearest = ((means[160:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == labels[160:]).mean() < 0.2


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"length": 0}, ValueError, "length must be >= 1.*got 0"),
        ({"length": 2.0}, TypeError, "length must be an int; got float 2.0"),
        ({"length": True}, TypeError, "length must be an int; got bool"),
        ({"length": 2, "seed": -1}, ValueError, "seed must be >= 0.*got -1"),
        ({"length": 2, "seed": 2**63}, ValueError, r"seed must be .* < 2\*\*63"),
        ({"length": 2, "seed": "0"}, TypeError, "seed must be an int; got str '0'"),
        ({"length": 2, "image_size": 31}, ValueError, "image_size must be >= 32.*got 31"),
        ({"length": 2, "image_size": None}, TypeError, "image_size must be an int; got NoneType"),
    ],
)
def test_bad_arguments(arguments, error, words):
    with pytest.raises(error, match=words):
        SyntheticDataset(**arguments)


def test_bad_index_and_label():
    dataset = SyntheticDataset(4, image_size=32)
    with pytest.raises(IndexError, match=r"index must be in \[-4, 4\); got 4"):
        dataset[4]
    with pytest.raises(IndexError, match=r"index must be in \[-4, 4\); got -5"):
        dataset[-5]
    with pytest.raises(TypeError, match="index must be an int; got str"):
        dataset["0"]
    with pytest.raises(ValueError, match="index must be >= 0"):
        draw(0, -1)
    with pytest.raises(ValueError, match=f"label must be < {len(CLASSES)}"):
        draw(0, 0, 32, label=len(CLASSES))
