"""The precision of a network's forward passes."""

from contextlib import AbstractContextManager, nullcontext

import torch

from wsdan.config import Config

HALF_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(config: Config, device: torch.device) -> AbstractContextManager:
    """The autocast context of config.precision; it does nothing for fp32."""
    if config.precision not in HALF_DTYPES:
        return nullcontext()
    return torch.autocast(device.type, HALF_DTYPES[config.precision])
