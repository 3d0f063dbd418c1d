"""Erasing what a map attends to, arXiv:1901.09891 section 3.2 (eq. 7-8), in plain PyTorch."""

import torch
from torch import Tensor

from wsdan_kernels.reference._layout import memory_format
from wsdan_kernels.reference.attention_boxes import reached


def forward(
    images: Tensor, maps: Tensor, thresholds: Tensor, rule: str, align_corners: bool
) -> Tensor:
    """images (B,C,H,W), maps (B,h,w), thresholds (B,) -> images where up < T, 0 elsewhere."""
    height, width = images.shape[2:]
    hit = reached(maps, thresholds[:, None], height, width, rule, align_corners)
    dropped = torch.where(hit, torch.zeros((), dtype=images.dtype, device=images.device), images)
    return dropped.contiguous(memory_format=memory_format(images))
