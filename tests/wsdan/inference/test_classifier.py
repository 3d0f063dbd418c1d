"""Calling a Classifier: every kind of image gives the file's result, and others are refused."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from wsdan import Classifier, Result
from wsdan.checkpoint import save_checkpoint
from wsdan.config import Config
from wsdan.errors import UserError
from wsdan.inference.inputs import read_image
from wsdan.networks.model import build_model

CLASSES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    torch.manual_seed(0)
    config = Config("folder", ".", image_size=32, backbone="tiny", num_attentions=2).resolved()
    path = tmp_path_factory.mktemp("run") / "best.pt"
    save_checkpoint(path, config, CLASSES, {"model": build_model(config, 3).state_dict()})
    return Classifier(path)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(256, size=(50, 70, 3), dtype=np.uint8)


def assert_same(found: Result, expected: Result) -> None:
    assert found.size == expected.size == (70, 50)
    assert found.top == expected.top
    assert found.box == expected.box
    assert np.array_equal(found.attention, expected.attention)


def test_every_kind_of_image_gives_the_result_of_the_file(classifier, pixels, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    expected = classifier(path)
    assert isinstance(expected, Result)
    planes = torch.from_numpy(pixels).permute(2, 0, 1)
    opaque = np.full((50, 70, 1), 255, dtype=np.uint8)
    images = [
        str(path), Image.fromarray(pixels), Image.open(path), pixels, pixels[:, ::-1][:, ::-1],
        pixels.astype(np.float64) / 255, (pixels / 255).astype(np.float32),
        np.concatenate((pixels, opaque), axis=2), planes, planes / 255, (planes / 255).double(),
        (planes / 255).requires_grad_(), torch.cat((planes, planes.new_full((1, 50, 70), 255))),
    ]  # fmt: skip
    for image in images:
        assert_same(classifier(image), expected)
    mixed = classifier(images, batch_size=5)
    assert len(mixed) == len(images)
    assert [result.image for result in mixed] == [str(path)] + [None] * (len(images) - 1)
    for result in mixed:  # of a batch, whose sums may be taken in another order
        assert result.score == pytest.approx(expected.score, abs=1e-6)
        assert result.box == expected.box


def test_batches_lists_and_streams(classifier, pixels):
    planes = torch.from_numpy(pixels).permute(2, 0, 1)
    batch = torch.stack((planes, planes.flip(2)))
    expected = classifier([planes, planes.flip(2)])
    for found in (classifier(batch), list(classifier.stream(item for item in batch))):
        assert len(found) == 2
        for ours, theirs in zip(found, expected, strict=True):
            assert_same(ours, theirs)
    assert classifier([]) == [] == classifier(batch[:0])
    drawn = []
    stream = classifier.stream((drawn.append(1) or pixels for _ in range(100)), batch_size=2)
    next(stream)
    assert len(drawn) == 2  # no more than a batch


def test_grey_transparent_and_rotated_images(classifier, pixels, tmp_path):
    def found(image):
        return read_image(image, 10**6)

    grey = np.asarray(found(pixels[:, :, 0]))
    assert np.array_equal(grey, np.repeat(pixels[:, :, :1], 3, axis=2))
    assert np.array_equal(found(torch.from_numpy(pixels[None, :, :, 0])), grey)
    for bright in (np.full((4, 5), 0.999), torch.full((3, 4, 5), 0.999)):  # rounded, not cut
        assert np.asarray(found(bright)).min() == 255
    clear = np.zeros((4, 5, 4), dtype=np.float16)
    assert np.asarray(found(clear)).min() == 255  # over white, as a file
    assert read_image(clear, 100, rgba=True).getpixel((0, 0)) == (0, 0, 0, 0)
    turned = Image.fromarray(pixels)
    turned.getexif()[0x0112] = 6
    turned.save(tmp_path / "a.jpg", exif=turned.getexif())
    from_file = found(tmp_path / "a.jpg")
    assert from_file.size == (50, 70)
    assert np.array_equal(found(Image.open(tmp_path / "a.jpg")), from_file)
    assert found(turned).size == (50, 70) and turned.size == (70, 50)


WRONG = {
    "a dict": ({}, TypeError, "images must be a path, .*or a list of them, but got a dict"),
    "None": (None, TypeError, "but got None"),
    "a generator": ((i for i in ()), TypeError, "but got a generator; stream"),
    "a set": ({"a.png"}, TypeError, "but got a set"),
    "a number in a list": ([3], TypeError, r"images\[0\] must be a path, .* but got 3"),
    "a batch in a list": (
        [torch.zeros(1, 3, 4, 4)], ValueError, r"images\[0\] must be .*\(C,H,W\).*\(1, 3, 4, 4\)",
    ),
    "an array with planes first": (np.zeros((3, 9, 9), np.uint8), ValueError, r"\(H,W\), .*\(3, 9"),
    "an array of batches": (np.zeros((2, 9, 9, 3), np.uint8), ValueError, r"got \(2, 9, 9, 3\)"),
    "an empty array": (np.zeros((0, 9, 3), np.uint8), ValueError, r"got \(0, 9, 3\)"),
    "an empty tensor": (torch.zeros(3, 0, 9), ValueError, r"got \(3, 0, 9\)"),
    "two channels": (torch.zeros(2, 9, 9), ValueError, r"1, 3 or 4 channels, but got \(2, 9, 9\)"),
    "a matrix": (torch.zeros(9, 9), ValueError, r"got \(9, 9\)"),
    "integers": (np.zeros((9, 9), np.int64), TypeError, "uint8 or floats, but got int64"),
    "objects": (np.full((9, 9), None), TypeError, "uint8 or floats, but got object"),
    "a long tensor": (torch.zeros(3, 9, 9).long(), TypeError, "but got torch.int64"),
    "a complex tensor": (torch.zeros(3, 9, 9) + 0j, TypeError, "but got torch.complex64"),
    "floats to 255": (np.full((9, 9), 255.0), ValueError, r"floats in \[0, 1\], but got \[255, "),
    "a normalized tensor": (torch.full((3, 9, 9), -2.0), ValueError, r"\[-2, -2\]; normalized"),
    "NaN": (torch.full((3, 9, 9), math.nan), ValueError, r"but got \[nan, nan\]"),
    "one NaN": (np.array([[0.5, math.nan]]), ValueError, r"but got \[nan, nan\]"),
    "infinity": (torch.full((3, 9, 9), math.inf), ValueError, r"but got \[inf, inf\]"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_image_is_refused(classifier, name):
    images, kind, message = WRONG[name]
    with pytest.raises(kind, match=f"^Classifier: {'' if 'images' in message else '.*'}{message}"):
        classifier(images)


def test_what_is_no_list_of_images_is_no_stream(classifier):
    for images in ("a.png", 3, {}, np.zeros((2, 4, 4, 3))):
        with pytest.raises(TypeError, match="must be several images"):
            list(classifier.stream(images))


def test_unreadable_files(classifier, tmp_path):
    missing, damaged = tmp_path / "no.png", tmp_path / "half.png"
    Image.fromarray(np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)).save(
        tmp_path / "whole.png"
    )
    damaged.write_bytes((tmp_path / "whole.png").read_bytes()[:5000])
    for image in (missing, damaged, Image.open(damaged), [tmp_path / "whole.png", damaged]):
        with pytest.raises(UserError, match=r"(no|half)\.png: not a readable image: ") as caught:
            classifier(image)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "top must be at least 1, but got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, but got 0"),
        ({"threshold": 1.5}, r"threshold must be in \[0, 1\], but got 1.5"),
        ({"threshold": math.nan}, r"threshold must be in \[0, 1\], but got nan"),
    ],
)
def test_numbers_out_of_range(classifier, pixels, options, message):
    for call in (classifier, classifier.stream):
        with pytest.raises(ValueError, match=message):
            call([pixels], **options)


def test_the_device(classifier, tmp_path):
    assert classifier.device == torch.device("cpu")  # "auto" where there is no GPU
    for device in ("gpu", "cuda", "cuda:7"):
        with pytest.raises(ValueError, match=f"device must be .*, but got '?{device}"):
            Classifier(tmp_path / "none.pt", device)


def test_a_result(classifier, pixels):
    result = classifier(pixels, top=2)
    best = result.top[0]
    assert result.label == best["class"] and result.score == best["mean"]
    assert [len(result.top), len(classifier(pixels, top=9).top)] == [2, 3]
    assert result.attention.dtype == np.float32 and result.attention.ndim == 2
    x1, y1, x2, y2 = result.box
    assert 0 <= x1 < x2 <= 70 and 0 <= y1 < y2 <= 50
    text = f"<Result image: {result.label} {result.score:.3f}, box {x1} {y1} {x2} {y2}>"
    assert repr(result) == text
    named = dataclasses.replace(result, image="a\nb.png", box=None, threshold=1.0)
    assert repr(named) == rf"<Result a\nb.png: unknown {result.score:.3f}>"
    assert named.label == "unknown"
    assert json.loads(json.dumps(result.to_dict()))["label"] == result.label
