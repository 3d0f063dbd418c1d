"""Mapping of other implementations' checkpoints to the keys of wsdan.

- WS-DAN.PyTorch (GuYuc) and CAL (raoyongming): `features.N...` by the index in their Sequential,
  `attentions.conv` and `.bn`, `fc`. CAL has the same keys; its signed root has another epsilon, and
  its ResNets have no stride in the last stage.
- WS_DAN_PyTorch (wvinzh): the keys of torchvision's networks, the classifier is `fc_new`. Of
  Inception v3 the attention maps are the first channels of `Mixed_7a.branch3x3_1`. Of a ResNet, cut
  within layer4's second block, the features are the output of its first convolution, the maps the
  first 32 channels of its second, a 3x3 one.

Differences in the computation are folded into the weights, exact up to rounding: the epsilon of the
attention's batch norm into its running variance, a bias before a norm into its running mean.
"""

from dataclasses import dataclass
from functools import cache

import torch
import torchvision
from torch import Tensor

from wsdan.errors import UserError
from wsdan.networks.scaling import InputScaling
from wsdan.networks.state_dicts import list_keys

_EPS_DIFFERENCE = 1e-3 - 1e-5  # epsilon of the attention's batch norm: theirs less that of wsdan
_POOL_EPS = {"guyuc": 1e-12, "cal": 1e-6}
_INCEPTION = (
    "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "",
    "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e",
    "Mixed_7a", "Mixed_7b", "Mixed_7c",
)  # fmt: skip
_AFTER = {  # what a backbone cut at this layer has no more
    "Mixed_6e": ("Mixed_7a.", "Mixed_7b.", "Mixed_7c."),
    "layer4.1.relu": (
        "layer4.1.conv2.", "layer4.1.bn2.", "layer4.1.conv3.", "layer4.1.bn3.", "layer4.2.",
    ),
}  # fmt: skip
_RESNET = ("conv1", "bn1", "", "", "layer1", "layer2", "layer3", "layer4")
_RESNETS = [f"resnet{depth}:layer4" for depth in (18, 34, 50, 101, 152)]
_WVINZH_RESNETS = [f"resnet{depth}:layer4.1.relu" for depth in (50, 101, 152)]
_VGGS = [f"vgg{depth}{norm}:features" for norm in ("", "_bn") for depth in (11, 13, 16, 19)]
_COUNT = "num_batches_tracked"  # not in files of PyTorch before 0.4.1
_NORM = ("weight", "bias", "running_mean", "running_var", _COUNT)
_HEAD = ("conv.weight", *(f"bn.{key}" for key in _NORM))


@dataclass
class Converted:
    """A converted checkpoint.

    settings: of Config, where they differ from the paper's recipe. state_dict: all weights by the
    keys of wsdan, except num_batches_tracked. unused: keys of the source that its own forward pass
    does not use.
    """

    settings: dict
    state_dict: dict[str, Tensor]
    unused: list[str]


def from_sequential(state: dict[str, Tensor], origin: str, source: str) -> Converted:
    """Convert a state dict of WS-DAN.PyTorch or CAL.

    Raises UserError that lists the keys that cannot be mapped.
    """
    head = _part(state, "attentions.")
    classifier = _part(state, "fc.")
    features = {k: v for k, v in state.items() if not k.startswith(("attentions.", "fc."))}
    missing = [f"attentions.{key}" for key in ("conv.weight", "bn.running_var") if key not in head]
    missing += [] if "weight" in classifier else ["fc.weight"]
    unknown = [f"attentions.{key}" for key in head if key not in _HEAD]
    unknown += [f"fc.{key}" for key in classifier if key not in ("weight", "bias")]
    if unknown or missing:
        raise UserError(_refusal(source, "WS-DAN.PyTorch", unknown, missing))
    backbone, weights = _backbone(features, source)
    # Later versions of both take the first channels of Mixed_7c as maps and do not use the
    # convolution.
    trained = int(head.get(f"bn.{_COUNT}", 0)) > 0
    slices = backbone.endswith("Mixed_7c") and "bias" not in classifier and not trained
    if origin == "cal" and backbone in _RESNETS:
        backbone += ":16"
    settings = {
        "backbone": backbone,
        "attention": "slice" if slices else "conv",
        "num_attentions": len(head["conv.weight"]),
        "pool_eps": _POOL_EPS[origin],
        "final": "logits",
    }
    return Converted(
        settings,
        {**weights, **({} if slices else _attention(head)), **_classifier(classifier)},
        [f"attentions.{key}" for key in head] if slices else [],
    )


