"""--image-size HEIGHTxWIDTH through train, eval, predict, checkpoints and configurations."""

import json

import pytest
import torch
import yaml
from PIL import Image
from runs import refused
from trees import make_tree, write

from wsdan.checkpoint import load_checkpoint
from wsdan.cli import main
from wsdan.config import Config
from wsdan.data.cache import record_bytes
from wsdan.data.loaders import val_loader
from wsdan.data.transforms import box_in_input, box_in_original, eval_transform, train_transform
from wsdan.errors import UserError
from wsdan.inference.classifier import Classifier
from wsdan.networks.model import build_model

RUN = [
    "--backbone", "tiny", "--epochs", "1", "--batch-size", "6", "--num-attentions", "4",
    "--workers", "0", "--log-images", "1",
]  # fmt: skip


def test_a_run_on_rectangles(tmp_path, capsys):
    tree, out = make_tree(tmp_path / "tree", per_class=2), tmp_path / "out"
    command = ["train", str(tree), *RUN, "--image-size", "64x32", "--cache", "ram"]
    assert main([*command, "--out", str(out)]) == 0
    assert "tiny at 64x32 px" in capsys.readouterr().out
    checkpoint = str(out / "last.pt")
    assert load_checkpoint(checkpoint)["config"].image_size == "64x32"
    assert yaml.safe_load((out / "config.yaml").read_text())["image_size"] == "64x32"
    classifier = Classifier(checkpoint)
    batch = next(iter(val_loader(classifier.config, classifier.classes)))
    assert batch.images.shape[1:] == (3, 64, 32)
    assert classifier.model(batch.images).attentions.shape[2:] == (8, 4)
    assert main([*command[:-2], "--out", str(out), "--resume", "--epochs", "2"]) == 0
    again = ["train", "--config", str(out / "config.yaml"), "--out", str(tmp_path / "b")]
    assert main(again) == 0
    for size in ([], ["--image-size", "32x64"], ["--image-size", "48"]):
        assert main(["eval", "--checkpoint", checkpoint, *size]) == 0
    capsys.readouterr()
    Image.new("RGB", (90, 60)).save(tmp_path / "a.png")
    predict = ["predict", "--checkpoint", checkpoint, str(tmp_path / "a.png"), "--json"]
    whole = ["--refine-threshold", "0", "--refine-padding", "1"]
    assert main([*predict, *whole]) == 0
    # The center crop: 32 of 37 pixels in width, 64 of 73 in height (the margins are rounded).
    assert json.loads(capsys.readouterr().out)["box"] == [5, 3, 83, 56]
    explain = ["explain", *predict[1:], *whole, "--out", str(tmp_path / "f")]
    assert main(explain) == 0
    assert json.loads(capsys.readouterr().out)["box"] == [5, 3, 83, 56]


@pytest.mark.parametrize("size", [(64, 32), (32, 64), (48, 48), 48])
def test_transforms_and_boxes_know_height_from_width(size):
    height, width = size if isinstance(size, tuple) else (size, size)
    image = Image.new("RGB", (90, 60))
    for transform in (train_transform(size), eval_transform(size), eval_transform(size, True)):
        assert transform(image).shape == (3, height, width)
    for whole in (False, True):
        inner = [4, 6, 20, 28]
        box = box_in_original(inner, (9000, 6000), size, whole)
        back = box_in_input(tuple(map(float, box)), (9000, 6000), size, whole)
        assert back == pytest.approx(inner, abs=0.01)
    left, top, right, bottom = box_in_original([0, 0, width, height], (9000, 6000), size, True)
    assert (left, top, right, bottom) == (0, 0, 9000, 6000)


def test_a_known_box_is_where_the_object_is(tmp_path):
    """A white rectangle on black: the input's bright pixels are those of its box."""
    image = Image.new("RGB", (200, 100))
    image.paste((255, 255, 255), (60, 40, 120, 80))
    image.save(tmp_path / "a.png")
    write(tmp_path / "val.csv", ["path,label,x1,y1,x2,y2", "a.png,a,60,40,120,80"])
    config = Config(data="csv", root=str(tmp_path), image_size="112x56", workers=0).resolved()
    batch = next(iter(val_loader(config, ["a", "b"])))
    rows, columns = (batch.images[0, 0] > 0).nonzero().unbind(dim=1)
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    torch.testing.assert_close(batch.boxes[0], torch.stack(found).float(), atol=1, rtol=0)


def test_a_square_is_one_number():
    assert Config(image_size=448).resolved().input_size == (448, 448)
    with pytest.raises(UserError, match="at least the stride of tiny .8 pixels.; got 4x64"):
        build_model(Config(data="csv", root=".", backbone="tiny", image_size="4x64").resolved(), 2)
    assert record_bytes((32, 64)) == record_bytes((64, 32)) != record_bytes(32)
    assert record_bytes((32, 32)) == record_bytes(32)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        ("0x32", "--image-size must be at least 1; got 0x32"),
        ("32x9000", "--image-size must be at most 8192; got '32x9000'"),
        ("32x", "invalid image_size value: '32x'"),
        ("x32", "invalid image_size value: 'x32'"),
        ("32x32x32", "invalid image_size value"),
        ("32X64", "invalid image_size value"),
        ("-32x64", "--image-size must be at least 1"),
    ],
)
def test_mistakes(size, text, tmp_path, capsys):
    tree = tmp_path / "tree"
    (tree / "train").mkdir(parents=True)
    (tree / "val").mkdir()
    command = ["train", "--data", "folder", "--root", tree, *RUN, "--out", tmp_path / "out"]
    assert text in refused(capsys, *command, f"--image-size={size}")
    assert "must be one number for --data synthetic" in refused(
        capsys, "train", "--image-size", "64x32"
    )
    (tmp_path / "a.yaml").write_text("image_size: 3,2\n")
    error = refused(capsys, "train", "--config", tmp_path / "a.yaml")
    assert "image_size must be N or HEIGHTxWIDTH, got '3,2'" in error
