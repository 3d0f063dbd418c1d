"""Nothing in a training step makes the host wait for a GPU, shown without one.

On fake tensors that say they are on a GPU, Python takes the paths that it takes there, torch itself
refuses what depends on values, and no tensor may lie anywhere else. The backward pass, which needs
a GPU's streams, runs on the CPU, under a mode that refuses operators that would wait.
"""

import contextlib

import pytest
import torch
from tape import NoWaiting
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from wsdan.config import Config
from wsdan.networks.backbones import build_backbone
from wsdan.networks.model import WSDAN, PlainClassifier
from wsdan.training.objective import OBJECTIVES
from wsdan.training.optim import build_optimizer
from wsdan.training.step import build_step
from wsdan_kernels import _native, attention_boxes, ops
from wsdan_kernels.ops import bilinear_attention_pool as pool
from wsdan_kernels.ops import crop_resize, sample_attention

BATCH, MAPS, SIZE = 4, 4, 96


@contextlib.contextmanager
def gpu():
    """A GPU that is not there: its tensors have shapes and no values."""
    with FakeTensorMode(), torch.device("cuda"):
        yield


def new_model(backbone: str, method: str = "wsdan") -> nn.Module:
    if method == "baseline":
        return PlainClassifier(build_backbone(backbone), 3).train()
    return WSDAN(backbone, num_classes=3, num_attentions=MAPS).train()


def moved(model: nn.Module) -> nn.Module:
    """The model with weights on the device of now, their values left behind."""
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    new = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
                    tensors[name] = nn.Parameter(new) if tensor.requires_grad else new
    return model