def from_wvinzh(state: dict[str, Tensor], source: str) -> Converted:
    """Convert a state dict of WS_DAN_PyTorch: an Inception v3 with input scaling, or a ResNet.

    Raises UserError that lists the keys that cannot be mapped.
    """
    if any(key.startswith("layer4.") for key in state):
        return _from_wvinzh_resnet(state, source)
    head = _part(state, "Mixed_7a.branch3x3_1.")
    classifier = _part(state, "fc_new.")
    unused = [
        key for key in state
        if key.startswith(("Mixed_7a.", "AuxLogits.")) and "7a.branch3x3_1." not in key
    ]  # fmt: skip
    taken = {*unused, *(key for key in state if key.startswith(("Mixed_7a.", "fc_new.")))}
    features = {key: value for key, value in state.items() if key not in taken}
    unknown, missing = _difference(features, "inception_v3:Mixed_6e")
    unknown += [f"Mixed_7a.branch3x3_1.{key}" for key in head if key not in _HEAD]
    unknown += [f"fc_new.{key}" for key in classifier if key not in ("weight", "bias")]
    keys = ("conv.weight", "bn.running_var")
    missing += [f"Mixed_7a.branch3x3_1.{key}" for key in keys if key not in head]
    if unknown or missing:
        raise UserError(_refusal(source, "WS_DAN_PyTorch's inception", unknown, missing))
    maps = classifier["weight"].shape[1] // head["conv.weight"].shape[1]
    return Converted(
        {
            "backbone": "inception_v3:Mixed_6e",
            "attention": "conv",
            "num_attentions": maps,
            "final": "probabilities",
        },
        {
            **_inception(features, scaled=True),
            **_attention({key: v[:maps] if v.dim() else v for key, v in head.items()}),
            **_classifier(classifier),
        },
        unused,
    )


def _from_wvinzh_resnet(state: dict[str, Tensor], source: str) -> Converted:
    """layer4 has two blocks; of the second one, convolution 2 gives the maps, 3 is not used."""
    classifier = _part(state, "fc_new.")
    unused = [key for key in state if key.startswith(("layer4.1.conv3.", "layer4.1.bn3."))]
    maps_of = ("layer4.1.conv2.", "layer4.1.bn2.")
    head = {
        key.removeprefix("layer4.1.").replace("2.", ".", 1): value
        for key, value in state.items()
        if key.startswith(maps_of)
    }
    features = {
        key: value
        for key, value in state.items()
        if key not in unused and not key.startswith(("fc_new.", *maps_of))
    }
    faults = {name: _difference(features, name) for name in _WVINZH_RESNETS}
    nearest = min(faults, key=lambda name: sum(map(len, faults[name])))
    unknown, missing = faults[nearest]
    unknown += [f"fc_new.{key}" for key in classifier if key not in ("weight", "bias")]
    missing += [f"layer4.1.{key}" for key in _missing(head)]
    missing += [] if "weight" in classifier else ["fc_new.weight"]
    if unknown or missing:
        raise UserError(_refusal(source, f"WS_DAN_PyTorch's {nearest}", unknown, missing))
    maps = classifier["weight"].shape[1] // head["conv.weight"].shape[1]
    head = {key: value[:maps] if value.dim() else value for key, value in head.items()}
    return Converted(
        {
            "backbone": nearest,
            "attention": "conv3x3",
            "num_attentions": maps,
            "final": "probabilities",
        },
        {
            **{f"backbone.body.{key}": value for key, value in features.items()},
            **_named_as_attention(head),
            **_classifier(classifier),
        },
        unused,
    )


