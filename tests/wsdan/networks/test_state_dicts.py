"""Weights as people have them: --weights finds the state dict and its prefix, or says why not."""

import argparse
import warnings
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from wsdan.config import Config
from wsdan.errors import UserError
from wsdan.networks.model import build_model
from wsdan.networks.tiny import Tiny
from wsdan.validation import check_paths


def settings(weights, **options) -> Config:
    chosen = {"data": "folder", "root": ".", "backbone": "tiny", "image_size": 32} | options
    return Config(**chosen, weights=str(weights), num_attentions=2).resolved()


def tiny(value: float) -> dict:
    """A state dict whose first weight is `value`."""
    state = OrderedDict((key, tensor.clone()) for key, tensor in Tiny().state_dict().items())
    state["1.0.weight"].fill_(value)
    return state


def behind(prefix: str, state: dict, **others) -> dict:
    return {**{prefix + key: tensor for key, tensor in state.items()}, **others}


def loaded(weights) -> float:
    """The first weight of a model that starts from this file."""
    config = settings(weights)
    check_paths(config)
    model = build_model(config, 3)
    found = model.backbone.state_dict()["1.0.weight"]
    assert (found == found.flatten()[0]).all()
    return float(found.flatten()[0])


def refusal(weights) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError) as caught:
            loaded(weights)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    return str(caught.value)


