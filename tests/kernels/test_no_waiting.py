"""Nothing in a training step makes the host wait for a GPU, shown without one.

On fake tensors that say they are on a GPU, Python takes the paths that it takes there, torch itself
refuses what depends on values, and no tensor may lie anywhere else. The backward pass, which needs
a GPU's streams, runs on the CPU, under a mode that refuses operators that would wait.
"""

import contextlib
import itertools
from typing import NamedTuple

import pytest
import torch
from parity import Recorder, results
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
from wsdan_kernels.ops._declare import Kernel
from wsdan_kernels.testing import CASES, OpCase

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
    names = ("sample_attention", "attention_crop_drop", "update_centers_")
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


class Call(NamedTuple):
    """A call of a dispatcher operator, less the backend's name."""

    name: str
    arguments: tuple

    def kernels(self) -> dict[str, Kernel]:
        """The operator's kernels by backend."""
        module = getattr(ops, self.name.removesuffix("_backward"))
        return module.BACKWARD_KERNELS if self.name.endswith("_backward") else module.KERNELS

    def on_the_gpu(
        self, dtype: torch.dtype, boxes: torch.dtype, memory_format: torch.memory_format
    ) -> list:
        """The arguments inside `gpu()`: floating-point tensors (B,C,H,W) of this dtype and format,
        int32 tensors of the dtype of `boxes`; the images may be uint8.
        """
        results = []
        for value in self.arguments:
            if isinstance(value, torch.Tensor):
                wanted = boxes if value.dtype == torch.int32 else value.dtype
                if value.dim() == 4 and value.dtype.is_floating_point:
                    wanted = dtype
                value = torch.empty_strided(value.shape, value.stride(), dtype=wanted)
                if value.dim() == 4:
                    value = value.contiguous(memory_format=memory_format)
            results.append(value)
        return results


def calls_of(case: OpCase, shape: tuple[int, ...]) -> list[Call]:
    """What a call of the case and its backward pass ask of the dispatcher, on the CPU."""
    with Recorder() as recorder:
        results(case, case.inputs(shape), "reference")
    return [
        Call(func._schema.name.removeprefix("wsdan::"), tuple(arguments[:-1]))
        for func, arguments in recorder.calls
    ]


def on_backend(backend: str) -> list[OpCase]:
    return [case for case in CASES if backend in ops.KERNELS[case.op]]


FORMATS = (torch.contiguous_format, torch.channels_last)


@pytest.mark.parametrize("case", on_backend("reference"), ids=str)
def test_the_reference_stays_on_the_device(case):
    """What a GPU runs where it has no kernel of ours, and the backward passes of the views."""
    calls = calls_of(case, case.shapes[0])
    assert case.op in {call.name for call in calls}
    with gpu(), NoWaiting("cuda"):
        for call, memory_format in itertools.product(calls, FORMATS):
            arguments = call.on_the_gpu(torch.float32, torch.int32, memory_format)
            call.kernels()["reference"].run(*arguments)


@pytest.mark.parametrize("case", on_backend("cuda"), ids=str)
def test_the_cuda_operators_stay_on_the_device(case, monkeypatch):
    """What Python does around the CUDA library, which need not be there."""
    launched = []
    monkeypatch.setattr(_native, "failure", lambda name: None)
    calls = [call for call in calls_of(case, case.shapes[0]) if "cuda" in call.kernels()]
    names = {call.name for call in calls}
    assert case.op in names
    with gpu(), torch.library._scoped_library("wsdan_native", "FRAGMENT") as library:
        for name in names:
            torch.library.register_fake(
                f"wsdan_native::{name}", lambda *_, name=name: launched.append(name), lib=library
            )
        with NoWaiting("cuda"):
            for call, memory_format in itertools.product(calls, FORMATS):
                kernel = call.kernels()["cuda"]
                for dtype in kernel.dtypes or (torch.float32,):
                    for boxes in (torch.int32, torch.int64):
                        kernel.run(*call.on_the_gpu(dtype, boxes, memory_format))
    assert set(launched) == names
    assert len(launched) >= 3 * len(names)


class Launches:
    """In place of a Triton kernel: counts its launches."""

    def __init__(self):
        self.count = 0

    def __getitem__(self, grid):
        return self

    def __call__(self, *arguments, **options):
        self.count += 1


# Launches of a call at POOL_SHAPE, by the operator: at most three for each direction.
LAUNCHES = {
    "bilinear_attention_pool": 3,  # max: 2
    "bilinear_attention_pool_backward": 3,
    "attend_and_pool": 3,
    "sample_attention": 1,
    "center_loss": 3,
    "update_centers_": 2,
}
POOL_SHAPE = (BATCH, MAPS, 8, 12, 12)  # its positions are split between programs


@pytest.fixture
def launches(monkeypatch) -> Launches:
    """Counts the launches of Triton kernels, none of which runs."""
    pytest.importorskip("triton")
    from wsdan_kernels._triton import (
        _launch,
        attend_and_pool,
        bilinear_attention_pool,
        center_loss,
        sample_attention,
    )

    counted = Launches()
    for module in (attend_and_pool, bilinear_attention_pool, center_loss, sample_attention):
        for name in vars(module).copy():
            if name.endswith("_kernel"):
                monkeypatch.setattr(module, name, counted)
        monkeypatch.setattr(module, "device_of", lambda tensor: contextlib.nullcontext())
        if hasattr(module, "gpu_of"):
            monkeypatch.setattr(module, "gpu_of", lambda tensor: _launch.assumed)
    return counted


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", on_backend("triton"), ids=str)
def test_the_triton_launchers_stay_on_the_device(case, dtype, launches):
    pooling = len(case.shapes[0]) == len(POOL_SHAPE)
    calls = calls_of(case, POOL_SHAPE if pooling else case.shapes[0])
    assert case.op in {call.name for call in calls}
    with gpu(), NoWaiting("cuda"):
        for call, memory_format in itertools.product(calls, FORMATS):
            arguments = call.on_the_gpu(dtype, torch.int32, memory_format)
            launches.count = 0
            call.kernels()["triton"].run(*arguments)
            forward_max = "max" in arguments and not call.name.endswith("_backward")
            assert launches.count == (2 if forward_max else LAUNCHES[call.name]), call.name


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
