"""--in-channels 1 and 4 through train, eval, predict, figures, checkpoints and convert."""

import json

import pytest
import torch
from PIL import Image
from runs import refused

from wsdan.checkpoint import load_checkpoint
from wsdan.cli import main
from wsdan.config import Config
from wsdan.constants import IMAGENET_MEAN, IMAGENET_STD
from wsdan.data.images import load_image
from wsdan.data.loaders import val_loader
from wsdan.data.transforms import eval_transform, train_transform
from wsdan.inference.classifier import Classifier
from wsdan.networks.backbones import build_backbone, set_in_channels
from wsdan.networks.model import build_model
from wsdan.networks.scaling import InputScaling
from wsdan.networks.trainable import freeze_unused

RUN = [
    "--backbone", "tiny", "--image-size", "32", "--epochs", "1", "--batch-size", "4",
    "--num-attentions", "4", "--workers", "0", "--log-images", "1", "--no-plots",
]  # fmt: skip


def make_folder(root):
    """Two classes whose images differ in alpha alone."""
    for split in ("train", "val"):
        for label, alpha in {"clear": 20, "solid": 255}.items():
            (root / split / label).mkdir(parents=True)
            for index in range(2):
                image = Image.new("RGBA", (40, 40), (60, 120, 180, alpha))
                image.save(root / split / label / f"{index}.png")
    return root


@pytest.mark.parametrize("channels", [1, 4])
def test_a_run(channels, tmp_path, capsys):
    root, out = make_folder(tmp_path / "data"), tmp_path / "out"
    command = ["train", str(root), *RUN, "--in-channels", str(channels), "--out", str(out)]
    assert main(command) == 0
    assert main([*command, "--resume", "--epochs", "2"]) == 0
    checkpoint = str(out / "last.pt")
    assert main(["eval", "--checkpoint", checkpoint, "--tta"]) == 0
    classifier = Classifier(checkpoint)
    batch = next(iter(val_loader(classifier.config, classifier.classes)))
    assert batch.images.shape == (4, channels, 32, 32)
    capsys.readouterr()
    images = [str(root / "val" / name / "0.png") for name in ("clear", "solid")]
    figures = ["--out", str(tmp_path / "figures")]
    assert main(["explain", "--checkpoint", checkpoint, "--json", images[0], *figures]) == 0
    assert main(["predict", "--checkpoint", checkpoint, "--json", *images[1:]]) == 0
    tops = [json.loads(line)["top"][0] for line in capsys.readouterr().out.splitlines()]
    assert tops[0] != tops[1]
    other = ["train", str(root), *RUN, "--weights", checkpoint, "--out", str(tmp_path / "b")]
    assert f"--in-channels {channels} (here 3)" in refused(capsys, *other)
    again = ["train", "--config", str(out / "config.yaml"), "--out", str(tmp_path / "c")]
    assert main(again) == 0


def test_grey_synthetic_images_train(tmp_path, monkeypatch):
    monkeypatch.setattr("wsdan.data.loaders.SYNTHETIC_TRAIN", 8)
    monkeypatch.setattr("wsdan.data.loaders.SYNTHETIC_VAL", 4)
    command = ["train", *RUN, "--in-channels", "1", "--batch-size", "1", "--accumulate", "2"]
    assert main([*command, "--out", str(tmp_path / "a")]) == 0
    content = load_checkpoint(tmp_path / "a" / "last.pt")
    model = build_model(content["config"], len(content["classes"]))
    assert freeze_unused(model, (1, 32, 32)) == []  # as several ranks call it


def test_inputs(tmp_path):
    Image.new("RGBA", (20, 10), (51, 102, 204, 0)).save(tmp_path / "a.png")
    image = load_image(tmp_path / "a.png", rgba=True)
    colours = torch.tensor([51, 102, 204]) / 255
    expected = (colours - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    for transform in (eval_transform(8, channels=4), eval_transform(8, True, channels=4)):
        pixel = transform(image)[:, 4, 4]
        torch.testing.assert_close(pixel[:3], expected)  # although they are transparent
        assert pixel[3] == -1
    assert train_transform(8, channels=4)(image)[3].eq(-1).all()
    grey = eval_transform(8, channels=1)(load_image(tmp_path / "a.png"))
    white = torch.full((1, 8, 8), (1 - 0.449) / 0.226)  # over which it is composited
    torch.testing.assert_close(
        grey, white, rtol=1e-3, atol=0
    )  # torchvision's weights sum to 0.9999
    Image.new("L", (20, 10), 128).save(tmp_path / "b.png")
    opaque = load_image(tmp_path / "b.png", rgba=True)
    assert opaque.mode == "RGBA"
    assert opaque.getpixel((0, 0)) == (128, 128, 128, 255)


@pytest.mark.parametrize("name", ["tiny", "resnet18"])
def test_a_grey_network_is_that_of_equal_channels(name):
    """On a grey image the summed weights give what the RGB network gives for it three times."""
    torch.manual_seed(0)
    network = build_backbone(name).network.eval()
    images = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        expected = network(images.expand(-1, 3, -1, -1))
        set_in_channels(network, 1)
        torch.testing.assert_close(network(images), expected, rtol=1e-3, atol=1e-4)


def test_a_fourth_channel_and_the_scaling_of_inception():
    scaling = InputScaling((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    network = torch.nn.Sequential(scaling, torch.nn.Conv2d(3, 2, 1, bias=False))
    weight = network[1].weight.detach().clone()
    set_in_channels(network, 4)
    assert torch.equal(network[1].weight, torch.cat((weight, weight[:, :1]), 1) * 0.75)
    images = torch.zeros(1, 4, 1, 1)
    images[0, 3] = 0.7
    assert scaling(images)[0, 3] == images[0, 3]
    assert network(images).shape == (1, 2, 1, 1)


def test_mistakes(tmp_path, capsys):
    root = make_folder(tmp_path / "data")
    for value in ("0", "2", "5", "-1"):
        assert "--in-channels must be 1, 3 or 4" in refused(capsys, "train", "--in-channels", value)
    for options in (["--cache", "ram"], ["--decode", "gpu"]):
        error = refused(capsys, "train", str(root), "--in-channels", "4", *options)
        assert "--in-channels 4 excludes --cache and --decode gpu" in error
    assert "1 or 3 for --data synthetic" in refused(capsys, "train", "--in-channels", "4")
    assert Config().in_channels == 3
