"""torch.export of the models, and the input that their docstrings describe."""

import io

import pytest
import torch
from PIL import Image
from torch.export import Dim
from torchvision.transforms.v2 import functional as F

from wsdan.checkpoint import save_checkpoint
from wsdan.config import Config
from wsdan.inference.classifier import Classifier
from wsdan.networks.backbones import build_backbone
from wsdan.networks.model import WSDAN, Output, PlainClassifier, build_model


@pytest.mark.parametrize("kind", ["wsdan", "plain", "gradients"])
def test_a_saved_program_gives_the_same_output(kind):
    """Of any number of images, and as an Output."""
    torch.manual_seed(0)
    if kind == "plain":
        model = PlainClassifier(build_backbone("tiny"), 3).eval()
    else:
        model = WSDAN("tiny", num_classes=3, num_attentions=4).eval()
    file = io.BytesIO()
    with torch.set_grad_enabled(kind == "gradients"):
        shapes = {"images": {0: Dim("batch")}}
        program = torch.export.export(model, (torch.randn(2, 3, 32, 32),), dynamic_shapes=shapes)
        torch.export.save(program, file)
        file.seek(0)
        loaded = torch.export.load(file).module()
        images = torch.randn(3, 3, 32, 32)
        found, expected = loaded(images), model(images)
    assert type(found) is Output
    for ours, theirs in zip(expected, found, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.equal(ours, theirs)


def test_a_classifier_reads_images_as_documented(tmp_path):
    config = Config("folder", ".", image_size=32, backbone="tiny", num_attentions=2).resolved()
    state = build_model(config, 3).state_dict()
    save_checkpoint(tmp_path / "best.pt", config, ["a", "b", "c"], {"model": state})
    pixels = torch.randint(256, (50, 70, 3), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "a.png")
    resized = F.resize(Image.fromarray(pixels.numpy()), [round(32 / 0.875)] * 2)
    square = F.to_dtype(F.pil_to_tensor(F.center_crop(resized, [32])), scale=True)
    expected = F.normalize(square, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    classifier = Classifier(tmp_path / "best.pt")
    found = classifier.inputs([classifier.read(tmp_path / "a.png")])
    assert torch.equal(found[0], expected)
