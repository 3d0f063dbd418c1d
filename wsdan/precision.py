"""The precision of the network's passes."""

from contextlib import AbstractContextManager, nullcontext

import torch

from wsdan.config import Config

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(config: Config, device: torch.device) -> AbstractContextManager:
    """The context for a pass of the network under config.precision: nothing for fp32."""
    if config.precision not in HALVES:
        return nullcontext()
    return torch.autocast(device.type, HALVES[config.precision])
