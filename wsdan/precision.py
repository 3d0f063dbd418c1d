"""The precision of a network's forward passes."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from wsdan.config import Config

HALF_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def input_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of the images a model takes: that of its weights, e.g. after `model.half()`."""
    return next((item.dtype for item in model.parameters()), torch.float32)


def pick_precision(name: str, device: torch.device, compiled: bool = False) -> str:
    """The precision that a `--precision` stands for: of "auto" "bf16" on a GPU of compute
    capability 8.0 or more and on a CPU with AMX, which multiply it fast, and else "fp32".

    compiled: with --compile, whose gradients in bfloat16 are NaN on a CPU: "auto" is "fp32" there.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        fast = torch.cpu.get_capabilities().get("amx_bf16", False) and not compiled
    return "bf16" if fast else "fp32"


def inference_precision(name: str, device: torch.device) -> str:
    """The precision with which a checkpoint of precision `name` is run on a device: "auto" for one
    that the device may multiply slowly, as a CPU without AMX does bfloat16."""
    slow = name == "bf16" or (name == "fp16" and device.type == "cpu")
    return "auto" if slow else name


def autocast(config: Config, device: torch.device) -> AbstractContextManager:
    """The autocast context of config.precision; it does nothing for fp32."""
    precision = pick_precision(config.precision, device, config.compile)
    if precision not in HALF_DTYPES:
        return nullcontext()
    return torch.autocast(device.type, HALF_DTYPES[precision])
