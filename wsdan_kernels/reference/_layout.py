"""The memory format of results: channels_last where the input is so, else contiguous."""

import torch
from torch import Tensor


def memory_format(tensor: Tensor) -> torch.memory_format:
    """torch.channels_last for a tensor (B,C,H,W) that is so and not contiguous as well."""
    if tensor.is_contiguous() or not tensor.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


def empty_like(tensor: Tensor) -> Tensor:
    """An uninitialised tensor (B,C,H,W) like this one, in its memory format."""
    return torch.empty_like(tensor, memory_format=memory_format(tensor))
