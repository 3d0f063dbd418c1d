"""The precision of a network's forward passes."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from wsdan.config import Config

HALF_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def input_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of the images a model takes: that of its weights, e.g. after `model.half()`."""
    return next((item.dtype for item in model.parameters()), torch.float32)


def autocast(config: Config, device: torch.device) -> AbstractContextManager:
    """The autocast context of config.precision; it does nothing for fp32."""
    if config.precision not in HALF_DTYPES:
        return nullcontext()
    return torch.autocast(device.type, HALF_DTYPES[config.precision])
