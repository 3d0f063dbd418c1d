"""Backbones by name, and the weights they start from."""

import pickle
import re

import pytest
import torch
import torchvision
from source_networks import zero_initialization
from torch import nn
from trees import make_tree

from wsdan.cli import main
from wsdan.config import Config
from wsdan.constants import IMAGENET_MEAN, IMAGENET_STD
from wsdan.errors import UserError
from wsdan.inference.classifier import Classifier
from wsdan.networks.backbones import build_backbone
from wsdan.networks.model import WSDAN, build_model
from wsdan.networks.torchvision_backbones import HALF_MEAN_MODELS


def random_images(count=2, size=96):
    return torch.randn((count, 3, size, size), generator=torch.Generator().manual_seed(1))


def settings(**options) -> Config:
    small = {"data": "folder", "root": "x", "backbone": "resnet18", "image_size": 64}
    small |= {"num_attentions": 4, "pretrained": False}
    return Config(**{**small, **options}).resolved()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "channels", "stride"),
    [
        ("inception_v3:Mixed_7c", 2048, 40),
        ("vgg11_bn", 512, 32),
        ("resnet50:layer4:16", 2048, 16),
        ("convnext_tiny:features.3", 192, 8),
        ("googlenet", 1024, 32),
        ("densenet121:features.transition2", 256, 16),
        ("mobilenet_v3_small", 576, 32),
        ("mnasnet0_5", 1280, 32),
        ("shufflenet_v2_x0_5", 1024, 32),
        ("regnet_y_400mf", 440, 32),
        ("timm/resnet18:2", 128, 8),
        ("timm/convnext_atto", 320, 32),
        ("timm/tf_efficientnet_lite0", 1280, 32),
        ("timm/regnety_002.pycls_in1k", 368, 32),
    ],
)
def test_backbones_train(name, channels, stride):
    if name.startswith("timm/"):
        pytest.importorskip("timm", reason="timm is an extra")
    backbone = build_backbone(name)
    assert (backbone.channels, backbone.stride) == (channels, stride)
    model = WSDAN(backbone, num_classes=3, num_attentions=4)
    output = model(random_images(2, 112))
    assert output.attentions.shape[:2] == (2, 4)
    output.logits.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert model.attention[0].weight.grad.abs().max() > 0


def test_transformers_of_timm_give_maps_at_their_own_size():
    pytest.importorskip("timm", reason="timm is an extra")
    vit = build_backbone("timm/vit_tiny_patch16_224:11")
    assert (vit.channels, vit.stride) == (192, 16)
    swin = build_backbone("timm/swin_tiny_patch4_window7_224")
    assert (swin.channels, swin.stride) == (768, 32)
    with pytest.raises(UserError, match=r"\(1, 197, 192\), but a feature map"):
        build_backbone("timm/vit_tiny_patch16_224")
    with pytest.raises(UserError, match="--image-size 64 does not suit the model: Input height"):
        build_model(settings(backbone="timm/vit_tiny_patch16_224:11"), 3)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224:3", "eva02_tiny_patch14_224:3"])
def test_stages_of_transformers_take_weights_and_train_all_they_have(name):
    """No unused parameter: DistributedDataParallel waits for every gradient."""
    timm = pytest.importorskip("timm", reason="timm is an extra")
    theirs = timm.create_model(name.partition(":")[0]).eval()
    backbone = build_backbone(f"timm/{name}", weights=theirs.state_dict())
    images = random_images(1, 224)
    scaled = backbone.network.scaling(images)
    (features,) = theirs.forward_intermediates(scaled, indices=[3], intermediates_only=True)
    assert torch.equal(backbone.network.eval()(images), features)
    backbone.network(images).sum().backward()
    unused = [key for key, p in backbone.network.named_parameters() if p.grad is None]
    assert unused == []


@pytest.mark.slow
def test_transformers_of_torchvision(capfd):
    """MaxViT takes one size; ViT gives no map, and a stage of Swin has its channels last."""
    with (
        zero_initialization(),
        pytest.raises(UserError, match="--image-size 96 does not suit the model"),
    ):
        build_model(settings(backbone="maxvit_t", image_size=96), 3)
    assert capfd.readouterr().err == ""
    for name, shape in (("vit_b_32", "(1, 50, 768)"), ("swin_t:features.1", "(1, 80, 80, 96)")):
        text = f"--backbone {name}: its output has shape {shape}, but a feature map (B, C, h, w)"
        match = re.escape(text) + ".*timm/NAME:STAGE"
        with zero_initialization(), pytest.raises(UserError, match=match):
            build_backbone(name)