def _missing(head: dict[str, Tensor]) -> list[str]:
    """The keys of `_HEAD` that a head lacks, by the names in the source's block."""
    return [
        key.replace(".", "2.", 1) for key in _HEAD if key not in head and not key.endswith(_COUNT)
    ]


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _backbone(state: dict[str, Tensor], source: str) -> tuple[str, dict[str, Tensor]]:
    """The name of the backbone with keys `features.N...`, and its weights by the keys of wsdan."""
    first = state.get("features.0.weight", torch.empty(0))
    if "features.0.conv.weight" in state:
        state = _renamed(state, _INCEPTION)
        candidates = ["inception_v3:Mixed_6e", "inception_v3:Mixed_7c"]
    elif first.shape[2:] == (7, 7):
        state, candidates = _without_conv_bias(_renamed(state, _RESNET)), _RESNETS
    else:
        candidates = _VGGS
    faults = {name: _difference(state, name) for name in candidates}
    nearest = min(faults, key=lambda name: sum(map(len, faults[name])))
    unknown, missing = faults[nearest]
    if unknown or missing:
        raise UserError(_refusal(source, nearest, unknown, missing))
    if candidates[0].startswith("inception"):
        return nearest, _inception(state, scaled=False)
    return nearest, {f"backbone.body.{key}": value for key, value in state.items()}


def _renamed(state: dict[str, Tensor], layers: tuple[str, ...]) -> dict[str, Tensor]:
    """Rename keys `features.N.x` to `LAYER.x`; other keys stay."""
    names = {f"features.{n}.": f"{layer}." for n, layer in enumerate(layers) if layer}
    renamed = {}
    for key, value in state.items():
        place = next((place for place in names if key.startswith(place)), "")
        renamed[names.get(place, "") + key.removeprefix(place)] = value
    return renamed


def _without_conv_bias(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fold the biases of their small ResNets' convolutions into the means of the next norms."""
    state = dict(state)
    for key in [key for key in state if key.endswith((".conv1.bias", ".conv2.bias"))]:
        mean = key.replace(".conv", ".bn").replace(".bias", ".running_mean")
        if mean in state:
            state[mean] = (state[mean].double() - state.pop(key).double()).float()
    return state


def _difference(state: dict[str, Tensor], backbone: str) -> tuple[list[str], list[str]]:
    """The unknown and the missing keys of `state` as weights of the backbone."""
    found = {key for key in state if not key.endswith(_COUNT)}
    return sorted(found - _keys(backbone)), sorted(_keys(backbone) - found)


@cache
def _keys(backbone: str) -> frozenset[str]:
    """The keys of a torchvision backbone up to its layer, except num_batches_tracked."""
    name, _, layer = backbone.partition(":")
    options = {"init_weights": False} if name == "inception_v3" else {}
    with torch.device("meta"):
        keys = torchvision.models.get_model(name, weights=None, **options).state_dict()
    removed = ("fc.", "AuxLogits.", "classifier.", *_AFTER.get(layer, ()))
    return frozenset(k for k in keys if not k.startswith(removed) and not k.endswith(_COUNT))


def _inception(state: dict[str, Tensor], scaled: bool) -> dict[str, Tensor]:
    """Weights of an Inception v3. WS-DAN.PyTorch and CAL do not scale its input (scaled=False)."""
    scaling = InputScaling((0.5,) * 3, (0.5,) * 3).state_dict()
    if not scaled:
        scaling = {"scale": torch.ones(3, 1, 1), "shift": torch.zeros(3, 1, 1)}
    return {
        **{f"backbone.body.{key}": value for key, value in state.items()},
        **{f"backbone.scaling.{key}": value for key, value in scaling.items()},
    }


def _attention(head: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the attention head: conv (M,C,1,1), and bn with the epsilon folded in."""
    variance = (head["bn.running_var"].double() + _EPS_DIFFERENCE).float()
    return _named_as_attention({**head, "bn.running_var": variance})


def _named_as_attention(head: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "attention." + key.replace("conv.", "0.").replace("bn.", "1."): value
        for key, value in head.items()
    }


def _classifier(fc: dict[str, Tensor]) -> dict[str, Tensor]:
    fc = {"bias": torch.zeros(len(fc["weight"])), **fc}
    return {f"classifier.{key}": value for key, value in fc.items()}


def _refusal(source: str, nearest: str, unknown: list[str], missing: list[str]) -> str:
    text = f"convert: {source} cannot be mapped; nearest is {nearest}"
    text += f"; unknown: {list_keys(unknown)}" if unknown else ""
    return text + (f"; missing: {list_keys(missing)}" if missing else "")
