"""Checkpoints of published implementations, converted: the same logits, maps and centers."""

import pickle
from collections import OrderedDict

import numpy as np
import pytest
import source_networks
import torch

from wsdan.checkpoint import load_checkpoint
from wsdan.cli import main
from wsdan.config import Config
from wsdan.data.samples import ImageRecord, Listing, assign_labels
from wsdan.errors import UserError
from wsdan.inference.classifier import Classifier
from wsdan.networks.convert import _class_names as class_names
from wsdan.networks.convert import _origin as origin_of
from wsdan.networks.convert import convert as convert_checkpoint
from wsdan.networks.model import build_model
from wsdan.networks.published import from_sequential, from_wvinzh
from wsdan.recipes import RECIPES


@pytest.fixture(autouse=True)
def small_inputs(monkeypatch):
    """Models are built for inputs of the sources' side instead of the paper's 448 pixels."""
    monkeypatch.setitem(RECIPES["paper"], "image_size", source_networks.SIDE)
    monkeypatch.setattr("wsdan.networks.backbones._PROBE_SIZE", 2 * source_networks.SIDE)


GUYUC, CAL = 1e-12, 1e-6  # inside the signed root
LOSSES = {"guyuc": "Raw Acc (1, 2), Crop Acc (1, 2), Drop Acc (1, 2)", "cal": "Aux Acc (1, 2)"}


def convert(*arguments) -> str:
    with source_networks.zero_initialization():
        return convert_checkpoint(*arguments)


def sequential(kind: str) -> source_networks.Sequential:
    """A network by implementation, backbone and variant."""
    eps = CAL if kind.startswith("cal") else GUYUC
    stride = 1 if kind.startswith("cal") else 2
    layers, channels = {
        "6e": lambda: (source_networks.inception("Mixed_6e"), 768),
        "7c": lambda: (source_networks.inception("Mixed_7c"), 2048),
        "resnet18": lambda: (source_networks.resnet("resnet18", stride, bias=True), 512),
        "resnet50": lambda: (source_networks.resnet("resnet50", stride, bias=False), 2048),
        "vgg11_bn": lambda: (source_networks.vgg("vgg11_bn"), 512),
    }[kind.split()[1]]()
    return source_networks.Sequential(layers, channels, eps, "bias" in kind, "slice" in kind)


def write(path, network, kind: str, old_format: bool = False):
    """Save as the sources do: a log with numbers of numpy, the weights, the centers."""
    dim = network.fc.in_features
    logs = {
        "epoch": 3,
        "lr": 0.001,
        "train_info": LOSSES[kind.split()[0]],
        "val_topk_accuracy": np.array([50.0, 90.0]),
        "val_loss": np.float64(1.5),
    }
    content = {
        "logs": logs,
        "state_dict": OrderedDict(network.state_dict()),
        "feature_center": torch.randn(5, dim),
    }
    torch.save(content, path, _use_new_zipfile_serialization=not old_format)
    return content