def test_images_are_scaled_as_the_published_weights_expect():
    """Scaled are the models whose weights ask for it, and Inception v3 and GoogLeNet, which
    torchvision scales itself: the features are the same bit for bit."""
    others = []
    for name in torchvision.models.list_models(module=torchvision.models):
        preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
        if (tuple(preset.mean), tuple(preset.std)) != (IMAGENET_MEAN, IMAGENET_STD):
            assert tuple(preset.mean) == tuple(preset.std) == (0.5, 0.5, 0.5)
            others.append(name)
    assert {*others, "inception_v3", "googlenet"} == set(HALF_MEAN_MODELS)
    theirs = torchvision.models.googlenet(weights=None, init_weights=True, transform_input=True)
    ours = build_backbone("googlenet:inception3a", weights=theirs.state_dict()).network.eval()
    kept = {}
    theirs.eval().inception3a.register_forward_hook(
        lambda _, __, output: kept.update(features=output)
    )
    theirs(random_images())
    assert torch.equal(ours(random_images()), kept["features"])


def test_a_checkpoint_without_scaling_is_not_scaled():
    network = build_backbone("googlenet:inception3a").network.eval()
    scaled = network(random_images())
    state = {key: value for key, value in network.state_dict().items() if "scaling" not in key}
    network.load_state_dict(state)
    assert torch.equal(network(random_images()), network.body(random_images())["features"])
    assert not torch.equal(network(random_images()), scaled)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "inception_v3", "densenet121:features.denseblock1"])
