"""Backbones, the model, the objective and the evaluation."""

import pytest
import torch
from source_networks import zero_initialization
from torch.nn import functional as F

from wsdan.config import Config
from wsdan.errors import UserError
from wsdan.inference.evaluate import predict_views
from wsdan.networks.backbones import build_backbone
from wsdan.networks.model import WSDAN, PlainClassifier, build_model
from wsdan.training.objective import baseline_objective, training_views, wsdan_objective
from wsdan_kernels import attend_and_pool


@pytest.fixture
def model():
    torch.manual_seed(0)
    return WSDAN("tiny", num_classes=3, num_attentions=4)


def random_images(count=4, size=64):
    return torch.randn((count, 3, size, size), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "channels", "stride"),
    [
        ("tiny", 64, 8),
        ("resnet18", 512, 32),
        ("resnet18:layer3", 256, 16),
        ("inception_v3", 768, 18),
        ("efficientnet_b0", 1280, 32),
        ("swin_t", 768, 32),
    ],
)
def test_backbones(name, channels, stride):
    backbone = build_backbone(name)
    assert (backbone.channels, backbone.stride) == (channels, stride)
    assert backbone.network.training
    features = backbone.network.eval()(random_images(1, 96))
    assert features.shape[:2] == (1, channels)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("resnet17", "torchvision has no classification model 'resnet17'"),
        (
            "resnet18:layer9",
            "no layer 'layer9'; the closest are resnet18:layer4, resnet18:layer3, resnet18:la",
        ),
        ("vit_b_16:heads", r"output has shape \(1, 1000\), but a feature map"),
        ("resnet18:fc", r"output has shape \(1, 1000\), but a feature map"),
    ],
)
def test_wrong_backbones(name, text):
    with zero_initialization(), pytest.raises(UserError, match=text):
        build_backbone(name)


def test_timm_backbone():
    pytest.importorskip("timm", reason="timm is an extra")
    assert build_backbone("timm/resnet18").channels == 512


def test_model_output(model):
    output = model(random_images())
    assert output.logits.shape == (4, 3)
    assert output.pooled.shape == (4, 4 * 64)
    assert output.attentions.shape == (4, 4, 8, 8)
    torch.testing.assert_close(output.pooled.norm(dim=1), torch.ones(4))
    expected = F.linear(100 * output.pooled, model.classifier.weight, model.classifier.bias)
    torch.testing.assert_close(output.logits, expected)
    assert "centers.centers" in model.state_dict()


def test_attention_by_channel_slice():
    model = WSDAN("tiny", num_classes=3, num_attentions=4, attention="slice").eval()
    features = model.backbone(random_images())
    assert torch.equal(model(random_images()).attentions, features[:, :4])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_attentions": 0}, "num_attentions must be at least 1, but got 0"),
        ({"num_classes": 1}, "num_classes must be at least 2, but got 1"),
        ({"attention": "none"}, "attention must be one of .* but got 'none'"),
        ({"attention": "slice", "num_attentions": 65}, "at most the backbone's 64 channels"),
    ],
)
def test_wrong_models(options, text):
    with pytest.raises(ValueError, match=text):
        WSDAN("tiny", **{"num_classes": 3, **options})


def test_an_image_smaller_than_the_stride_is_refused():
    config = Config(
        data="folder", root="x", backbone="resnet18", image_size=31, pretrained=False
    ).resolved()
    with pytest.raises(UserError, match=r"at least the stride of resnet18 \(32 pixels\); got 31"):
        build_model(config, 4)
    config = Config(
        data="folder", root="x", backbone="inception_v3", image_size=40, pretrained=False
    ).resolved()
    with pytest.raises(UserError, match="--image-size 40 does not suit the model"):
        build_model(config, 4)


def test_objective_by_its_definition(model):
    """The loss recomputed from the views it returns; batch norm in evaluation mode."""
    model.backbone.eval()
    model.attention.eval()
    images, labels = random_images(), torch.tensor([0, 1, 2, 1])
    model.centers.centers.normal_(generator=torch.Generator().manual_seed(5))
    centers = model.centers.centers.clone()
    result = wsdan_objective(
        model, images, labels, center_weight=0.7, generator=torch.Generator().manual_seed(2)
    )
    raw = model(images)
    chosen = F.normalize(centers[labels], dim=1)
    center = (raw.pooled - chosen).square().sum() / 4
    entropy = [
        F.cross_entropy(model(view).logits, labels)
        for view in (images, result["crops"], result["drops"])
    ]
    torch.testing.assert_close(result["loss"], sum(entropy) / 3 + 0.7 * center)
    torch.testing.assert_close(result["center"], center)
    assert torch.equal(result["logits"], raw.logits)
    expected = centers.index_add(0, labels, 0.05 * (raw.pooled - chosen).detach())
    torch.testing.assert_close(model.centers.centers, expected)


def test_objective_reaches_every_weight_and_runs_within_one_generator(model):
    labels = torch.tensor([0, 1, 2, 1])
    losses = []
    for _ in range(2):
        model.zero_grad()
        model.centers.centers.zero_()
        model.eval()
        result = wsdan_objective(
            model, random_images(), labels, generator=torch.Generator().manual_seed(9)
        )
        losses.append(float(result["loss"].detach()))
    assert losses[0] == losses[1]
    result["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_training_views_crop_and_erase_what_the_map_shows():
    images = torch.ones(2, 3, 40, 40)
    images[:, :, 10:20, 20:30] = 5.0
    attentions = torch.zeros(2, 3, 20, 20)
    attentions[:, 1, 5:10, 10:15] = 1.0  # the only map with mass
    crops, drops = training_views(images, attentions, torch.rand(2, 4))
    assert crops.shape == drops.shape == images.shape
    assert (crops == 5).float().mean() > (images == 5).float().mean() * 2
    assert not (drops == 5).any()
    assert (drops == 1).float().mean() > 0.7


def test_plain_classifier():
    model = PlainClassifier(build_backbone("tiny"), 3).eval()
    result = baseline_objective(
        model, random_images(), torch.tensor([0, 1, 2, 1]), center_weight=1.0
    )
    assert torch.equal(
        result["loss"], F.cross_entropy(result["logits"], torch.tensor([0, 1, 2, 1]))
    )
    prediction = predict_views(model, random_images(), Config().resolved())
    assert prediction.refined is None
    assert prediction.boxes is None


def test_inference_takes_attention_and_pooling_in_one_pass(model, monkeypatch):
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model(images)  # moves the running statistics
    model.eval()
    calls = []
    monkeypatch.setattr(
        "wsdan.networks.model.attend_and_pool",
        lambda *arguments, **options: calls.append(1) or attend_and_pool(*arguments, **options),
    )
    expected = model(images)
    assert not calls
    with torch.no_grad():
        found = model(images)
    assert calls
    for value, truth in zip(found[:3], expected[:3], strict=True):
        torch.testing.assert_close(value, truth.detach())
    torch.nn.init.constant_(model.attention[1].running_var, 4.0)
    with torch.no_grad():
        assert not torch.equal(model(images).attentions, found.attentions)