def batch(count: int = BATCH) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.rand(count, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    return images, torch.zeros(count, dtype=torch.int64)


@pytest.mark.parametrize(
    ("backbone", "method"),
    [
        ("tiny", "wsdan"),
        ("inception_v3", "wsdan"),
        ("efficientnet_b0", "wsdan"),
        ("resnet18", "baseline"),
    ],
)
def test_the_forward_pass_stays_on_the_device(backbone, method):
    model = new_model(backbone, method)
    with gpu():
        images, labels = batch()
        with NoWaiting("cuda") as mode:
            result = OBJECTIVES[method](moved(model), images, labels, center_weight=0.5)
    assert all(value.device.type == "cuda" for value in result.values())
    seen = {name for name in mode.seen if name.startswith("wsdan::")}
    names = ("sample_attention", "attention_boxes", "attention_crop_drop", "update_centers_")
    assert method == "baseline" or {f"wsdan::{name}" for name in names} < seen


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_optimizer_stays_on_the_device(optimizer, monkeypatch):
    launched = []

    def launch(*lists, **options):  # the fused operators take no fake tensors
        launched.append((lists, options))

    monkeypatch.setattr(torch, "_fused_sgd_", launch)
    monkeypatch.setattr(torch, "_fused_adamw_", launch)
    with gpu():
        model = moved(new_model("tiny"))
        built = build_optimizer(model, Config(optimizer=optimizer, lr=0.1).resolved())
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        for group in built.param_groups:
            group["lr"] = torch.zeros(())
        with NoWaiting("cuda"):
            built.step()
            built.zero_grad(set_to_none=True)
    assert len(launched) == len(built.param_groups)
    for lists, options in launched:
        assert all(tensor.device.type == "cuda" for tensors in lists for tensor in tensors)
        assert options["lr"].device.type == "cuda"
        assert len(lists[0]) == len(lists[-1]) > 0


@pytest.mark.parametrize("backbone", ["tiny", "resnet18"])
@pytest.mark.parametrize("method", ["wsdan", "baseline"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_whole_step_waits_for_nothing(backbone, method, optimizer):
    torch.manual_seed(0)
    model = new_model(backbone, method)
    config = Config(optimizer=optimizer, method=method, lr=0.1).resolved()
    step = build_step(model, build_optimizer(model, config), config)
    for _ in range(2):
        with NoWaiting() as mode:
            step(*batch(2), torch.rand(2, 4))
    assert any("backward" in name for name in mode.seen)
    assert any("_fused" in name for name in mode.seen)


@gpu()
def test_the_reference_stays_on_the_device():
    """What a GPU runs where it has no kernel of ours, and the backward passes of the views."""
    images, labels = batch()
    maps, thresholds = torch.rand(BATCH, 12, 12), torch.rand(BATCH)
    boxes = torch.zeros(BATCH, 4, dtype=torch.int32)
    features, attentions = torch.rand(BATCH, 8, 12, 12), torch.rand(BATCH, MAPS, 12, 12)
    options = ("mean", True, "all", 1, 1e-12, 1.0)
    pooled, centers = torch.rand(BATCH, MAPS * 8), torch.rand(3, MAPS * 8)
    run = {name: kernels["reference"].run for name, kernels in ops.KERNELS.items()}
    with NoWaiting("cuda"):
        run["sample_attention"](attentions, torch.rand(BATCH, 2), "sqrt_mass")
        for rule in ("paper", "guyuc"):
            shared = (rule, True)
            run["attention_boxes"](maps, thresholds[:, None], SIZE, SIZE, 0.1, *shared)
            run["attention_drop"](images, maps, thresholds, *shared)
            run["attention_crop_drop"](images, boxes, maps, thresholds, *shared)
        run["crop_resize"](images, boxes, SIZE, SIZE, True)
        crop_resize.BACKWARD_KERNELS["reference"].run(images, boxes, SIZE, SIZE, True)
        output, unscaled, index = run["bilinear_attention_pool"](features, attentions, *options)
        pool.BACKWARD_KERNELS["reference"].run(
            output, features, attentions, unscaled, index, *options
        )
        run["center_loss"](pooled, centers, labels)
        ops.center_loss.UPDATE_KERNELS["reference"].run(centers, pooled, labels, 0.1, "mean")


@gpu()
def test_the_cuda_operators_stay_on_the_device(monkeypatch):
    """What Python does around the CUDA library, which need not be there."""
    launched = []
    monkeypatch.setattr(_native, "failure", lambda name: None)
    images, _ = batch()
    maps, thresholds = torch.rand(BATCH, 12, 12), torch.rand(BATCH)
    run = {name: kernels["cuda"].run for name, kernels in ops.KERNELS.items() if "cuda" in kernels}
    run["crop_resize_backward"] = crop_resize.BACKWARD_KERNELS["cuda"].run
    with torch.library._scoped_library("wsdan_native", "FRAGMENT") as library:
        for name in run:
            torch.library.register_fake(
                f"wsdan_native::{name}", lambda *_, name=name: launched.append(name), lib=library
            )
        with NoWaiting("cuda"):
            for kind in (images, images.to(torch.bfloat16), images.to(torch.uint8)):
                boxes = run["attention_boxes"](
                    maps, thresholds[:, None], SIZE, SIZE, 0.1, "paper", True
                ).squeeze(1)
                run["attention_drop"](kind, maps, thresholds, "paper", True)
                run["attention_crop_drop"](kind, boxes, maps, thresholds, "paper", True)
                crops = run["crop_resize"](kind, boxes.to(torch.int64), SIZE, SIZE, True)
                run["crop_resize_backward"](crops, boxes, SIZE, SIZE, True)
    assert set(launched) == set(run)
    assert len(launched) >= 3 * len(run)


class Launches:
    """In place of a Triton kernel: counts its launches."""

    def __init__(self):
        self.count = 0

    def __getitem__(self, grid):
        return self

    def __call__(self, *arguments, **options):
        self.count += 1


@gpu()
def test_the_triton_launchers_stay_on_the_device(monkeypatch):
    pytest.importorskip("triton")
    from wsdan_kernels._triton import _launch
    from wsdan_kernels._triton import bilinear_attention_pool as pool_launcher
    from wsdan_kernels._triton import center_loss as center_launcher
    from wsdan_kernels._triton import sample_attention as sample_launcher

    kernels = Launches()
    for module in (pool_launcher, center_launcher, sample_launcher):
        for name in vars(module).copy():
            if name.endswith("_kernel"):
                monkeypatch.setattr(module, name, kernels)
        monkeypatch.setattr(module, "device_of", lambda tensor: contextlib.nullcontext())
    monkeypatch.setattr(pool_launcher, "card_of", lambda tensor: _launch.assumed)
    _, labels = batch()
    features, attentions = torch.rand(BATCH, 8, 12, 12), torch.rand(BATCH, MAPS, 12, 12)
    features = features.contiguous(memory_format=torch.channels_last)
    pooled, centers = torch.rand(BATCH, MAPS * 8), torch.rand(3, MAPS * 8)
    with NoWaiting("cuda"):
        sample_attention.KERNELS["triton"].run(attentions, torch.rand(BATCH, 2), "sqrt_mass")
        for reduce in ("mean", "max"):
            options = (reduce, True, "all", 1, 1e-12, 1.0)
            output, unscaled, index = pool.KERNELS["triton"].run(features, attentions, *options)
            pool.BACKWARD_KERNELS["triton"].run(
                output, features, attentions, unscaled, index, *options
            )
        ops.center_loss.KERNELS["triton"].run(pooled, centers, labels)
        ops.center_loss.UPDATE_KERNELS["triton"].run(centers, pooled, labels, 0.1, "accumulate")
    assert kernels.count == 1 + (3 + 3) + (2 + 3) + 3 + 2  # forward and backward: mean, max


@gpu()
def test_what_waits_is_found():
    maps = torch.rand(BATCH, 12, 12)
    with NoWaiting("cuda"):
        with pytest.raises(AssertionError, match="_local_scalar_dense.* waits for the device"):
            attention_boxes(maps, (SIZE, SIZE), threshold=0.5, padding=0.1, validate=True)
        with pytest.raises(AssertionError, match="a tensor on cpu"):
            maps + torch.tensor(1.0, device="cpu")
        with pytest.raises(AssertionError, match="a tensor on cpu"):
            maps.to("cpu", non_blocking=True)
        with pytest.raises(AssertionError, match="waits for the device"):
            maps[maps > 0]
    with pytest.raises(DataDependentOutputException):
        float(maps.sum())
