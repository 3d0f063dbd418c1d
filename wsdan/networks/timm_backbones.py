"""Backbones of timm: a model without its classifier, or one of its stages. timm is optional."""

from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from wsdan.errors import UserError
from wsdan.networks.names import closest_names, closest_text
from wsdan.networks.scaling import InputScaling, scaling_for
from wsdan.networks.state_dicts import StateDicts
from wsdan.networks.weights import PublishedWeights, load_backbone_weights


def check_name(name: str) -> None:
    """Raise UserError, with the closest names, for an unknown model, tag or stage of timm.

    name: without "timm/". No weights are allocated: the model is on the meta device.
    """
    timm = _import_timm()
    model_name, _, stage = name.partition(":")
    _check_model_name(timm, model_name)
    if not stage:
        return
    try:
        with torch.device("meta"):
            model = timm.create_model(model_name, num_classes=0, global_pool="")
    except Exception:  # not every model can be made there; `build` makes it on the CPU
        return
    _check_stage(model, model_name, stage)


def check_drop_path(name: str, rate: float) -> None:
    """Raise UserError for a model, of a known name, without blocks that can be skipped."""
    timm, model_name = _import_timm(), name.partition(":")[0]
    try:
        with torch.device("meta"):
            model = timm.create_model(
                model_name, num_classes=0, global_pool="", drop_path_rate=rate
            )
    except Exception as error:  # not every model can be made there; `build` makes it on the CPU
        if "drop_path_rate" in str(error):
            raise UserError(_no_drop_path(model_name)) from None
        return
    _check_skipping(timm, model, rate, model_name)


def published_weights(name: str) -> PublishedWeights:
    """The ImageNet weights of the whole model. name: without "timm/".

    Raises UserError for an unknown one.
    """
    timm = _import_timm()
    model_name = name.partition(":")[0]
    _check_model_name(timm, model_name)
    published = timm.get_pretrained_cfg(model_name)
    url, cached = published.url, False
    if published.hf_hub_id:
        url, cached = _file_of_hub(published.hf_hub_id, published.hf_hub_filename)
    elif url:
        cached = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2]).exists()
    return PublishedWeights(
        f"timm/{name}", lambda: timm.create_model(model_name, pretrained=True), url, cached
    )


def _file_of_hub(repository: str, file: str | None) -> tuple[str, bool]:
    """The address of a file of the Hugging Face hub, and whether it lies in the hub's cache."""
    from huggingface_hub import hf_hub_url, try_to_load_from_cache

    name, _, revision = repository.partition("@")
    files = [file] if file else ["model.safetensors", "pytorch_model.bin"]  # timm takes either
    found = [try_to_load_from_cache(name, each, revision=revision or None) for each in files]
    url = hf_hub_url(name, files[0], revision=revision or None)
    return url, any(isinstance(path, str) for path in found)


def build(
    name: str,
    weights: dict[str, Tensor] | StateDicts | None,
    drop_path: float | None = None,
) -> nn.Module:
    """The network images (B,3,H,W) -> features, see `build_backbone`. name: without "timm/"."""
    timm = _import_timm()
    name, _, stage = name.partition(":")
    _check_model_name(timm, name)
    rate = {} if drop_path is None else {"drop_path_rate": drop_path}
    try:
        model = timm.create_model(name, num_classes=0, global_pool="", **rate)
    except (AssertionError, TypeError, RuntimeError) as error:
        if "drop_path_rate" in str(error):
            raise UserError(_no_drop_path(name)) from None
        raise UserError(
            f"--backbone timm/{name}: timm does not make it without its classifier: {error}"
        ) from None
    _check_skipping(timm, model, drop_path, name)
    published = model.pretrained_cfg
    scaling = scaling_for(published["mean"], published["std"])
    model_keys = set(model.state_dict())
    if stage:
        _check_stage(model, name, stage)
        network = _StageOutput(model, int(stage), scaling)
    elif scaling is not None or getattr(model, "output_fmt", "NCHW") == "NHWC":
        network = _WholeModel(model, scaling)
    else:
        network = model
    if weights is not None:
        with torch.random.fork_rng(devices=[]):  # made only for the names of its classifier
            known = model_keys | set(timm.create_model(name).state_dict())
        load_backbone_weights(model, weights, known, f"timm/{name}")
    network.fixed_size = published["input_size"][-1] if published.get("fixed_input_size") else None
    return network