def test_pretrained_and_a_file_of_the_same_weights_are_one_model(name, tmp_path, monkeypatch):
    """The published weights lie in torchvision's folder, where they would have been fetched to."""
    model_name = name.partition(":")[0]
    options = {"init_weights": False} if model_name == "inception_v3" else {}
    published = torchvision.models.get_model(model_name, weights=None, **options).state_dict()
    url = torchvision.models.get_model_weights(model_name).DEFAULT.url
    file = tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.save(published, file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    models = []
    for start in ({"pretrained": True}, {"weights": str(file)}):
        torch.manual_seed(0)
        models.append(build_model(settings(backbone=name, image_size=112, **start), 3).eval())
    first, second = (model.state_dict() for model in models)
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    body = {k.removeprefix("body."): v for k, v in models[0].backbone.state_dict().items()}
    body = {key: value for key, value in body.items() if not key.startswith("scaling.")}
    assert len(body) > 10
    assert all(torch.equal(value, published[key]) for key, value in body.items())


def test_old_keys_of_densenet_are_read():
    new = torchvision.models.densenet121(weights=None).state_dict()
    old = {re.sub(r"\.(norm|conv)([12])\.", r".\1.\2.", key): value for key, value in new.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    network = build_backbone("densenet121:features.denseblock1", weights=old).network
    key = "features.denseblock1.denselayer1.norm1.weight"
    assert torch.equal(network.body.state_dict()[key], new[key])


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_of_timm_from_a_file(suffix, tmp_path):
    timm = pytest.importorskip("timm", reason="timm is an extra")
    theirs = timm.create_model("resnet18", num_classes=7).eval()
    file = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        safetensors = pytest.importorskip("safetensors.torch", reason="comes with timm")
        safetensors.save_file(theirs.state_dict(), file)
    else:
        torch.save({"epoch": 3, "state_dict": theirs.state_dict()}, file)
    for name, features in (
        ("timm/resnet18", theirs.forward_features(random_images())),
        ("timm/resnet18:3", theirs.forward_intermediates(
            random_images(), indices=[3], intermediates_only=True)[0]),
    ):  # fmt: skip
        model = build_model(settings(backbone=name, weights=str(file)), 3).eval()
        assert torch.equal(model.backbone(random_images()), features)


def test_weights_that_do_not_fit_are_named(tmp_path):
    fit = torchvision.models.resnet18(weights=None, num_classes=9).state_dict()  # any classifier
    build_backbone("resnet18", weights=fit)
    build_backbone("resnet18", weights={k: v for k, v in fit.items() if "num_batches" not in k})
    cases = [
        ({**fit, "extra.weight": torch.zeros(1)}, "unknown: extra.weight"),
        ({k: v for k, v in fit.items() if k != "conv1.weight"}, "missing: conv1.weight"),
        (
            {**fit, "conv1.weight": torch.zeros(64, 3, 3, 3)},
            r"of another shape: conv1.weight \(64, 3, 3, 3\) for \(64, 3, 7, 7\)$",
        ),
        (
            {**fit, "layer2.0.downsample.0.weight": torch.zeros(9, 9, 9, 9)},
            r"of another shape: layer2.0.downsample.0.weight \(9, 9, 9, 9\) for \(128, 64, 1, 1\)$",
        ),
        (torchvision.models.resnet34(weights=None).state_dict(), r"unknown: .* \(96 keys\)"),
    ]
    for state, text in cases:
        with pytest.raises(UserError, match=f"--weights of --backbone resnet18: {text}"):
            build_backbone("resnet18", weights=state)


class Hostile:
    def __reduce__(self):
        return print, ("run",)


def test_files_that_are_no_weights(tmp_path, capsys):
    file = tmp_path / "weights.pth"
    cases = [
        (lambda: file.write_bytes(pickle.dumps(Hostile(), protocol=2)), "cannot be read"),
        (lambda: torch.save({"state_dict": {"a": Hostile()}}, file), "cannot be read"),
        (lambda: file.write_bytes(b""), "cannot be read"),
        (lambda: file.write_text("<!DOCTYPE html>"), "it was not written by torch.save"),
        (lambda: torch.save(nn.Linear(1, 1), file), "of a whole model, save the state_dict"),
        (lambda: torch.save(nn.Linear(1, 1).weight, file), "got a Parameter"),
        (lambda: torch.save({"a": 1}, file), "must hold weights by name; got also a"),
        (file.unlink, "no such file"),
        (file.mkdir, "is a folder"),
    ]
    for make, text in cases:
        make()
        with pytest.raises(UserError, match=f"--weights: {re.escape(str(file))}.*{text}") as error:
            build_model(settings(weights=str(file)), 3)
        assert "weights_only" not in str(error.value)  # torch would advise to unpickle without it
    assert capsys.readouterr().out == ""


def test_a_custom_attention_module():
    """A module of the caller, at another resolution than the features."""
    own = nn.Sequential(nn.Conv2d(64, 4, 1), nn.Sigmoid(), nn.AvgPool2d(2))
    model = WSDAN("tiny", num_classes=3, num_attentions=4, attention=own)
    output = model(random_images(2, 64))
    assert output.attentions.shape == (2, 4, 4, 4)
    output.logits.sum().backward()
    assert own[0].weight.grad.abs().max() > 0
    with torch.no_grad():
        assert model.eval()(random_images(2, 64)).logits.shape == (2, 3)
    wrong = WSDAN("tiny", num_classes=3, num_attentions=5, attention=own)
    with pytest.raises(ValueError, match="attention must give 5 maps, but got 4"):
        wrong(random_images(2, 64))


def test_epsilon_of_the_pooling():
    models = []
    for eps in (1e-12, 0.5):
        torch.manual_seed(0)
        models.append(WSDAN("tiny", num_classes=3, num_attentions=4, pool_eps=eps).eval())
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            features, maps = (
                models[1].backbone(random_images()),
                models[1](random_images()).attentions,
            )
            product = (maps[:, :, None] * features[:, None]).mean((3, 4)).flatten(1)
            root = product.sign() * (product.abs() + 0.5).sqrt()
            expected = nn.functional.normalize(root, dim=1)
            torch.testing.assert_close(models[1](random_images()).pooled, expected)
            assert not torch.allclose(models[0](random_images()).pooled, expected, atol=1e-3)


@pytest.mark.slow
def test_weights_start_a_run_and_are_not_needed_again(tmp_path, capsys):
    """A run from a file, another from its checkpoint, one resumed; then the files are gone."""
    root, file = make_tree(tmp_path / "data"), tmp_path / "weights.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), file)
    common = ["train", "--data", "folder", "--root", str(root), "--backbone", "resnet18:layer2",
              "--image-size", "32", "--num-attentions", "2", "--workers", "0", "--log-images", "0",
              "--batch-size", "6", "--no-plots"]  # fmt: skip
    first, second = tmp_path / "first", tmp_path / "second"
    assert main([*common, "--epochs", "1", "--weights", str(file), "--out", str(first)]) == 0
    best = first / "best.pt"
    start = [*common, "--weights", str(best), "--out", str(second)]
    assert main([*start, "--epochs", "1"]) == 0
    file.unlink()
    best.unlink()
    capsys.readouterr()
    assert main([*start, "--epochs", "2", "--resume"]) == 0
    classifier = Classifier(second / "last.pt")
    assert classifier.config.weights == str(best)
    assert classifier(root / "train" / "red" / "0.png").top
