"""The layers of a backbone in their order, for learning rates that fall with depth."""

from itertools import groupby, takewhile

from torch import nn


def parameter_layers(network: nn.Module) -> dict[str, int]:
    """The layer of each parameter of a backbone, by name: 0, the input's, up to the last.

    Of timm's models they are timm's own layers, with one for each block. Of others a layer is a
    child module, or a child of it if it is one of a numbered sequence ("layer1.0", "features.1.2");
    a norm that stands alone belongs to the layer before it.
    """
    inner = getattr(network, "model", network)
    if hasattr(inner, "group_matcher"):
        from timm.models import group_parameters

        layers = group_parameters(inner, inner.group_matcher(coarse=False), reverse=True)
        prefix = "model." if inner is not network else ""
        return {prefix + name: layer for name, layer in layers.items()}
    return _by_child(network)


def _by_child(network: nn.Module) -> dict[str, int]:
    parameters = dict(network.named_parameters())
    common = _common_parts([name.split(".") for name in parameters])
    layers, last = {}, -1
    for _, group in groupby(parameters, lambda name: _child(name.split(".")[common:])):
        names = list(group)
        if last < 0 or any(parameters[name].dim() > 1 for name in names):
            last += 1
        layers |= dict.fromkeys(names, last)
    return layers


def _common_parts(names: list[list[str]]) -> int:
    """How many first parts all names share, such as "body", "features"."""
    return len(list(takewhile(lambda parts: len(set(parts)) == 1, zip(*names, strict=False))))


def _child(parts: list[str]) -> tuple[str, ...]:
    """The first part of a name, and the numbers directly after it."""
    return (parts[0], *takewhile(str.isdigit, parts[1:]))