def _check_skipping(timm: ModuleType, model: nn.Module, rate: float | None, name: str) -> None:
    """Raise UserError for a model that takes the rate and leaves it."""
    skipping = any(isinstance(module, timm.layers.DropPath) for module in model.modules())
    if rate and not skipping:
        raise UserError(_no_drop_path(name))


def _no_drop_path(name: str) -> str:
    return f"--drop-path: timm/{name} has no blocks that can be skipped"


def _import_timm() -> ModuleType:
    try:
        import timm
    except ImportError:
        raise UserError("--backbone timm/...: install it with pip install 'wsdan[timm]'") from None
    return timm


def _check_model_name(timm: ModuleType, name: str) -> None:
    """name: MODEL or MODEL.TAG, where the tag names one of several published weights."""
    model_name, _, tag = name.partition(".")
    if not timm.is_model(model_name):
        raise UserError(
            f"--backbone timm/{name}: timm has no model {model_name!r}; "
            + closest_text(model_name, timm.list_models(), prefix="timm/")
        )
    if not tag:
        return
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError:
        known = timm.list_models(f"{model_name}.*", pretrained=True)
        raise UserError(
            f"--backbone timm/{name}: timm has no weights {tag!r} of {model_name}; "
            + closest_text(name, known or [model_name], prefix="timm/")
        ) from None


def _check_stage(model: nn.Module, name: str, stage: str) -> None:
    infos = list(getattr(model, "feature_info", ()))
    if not hasattr(model, "forward_intermediates"):
        raise UserError(f"--backbone timm/{name}:{stage}: timm gives no stages of this model")
    if stage.isdigit() and int(stage) < len(infos):
        return
    modules = {str(index): str(info["module"]) for index, info in enumerate(infos)}
    if stage.lstrip("-").isdigit():
        closest = sorted(modules, key=lambda index: abs(int(index) - int(stage)))[:3]
    else:
        names = closest_names(stage, modules.values())
        closest = sorted(modules, key=lambda index: _position(names, modules[index]))[:3]
    raise UserError(
        f"--backbone timm/{name}:{stage}: the stage must be a number from 0 to {len(infos) - 1}; "
        "the closest are "
        + ", ".join(f"timm/{name}:{index} ({modules[index]})" for index in closest)
    )


def _position(names: list[str], name: str) -> int:
    return names.index(name) if name in names else len(names)


class _WholeModel(nn.Module):
    """A timm model whose images are scaled or whose output is channels-last."""

    def __init__(self, model: nn.Module, scaling: InputScaling | None):
        super().__init__()
        self.model = model
        self.scaling = scaling
        self.channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"

    def forward(self, images: Tensor) -> Tensor:
        features = self.model(images if self.scaling is None else self.scaling(images))
        return features.permute(0, 3, 1, 2) if self.channels_last else features


class _StageOutput(nn.Module):
    """The output of one stage of a timm model, by timm's index; later stages are removed."""

    def __init__(self, model: nn.Module, stage: int, scaling: InputScaling | None):
        super().__init__()
        model.prune_intermediate_layers([stage], prune_norm=True, prune_head=True)
        self.model = model
        self.stage = stage
        self.scaling = scaling

    def forward(self, images: Tensor) -> Tensor:
        images = images if self.scaling is None else self.scaling(images)
        return self.model.forward_intermediates(
            images, indices=[self.stage], output_fmt="NCHW", intermediates_only=True
        )[0]