@torch.no_grad()
def assert_same_outputs(network, checkpoint, size: int = source_networks.SIDE):
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))
    logits, maps = network(images)
    with source_networks.zero_initialization():
        model = Classifier(checkpoint, fold=False).model  # folding rounds differently
    torch.testing.assert_close(model(images).logits, logits, atol=1e-4, rtol=0)
    model.to(
        memory_format=torch.contiguous_format
    )  # as the source: another layout rounds differently
    output = model(images)
    assert logits.std() > 0.05
    torch.testing.assert_close(output.logits, logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(output.attentions, maps, atol=1e-4, rtol=0)
    torch.testing.assert_close(output.pooled.norm(dim=1), torch.ones(2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "backbone", "attention"),
    [
        ("guyuc 6e bias", "inception_v3:Mixed_6e", "conv"),
        ("guyuc 7c bias", "inception_v3:Mixed_7c", "conv"),
        ("guyuc 7c slice", "inception_v3:Mixed_7c", "slice"),
        ("guyuc resnet18", "resnet18:layer4", "conv"),
        ("guyuc vgg11_bn bias", "vgg11_bn:features", "conv"),
        ("cal 6e", "inception_v3:Mixed_6e", "conv"),
        ("cal 7c slice", "inception_v3:Mixed_7c", "slice"),
        ("cal resnet50", "resnet50:layer4:16", "conv"),
    ],
)
def test_sequential_sources(kind, backbone, attention, tmp_path, capsys):
    network = source_networks.settle(sequential(kind), seed=1)
    source, out = tmp_path / "source.ckpt", tmp_path / "out.pt"
    content = write(source, network, kind, old_format="bias" in kind)
    with source_networks.zero_initialization():
        assert main(["convert", str(source), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"{backbone}, 4 maps ({attention}), 5 classes, 112 px, centers" in printed
    assert ("attentions.conv.weight" in printed) == (attention == "slice")
    checkpoint = load_checkpoint(out)
    assert checkpoint["classes"] == ["0", "1", "2", "3", "4"]
    assert checkpoint["config"].final == "logits"
    assert torch.equal(checkpoint["model"]["centers.centers"], content["feature_center"])
    assert_same_outputs(network, out)


RESNETS = ("resnet34", "resnet50", "resnet101", "resnet152")
VGGS = ("vgg11", "vgg13", "vgg16", "vgg19", "vgg13_bn", "vgg16_bn", "vgg19_bn")


@pytest.mark.parametrize("name", [*RESNETS, *VGGS])
def test_backbones_are_recognized_by_their_keys(name):
    with torch.device("meta"):
        bias = name == "resnet34"
        layers = (
            source_networks.vgg(name) if "vgg" in name else source_networks.resnet(name, 2, bias)
        )
        state = source_networks.Sequential(layers, 512, GUYUC, bias=True).state_dict()
    del state["attentions.bn.num_batches_tracked"]  # it has no value on the meta device
    layer = "features" if "vgg" in name else "layer4"
    converted = from_sequential(state, "guyuc", "source.pth")
    assert converted.settings["backbone"] == f"{name}:{layer}"
    suffix = ":16" if "resnet" in name else ""
    converted = from_sequential(state, "cal", "source.pth")
    assert converted.settings["backbone"] == f"{name}:{layer}{suffix}"


@pytest.mark.slow
def test_wvinzh(tmp_path, capsys):
    network = source_networks.settle(source_networks.Wvinzh(), seed=2)
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    centers = torch.randn(5, 4 * 768)
    path, out, names = tmp_path / "model_best.pth.tar", tmp_path / "out.pt", tmp_path / "names.txt"
    content = {
        "epoch": 80, "state_dict": OrderedDict(state), "best_prec1": torch.tensor(88.2),
        "optimizer": torch.optim.SGD(network.parameters(), 1e-3, 0.9).state_dict(),
        "center": centers,
    }  # fmt: skip
    torch.save(content, path, _use_new_zipfile_serialization=False)
    names.write_text("albatross\nbunting\ncardinal\ncatbird\nchat\n")
    with source_networks.zero_initialization():
        assert main(["convert", str(path), "--out", str(out), "--classes", str(names)]) == 0
    assert "Mixed_7a.branch3x3_2.conv.weight" in capsys.readouterr().out
    checkpoint = load_checkpoint(out)
    assert checkpoint["classes"] == ["albatross", "bunting", "cardinal", "catbird", "chat"]
    assert checkpoint["config"].final == "probabilities"
    assert torch.equal(checkpoint["model"]["centers.centers"], centers)
    assert_same_outputs(network, out)


@pytest.mark.slow
def test_wvinzh_resnet(tmp_path, capsys):
    network = source_networks.settle(source_networks.WvinzhResNet(), seed=4)
    path, out = tmp_path / "checkpoint.pth.tar", tmp_path / "out.pt"
    content = {"state_dict": network.state_dict(), "center": torch.randn(5, 32 * 512)}
    torch.save({**content, "best_prec1": torch.tensor(80.0)}, path)
    with source_networks.zero_initialization():
        assert main(["convert", str(path), "--out", str(out), "--image-size", "96"]) == 0
    printed = capsys.readouterr().out
    assert "resnet50:layer4.1.relu, 32 maps (conv3x3), 5 classes, 96 px, centers" in printed
    assert "left out, as unused by the source itself: layer4.1.conv3.weight, layer4.1" in printed
    assert load_checkpoint(out)["config"].image_size == 96
    assert_same_outputs(network, out)
    del content["state_dict"]["layer4.1.bn2.running_var"]
    torch.save({"state_dict": {**content["state_dict"], "gate": torch.ones(1)}}, path)
    text = "nearest is WS_DAN_PyTorch's resnet50.*; unknown: gate; missing: layer4.1.bn2.running_v"
    with pytest.raises(UserError, match=text):
        convert(str(path), str(tmp_path / "none.pt"))


@pytest.mark.parametrize("depth", [101, 152])
def test_larger_resnets_of_wvinzh_are_recognized(depth):
    with torch.device("meta"):
        state = source_networks.WvinzhResNet(depth).state_dict()
    converted = from_wvinzh(state, "source.pth")
    assert converted.settings["backbone"] == f"resnet{depth}:layer4.1.relu"


LOGS = {
    "guyuc": "2019-12-03 [train.py:244]: Train: Loss 9.1, Raw Acc (1, 2), Crop Acc (1, 2), Drop"
    " Acc (1, 2)",
    "first": "Train: (Raw) Loss 1.0, Accuracy: (1.0, 2.0), (Crop) Loss 1.0, (Drop) Loss 1.0",
    "cal": "2021-08-01 [train_distributed.py:230]: Train: Loss 9, Raw Acc (1, 2), Aux Acc (1, 2)",
    "none": "2019-12-03: INFO: [train.py:57]: Network weights save to ./FGVC/",
}


@pytest.mark.parametrize(
    ("logs", "origin"),
    [
        (["guyuc"], "guyuc"), (["first"], "guyuc"), (["cal"], "cal"), (["none", "cal"], "cal"),
        (["none"], None), ([], None), (["cal", "guyuc"], None),
    ],
)  # fmt: skip
def test_a_log_beside_the_file_tells_its_origin(logs, origin, tmp_path):
    for name in logs:
        (tmp_path / f"{name}.log").write_bytes(LOGS[name].encode() + b"\xff")
    (tmp_path / "folder.log").mkdir()
    if origin is None:
        with pytest.raises(UserError, match="pass --origin guyuc or --origin cal"):
            origin_of({}, {}, tmp_path / "a.pth")
    else:
        assert origin_of({}, {}, tmp_path / "a.pth") == origin


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1 001.Albatross\n2 002.Auk\n", ["001.Albatross", "002.Auk"]),
        ("0 Auk\n1 Black bird\n", ["Auk", "Black bird"]),
        ("2 Auk\n1 Bird\n", ["Bird", "Auk"]),
        ("1 Auk\n3 Bird\n", ["1 Auk", "3 Bird"]),
        ("5 Series\n6 Series\n", ["5 Series", "6 Series"]),
        ("1 Auk\n1 Bird\n", ["1 Auk", "1 Bird"]),
        ("Auk\nBird\n", ["Auk", "Bird"]),
        ("1\n2\n", ["1", "2"]),
    ],
)
def test_class_names_may_be_numbered(text, names, tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text(text)
    assert class_names(str(path), 2) == names


@pytest.mark.parametrize("classes", [["0", "1"], ["auk", "bird"]])
def test_classes_without_names_say_how_to_name_them(classes):
    listing = Listing("DIR", ["gull"], [ImageRecord("gull.png", "gull", None)])
    with pytest.raises(UserError, match="DIR: class 'gull' is not among the training") as caught:
        assign_labels(listing, classes)
    assert ("`wsdan convert --classes FILE` gives" in str(caught.value)) == (classes[0] == "0")


@pytest.mark.parametrize("count", [0, 7])
def test_a_convolution_of_mixed_7c_that_was_trained_is_used(count):
    """Without a bias in fc, num_batches_tracked shows whether the maps come from it."""
    with torch.device("meta"):
        state = sequential("guyuc 7c slice").state_dict()
    state["attentions.bn.num_batches_tracked"] = torch.tensor(count)
    converted = from_sequential(state, "guyuc", "source.pth")
    assert converted.settings["attention"] == ("conv" if count else "slice")
    assert ("attention.0.weight" in converted.state_dict) == bool(count)


@pytest.fixture(scope="module")
def small():
    """A ResNet-18 of CAL."""
    return source_networks.settle(sequential("cal resnet18"), seed=3)


@pytest.mark.slow
def test_origin_decides_if_the_keys_do_not(small, tmp_path):
    source = tmp_path / "model_bestacc.pth"
    torch.save({"logs": {}, "state_dict": small.state_dict()}, source)
    with pytest.raises(UserError, match="WS-DAN.PyTorch or of CAL.*; pass --origin guyuc or"):
        convert(str(source), str(tmp_path / "none.pt"))
    assert "no centers: they start at 0" in convert(
        str(source), str(tmp_path / "cal.pt"), None, "cal"
    )
    assert_same_outputs(small, tmp_path / "cal.pt")
    convert(str(source), str(tmp_path / "guyuc.pt"), None, "guyuc")
    with pytest.raises(AssertionError):
        assert_same_outputs(small, tmp_path / "guyuc.pt")


@pytest.mark.slow
def test_converted_weights_are_a_start(small, tmp_path):
    """--weights takes them: all of them for as many classes, without the classifier for others."""
    source, out = tmp_path / "source.ckpt", tmp_path / "out.pt"
    content = write(source, small, "cal")
    convert(str(source), str(out))
    settings = {
        "data": "folder", "root": "x", "num_attentions": 4, "backbone": "resnet18:layer4:16",
        "pool_eps": 1e-6, "image_size": 96, "weights": str(out),
    }  # fmt: skip
    with source_networks.zero_initialization():
        check_start(settings, content)


def check_start(settings: dict, content: dict) -> None:
    model = build_model(Config(**settings).resolved(), 5)
    assert torch.equal(model.classifier.weight, content["state_dict"]["fc.weight"])
    with pytest.raises(UserError, match=r"has 5 classes, the data 7; --ignore-classifier leaves"):
        build_model(Config(**settings).resolved(), 7)
    model = build_model(Config(**settings, ignore_classifier=True).resolved(), 7)
    assert model.classifier.weight.shape == (7, 4 * 512)
    assert torch.equal(model.attention[0].weight, content["state_dict"]["attentions.conv.weight"])
    with pytest.raises(
        UserError, match=r"made with --backbone resnet18:layer4:16 \(here resnet18:"
    ):
        build_model(Config(**{**settings, "backbone": "resnet18"}).resolved(), 5)
    with pytest.raises(
        UserError, match=r"--num-attentions 4 \(here 3\), --pool-eps 1e-06 \(here 1e"
    ):
        build_model(Config(**{**settings, "pool_eps": 1e-12, "num_attentions": 3}).resolved(), 5)


def renamed(state, old: str, new: str) -> dict:
    return {key.replace(old, new): value for key, value in state.items()}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda state: {**state, "features.4.0.cbam.conv.weight": torch.zeros(1, 2, 7, 7)},
            r"nearest is resnet18:layer4; unknown: layer1.0.cbam.conv.weight",
        ),
        (lambda state: {**state, "gate.weight": torch.zeros(1)}, "unknown: gate.weight"),
        (lambda state: {**state, "fc.scale": torch.zeros(1)}, "unknown: fc.scale"),
        (
            lambda state: renamed(state, "attentions.conv.", "attentions."),
            r"unknown: attentions.weight; missing: attentions.conv.weight",
        ),
        (
            lambda state: {k: v for k, v in state.items() if "features.7.1" not in k},
            r"nearest is resnet18:layer4; missing: layer4.1.bn1.bias, .* \(10 keys\)",
        ),
        (lambda state: {**state, "fc.weight": torch.zeros(5, 9)}, r"of another shape: classifier"),
        (
            lambda state: {**state, "fc_new.weight": torch.zeros(5, 3072)},
            "nearest is WS_DAN_PyTorch's inception; unknown: attentions.bn.bias, .*missing: Conv",
        ),
    ],
)
def test_what_cannot_be_mapped_is_named(small, change, text, tmp_path):
    source = tmp_path / "source.pth"
    torch.save({"state_dict": change(small.state_dict())}, source)
    with pytest.raises(UserError, match=text):
        convert(str(source), str(tmp_path / "out.pt"), None, "cal")
    assert not (tmp_path / "out.pt").exists()


