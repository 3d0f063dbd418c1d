"""Which dtype a tensor is computed in."""

import torch


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for every other dtype: what is computed and accumulated in."""
    return torch.float64 if dtype == torch.float64 else torch.float32
