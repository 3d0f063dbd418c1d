"""Names of backbones: unknown ones, their closest names, and what a check needs."""

import ast
import re
import sys

import pytest
import torch
from paths import ROOT

from wsdan.errors import UserError
from wsdan.networks.backbones import build_backbone, check_backbone, name_with_layer


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("resnet18:layer5", "resnet18 has no layer 'layer5'; the closest are resnet18:layer4"),
        ("timm/efficientvit_b0", "not make it without its classifier: Cannot disable pooling"),
        ("vgg11:features:16", "the stride may be 16, of a ResNet; got 16"),
        ("resnet18:layer4:8", "the stride may be 16, of a ResNet; got 8"),
        ("timm/resnet18:5", "the stage must be a number from 0 to 4"),
        ("timm/resnet17", "timm has no model 'resnet17'"),
    ],
)
def test_wrong_names(name, text):
    if name.startswith("timm/"):
        pytest.importorskip("timm", reason="timm is an extra")
    with pytest.raises(UserError, match=text):
        build_backbone(name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("resnet17", "no classification model 'resnet17'; the closest are resnet18, resnet"),
        ("tinny", "no classification model 'tinny'; the closest are tiny, "),
        ("resnet18:layer9", "; the closest are resnet18:layer4, resnet18:layer3, resnet18:layer2"),
        ("inception_v3:mixed_6e", "no layer 'mixed_6e'; the closest are inception_v3:Mixed_6e, "),
        ("resnet50:layer4.3", "no layer 'layer4.3'; the closest are resnet50:layer4."),
        ("resnet17:layer4", "no classification model 'resnet17'; the closest are resnet18, "),
        ("vgg11:features:16", "the stride may be 16, of a ResNet; got 16"),
        ("timm/resnet17", "; the closest are (timm/\\w+, )*timm/resnet18(, timm/\\w+)*$"),
        ("timm/resnet18.a1_in2k", "no weights 'a1_in2k' of resnet18; .* timm/resnet18.a1_in1k"),
        ("timm/resnet18:5", r"; the closest are timm/resnet18:4 \(layer4\), timm/resnet18:3 \("),
        ("timm/resnet18:layer3", r"from 0 to 4; the closest are timm/resnet18:3 \(layer3\), timm/"),
        ("timm/resnet18:-1", r"; the closest are timm/resnet18:0 \(act1\), timm/resnet18:1 \("),
    ],
)
def test_the_three_closest_names_are_suggested(name, text):
    """Before a model with weights is made, and the same when it is."""
    if name.startswith("timm/"):
        pytest.importorskip("timm", reason="timm is an extra")
    with pytest.raises(UserError, match=text) as checked:
        check_backbone(name)
    assert "\n" not in str(checked.value)
    if "closest" in text:
        assert len(str(checked.value).partition("the closest are ")[2].split(", ")) == 3
    with pytest.raises(UserError) as built:
        build_backbone(name)
    assert str(built.value) == str(checked.value)


@pytest.mark.parametrize(
    "name",
    [
        "tiny", "resnet18", "resnet101:layer4:16", "resnet18:layer4.1.bn2", "resnet18:layer4.1.add",
        "vit_b_16:heads", "swin_t:features.1", "timm/resnet18", "timm/resnet18.a1_in1k",
        "timm/resnet18:2",
    ],
)  # fmt: skip
def test_known_names_pass_and_draw_no_random_number(name):
    if name.startswith("timm/"):
        pytest.importorskip("timm", reason="timm is an extra")
    before = torch.get_rng_state()
    check_backbone(name)
    assert torch.equal(torch.get_rng_state(), before)


def imported_at_start(module: str, seen: set[str]) -> set[str]:
    """Add to `seen` what a module of wsdan imports outside of functions, and what those import."""
    seen.add(module)
    path = ROOT / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = [alias.name for alias in getattr(node, "names", [])]
        if isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{name}" for name in names]
            is_file = [(ROOT / f"{name.replace('.', '/')}.py").exists() for name in modules]
            names = [
                name if file else node.module for name, file in zip(modules, is_file, strict=True)
            ]
        elif not isinstance(node, ast.Import):
            continue
        for name in names:
            if name.startswith("wsdan.") and name not in seen:
                imported_at_start(name, seen)
            seen.add(name)
    return seen


def test_names_are_checked_without_what_training_needs():
    """No timm, TensorBoard, SciPy, fsspec, dataset, model or training loop."""
    found = imported_at_start("wsdan.networks.backbones", set())
    assert "wsdan.networks.torchvision_backbones" in found
    program = {name for name in found if name.startswith("wsdan.")}
    rooms = ("wsdan.networks.", "wsdan.remote.")  # settings and checkpoints may be addresses
    assert all(name.startswith(rooms) or name.count(".") == 1 for name in program)
    assert "wsdan.networks.model" not in program
    others = {name.partition(".")[0] for name in found - program} - set(sys.stdlib_module_names)
    assert others <= {"numpy", "torch", "torchvision", "yaml"}  # torch imports numpy


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    for call in (check_backbone, build_backbone):
        with pytest.raises(UserError, match=re.escape("pip install 'wsdan[timm]'")):
            call("timm/resnet18")


def test_names_with_layer():
    names = {
        "resnet18": "resnet18:layer4", "inception_v3": "inception_v3:Mixed_6e",
        "vgg19_bn": "vgg19_bn:features", "resnet18:layer3": "resnet18:layer3", "tiny": "tiny",
        "timm/resnet18": "timm/resnet18",
    }  # fmt: skip
    assert {name: name_with_layer(name) for name in names} == names
