"""Folding batch norms into the convolutions before them, for inference."""

import copy
import inspect
from collections import Counter
from collections.abc import Iterator

import torch
from torch import nn
from torch.fx import Graph, Tracer
from torch.nn.utils.fusion import fuse_conv_bn_weights

from wsdan.networks.model import AttentionHead, unwrapped

# Classes whose forward is known to be that of a convolution with the module's own weight and bias,
# or of a batch norm; subclasses may compute something else.
_CONVOLUTIONS = {
    *(f"torch.nn.modules.conv.Conv{n}d" for n in (1, 2, 3)),
    *(f"torch.nn.modules.conv.ConvTranspose{n}d" for n in (1, 2, 3)),
    "timm.layers.conv2d_same.Conv2dSame",
}
_NORM_ACTS = {  # followed by `drop` and `act`
    "timm.layers.norm_act.BatchNormAct2d",
    "timm.layers.norm_act.FrozenBatchNormAct2d",
}
_NORMS = {*(f"torch.nn.modules.batchnorm.BatchNorm{n}d" for n in (1, 2, 3)), *_NORM_ACTS}


@torch.no_grad()
def fold_batch_norms(model: nn.Module) -> nn.Module:
    """Fold batch norms into the convolutions before them; changes the model and returns it.

    For inference: the model is put in evaluation mode, computes what it did there up to rounding,
    and must not be trained any more. The convolutions of `find_pairs` get new weights and a bias,
    computed in float64; their batch norms become identities, or the activation that timm's have in
    them. So its state dict is another one: it has no entries of these batch norms. Fold before a
    model is cast to half precision. Folding twice changes nothing.
    """
    inner = unwrapped(model)
    for conv_name, norm_name in find_pairs(model):
        conv, norm = inner.get_submodule(conv_name), inner.get_submodule(norm_name)
        conv.weight, conv.bias = _folded(conv, norm)
        rest = [norm.drop, norm.act] if _class_name(norm) in _NORM_ACTS else []
        rest = [item for item in rest if not isinstance(item, nn.Identity)]
        inner.set_submodule(norm_name, nn.Sequential(*rest) if rest else nn.Identity())
    return model


def find_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """The names of each convolution of a model, which is put in evaluation mode, and of the batch
    norm that alone takes its output.

    They are read from the graph that torch.fx traces or, of what it cannot trace, from the graphs
    of its children. Left out are modules that are called or named twice, that have hooks or whose
    class is not known, transposed convolutions of several groups, and a WSDAN's 1x1 attention head,
    which computes its batch norm together with the pooling.
    """
    model = unwrapped(model).eval()
    names = Counter(id(item) for _, item in model.named_modules(remove_duplicate=False))
    return [
        pair
        for pair in _traced_pairs(model, "")
        if all(names[id(model.get_submodule(name))] == 1 for name in pair)
        and _can_fold(*(model.get_submodule(name) for name in pair))
    ]


def _traced_pairs(module: nn.Module, prefix: str) -> Iterator[tuple[str, str]]:
    """The pairs that the graph of a module shows or, where it has none, those of its children."""
    if _is_fused_head(module) or not any(_class_name(item) in _NORMS for item in module.modules()):
        return
    graph = _trace(module)
    if graph is not None:
        yield from _pairs(graph, module, prefix)
        return
    for name, child in module.named_children():
        yield from _traced_pairs(child, f"{prefix}{name}.")


def _trace(module: nn.Module) -> Graph | None:
    """The graph of a module in evaluation mode, or None if torch.fx cannot trace it."""
    tensors = [*module.parameters(), *module.buffers()]
    # Of a copy, with the same tensors: a module may keep what it computes, here torch.fx's proxies.
    # torchvision's copies of its feature extractors are in training mode.
    module = copy.deepcopy(module, {id(item): item for item in tensors}).eval()
    parameters = inspect.signature(module.forward).parameters.values()
    defaults = {item.name: item.default for item in parameters if item.default is not item.empty}
    try:
        return _Tracer().trace(module, defaults)
    except Exception:  # of many kinds: the module's code runs with proxies for tensors
        return None


class _Tracer(Tracer):
    """Keeps the modules that can be folded as one call each."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        known = _class_name(module) in _CONVOLUTIONS | _NORMS
        return known or _is_fused_head(module) or super().is_leaf_module(module, name)


def _pairs(graph: Graph, module: nn.Module, prefix: str) -> Iterator[tuple[str, str]]:
    """The pairs of a graph: a convolution whose output only a batch norm takes, both called once
    and none of their tensors read by anything else."""
    calls = [node for node in graph.nodes if node.op == "call_module"]
    times = Counter(node.target for node in calls)
    read = {node.target.rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    for norm in calls:
        convs = [node for node in norm.all_input_nodes if node.op == "call_module"]
        if len(convs) != 1 or len(convs[0].users) != 1:
            continue
        names = (convs[0].target, norm.target)
        conv_kind, norm_kind = (_class_name(module.get_submodule(name)) for name in names)
        known = conv_kind in _CONVOLUTIONS and norm_kind in _NORMS
        if known and all(times[name] == 1 and name not in read for name in names):
            yield prefix + names[0], prefix + names[1]


def _can_fold(conv: nn.Module, norm: nn.Module) -> bool:
    """Whether the weights and statistics of a pair say all that the two modules compute."""
    hooks = any(
        getattr(item, name)
        for item in (conv, norm)
        for name in ("_forward_hooks", "_forward_pre_hooks")
    )
    statistics = norm.running_mean is not None and norm.running_var is not None
    return statistics and not hooks and not (conv.transposed and conv.groups > 1)


def _folded(conv: nn.Module, norm: nn.Module) -> tuple[nn.Parameter, nn.Parameter]:
    """The weight and the bias of the convolution that does both, in the dtype of its weight."""
    bias = torch.zeros_like(norm.running_mean) if conv.bias is None else conv.bias
    tensors = (conv.weight, bias, norm.running_mean, norm.running_var)
    affine = (None if item is None else item.double() for item in (norm.weight, norm.bias))
    found = fuse_conv_bn_weights(
        *(item.double() for item in tensors), norm.eps, *affine, conv.transposed
    )
    return tuple(
        nn.Parameter(item.to(conv.weight.dtype), conv.weight.requires_grad) for item in found
    )


def _is_fused_head(module: nn.Module) -> bool:
    return isinstance(module, AttentionHead) and module[0].kernel_size == (1, 1)


def _class_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