class Hostile:
    def __reduce__(self):
        return print, ("run",)


def test_wrong_files(small, tmp_path, capsys):
    out, source = tmp_path / "out.pt", tmp_path / "source.pth"
    cases = [
        (lambda path: path.write_bytes(pickle.dumps(Hostile(), protocol=2)), "cannot be read"),
        (lambda path: torch.save({"logs": Hostile(), "state_dict": {}}, path), "cannot be read"),
        (lambda path: path.write_bytes(b"text"), "cannot be read"),
        (lambda path: torch.save([1], path), "must hold weights by name; got a list"),
        (lambda path: torch.save({"state_dict": {"a": 1}}, path), "got also a"),
        (lambda path: torch.save({"state_dict": {}}, path), "got nothing"),
    ]
    for make, text in cases:
        make(source)
        assert main(["convert", str(source), "--out", str(out)]) == 2
        captured = capsys.readouterr()
        assert text in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""
    with pytest.raises(UserError, match="no such file"):
        convert(str(tmp_path / "missing"), str(out))
    write(source, small, "cal")
    names = tmp_path / "names.txt"
    names.write_text("a\nb\nb\nc\nd\n")
    with pytest.raises(UserError, match="must have 5 different names; got 5 names, 4 of them"):
        convert(str(source), str(out), str(names))
    convert(str(source), str(out))
    with pytest.raises(UserError, match="exists already"):
        convert(str(source), str(out))
    with pytest.raises(UserError, match="is a checkpoint of ours already"):
        convert(str(out), str(tmp_path / "again.pt"))