ARGUMENTS = argparse.Namespace(lr=0.1, device="cuda", sizes=[1, 2], nested=argparse.Namespace(a=1))
REFERENCE = {  # of torchvision's references
    "optimizer": torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1, 0.9).state_dict(),
    "lr_scheduler": {"base_lrs": [0.1], "last_epoch": 3},
    "epoch": 3,
    "args": ARGUMENTS,
    "scaler": {"scale": 65536.0, "_growth_tracker": 3},
}
TIMM = {  # of timm's train.py
    "epoch": 3, "arch": "tiny", "version": 2, "args": ARGUMENTS, "metric": np.float64(71.5),
    "history": np.arange(3), "best": np.float32(1), "done": np.bool_(True),
}  # fmt: skip
HEAD = {"head.fc.weight": torch.zeros(3, 64), "head.fc.bias": torch.zeros(3)}
EMA = behind("module.", tiny(2), n_averaged=torch.tensor(5))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (tiny(1), ""),
        ({"state_dict": tiny(1)}, "of state_dict"),
        ({"model": tiny(1), **REFERENCE}, "of model"),
        ({"state_dict": tiny(1), **TIMM}, "of state_dict"),
        ({"net": tiny(1), "acc": 93.2}, "of net"),
        ({"generator": {"a": torch.zeros(1)}, "encoder": tiny(1)}, "of encoder"),
        (behind("module.", tiny(1)), "without the prefix module."),
        (behind("_orig_mod.", tiny(1)), "without the prefix _orig_mod."),
        (behind("module._orig_mod.", tiny(1)), "without the prefix module._orig_mod."),
        (behind("backbone.", tiny(1), **HEAD), "prefix backbone.; left out: head.fc.weight"),
        ({"state_dict": behind("model.", tiny(1))}, "of state_dict, without the prefix model."),
        (behind("encoder.", tiny(1)), "without the prefix encoder."),
        ({"student": behind("module.backbone.", tiny(1))}, "of student, without the prefix module"),
        (behind("backbone.body.", tiny(1), **HEAD), "without the prefix backbone.body."),
        (behind("a.rather.long.one.", tiny(1)), "without the prefix a.rather.long.one."),
    ],
)
@pytest.mark.parametrize("old_format", [False, True])
def test_a_state_dict_is_found(content, said, old_format, tmp_path, capsys):
    path = tmp_path / "weights.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not old_format)
    assert loaded(path) == 1
    printed = capsys.readouterr().out
    assert said in printed
    assert printed == "" or printed.startswith(f"--weights: {path}: taken are the weights")
    assert printed.count("\n") == bool(said)


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        ({"model": tiny(1), "model_ema": EMA, **REFERENCE}, {"model": 1, "model_ema": 2}),
        (
            {"state_dict": tiny(1), "state_dict_ema": tiny(2)},
            {"state_dict": 1, "state_dict_ema": 2},
        ),
        (
            behind("student.", tiny(1)) | behind("teacher.", tiny(2)),
            {"student": 1, "teacher": 2, "teacher.": 2},
        ),
        (
            {"state_dict": behind("net.student.", tiny(1)) | behind("net.teacher.", tiny(2))},
            {"state_dict.net.student": 1, "state_dict.net.teacher": 2, "net.teacher": 2},
        ),
        (
            {"a": behind("x.", tiny(1)) | behind("y.", tiny(2)), "b": behind("x.", tiny(3))},
            {"a.x": 1, "a.y": 2, "b.x": 3, "b": 3},
        ),
    ],
)
def test_one_of_several_is_asked_for_by_name(content, keys, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    names = sorted(list(keys)[: 3 if "b" in keys else 2])
    assert f"{path}: holds {', '.join(names)}; name one as FILE:{names[0]}" in refusal(path)
    assert {key: loaded(f"{path}:{key}") for key in keys} == keys
    assert f"{path}: holds nothing called none; it holds " in refusal(f"{path}:none")


def test_a_file_with_a_colon_in_its_name(tmp_path):
    torch.save({"model": tiny(1), "ema": tiny(2)}, tmp_path / "a:b.pth")
    assert "holds ema, model" in refusal(tmp_path / "a:b.pth")
    assert loaded(f"{tmp_path / 'a:b.pth'}:ema") == 2
    assert "no such file" in refusal(tmp_path / "c.pth:ema")


def test_a_checkpoint_of_ours_by_name(tmp_path):
    config = Config(num_attentions=2, data="folder", root=".", backbone="tiny", image_size=32)
    config = config.resolved()
    model = build_model(config, 3)
    from wsdan.checkpoint import save_checkpoint

    ema = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    ema["backbone.1.0.weight"].fill_(2)
    with torch.no_grad():
        model.backbone[1][0].weight.fill_(1)
    path, classes = tmp_path / "best.pt", ["a", "b", "c"]
    save_checkpoint(path, config, classes, {"model": model.state_dict(), "ema": ema})
    assert [loaded(f"{path}{key}") for key in ("", ":ema", ":model")] == [2, 2, 1]
    assert "holds no optimizer; it holds ema, model" in refusal(f"{path}:optimizer")


class Own:
    pass


def first(tensor: torch.Tensor) -> dict:
    return {**tiny(1), "1.0.weight": tensor}


WEIGHT = torch.ones(48, 3, 3, 3)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # beta
    CSR = torch.eye(3).to_sparse_csr()
QUANTIZED = torch.quantize_per_tensor(WEIGHT, 0.1, 0, torch.qint8)
NESTED = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"model": tiny(1), "own": Own()}, ".Own; only tensors, numbers and text are read"),
        ({"model": tiny(1), "args": argparse.Namespace(p=Path("a"))}, "holds a pathlib.PosixPath"),
        ({"model": tiny(1), "hook": print}, "holds a print; only"),
        ({"model": defaultdict(list)}, "holds a collections.defaultdict; only"),
        (nn.Linear(1, 1), "holds a torch.nn.modules.linear.Linear; only"),
        (first(WEIGHT.to("meta")), "1.0.weight is a meta tensor; plain ones are needed"),
        (first(WEIGHT.to_sparse()), "1.0.weight is a sparse tensor; plain"),
        (first(CSR), "1.0.weight is a sparse tensor; plain"),
        (first(QUANTIZED), "1.0.weight is a quantized tensor; plain"),
        (first(NESTED), "1.0.weight is a nested tensor; plain"),
        (first(WEIGHT.to(torch.complex64)), "1.0.weight is a complex tensor; plain"),
        ({"model": {**tiny(1), 3: WEIGHT}}, "must hold weights by name; got a name of type int"),
        ({0: WEIGHT, 1: WEIGHT}, "must hold weights by name; got a name of type int"),
        ({**tiny(1), "epoch": 3}, "must hold weights by name; got also epoch"),
        ({**tiny(1), "a\n\udc00" * 99: 3}, r"got also 'a\n\udc00a\n"),
        ({**tiny(1), "x." * 100_000: WEIGHT}, "unknown: x.x."),
        ({**tiny(1), "odd\nkey": WEIGHT}, r"unknown: 'odd\nkey'"),
        ({**tiny(1), ("a",): 3}, "must hold weights by name; got also ('a',)"),
        (
            {"model": behind("module.", {**tiny(1), "2.new.weight": WEIGHT})},
            "--weights of --backbone tiny, without the prefix module.: unknown: 2.new.weight",
        ),
        (
            {"model": behind("module.", first(torch.ones(48, 3, 5, 5)))},
            "without the prefix module.: of another shape: 1.0.weight (48, 3, 5, 5) for (48, 3, 3",
        ),
    ],
)
@pytest.mark.parametrize("old_format", [False, True])
def test_what_is_no_weights_is_one_line(content, text, old_format, tmp_path):
    path = tmp_path / "weights.pth"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, path, _use_new_zipfile_serialization=not old_format)
    assert text in refusal(path)


@pytest.mark.parametrize("old_format", [False, True])
def test_damaged_files_are_one_line(old_format, tmp_path):
    """Cut, and with a byte changed: refused in one line or, in the old format, which has no
    checksums, read."""
    path, broken = tmp_path / "weights.pth", tmp_path / "broken.pth"
    torch.save(
        {"model": {"a": torch.ones(3)}, **TIMM}, path, _use_new_zipfile_serialization=not old_format
    )
    content, generator = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        place = int(generator.integers(len(content)))
        changed = bytearray(content[:place] if generator.random() < 0.3 else content)
        if len(changed) > place:
            changed[place] ^= int(generator.integers(1, 256))
        broken.write_bytes(changed)
        assert str(broken) in refusal(broken) or "--backbone tiny" in refusal(broken)
