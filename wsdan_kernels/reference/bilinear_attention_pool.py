"""Bilinear attention pooling, arXiv:1901.09891 eq. 2-4, in plain PyTorch.

P[b,m,c] = reduce over k of A[b,m,k] * F[b,c,k];  S = sign(P) sqrt(|P| + eps);
Y = scale * S / max(||S||_2, 1e-12).
"""

import torch
from torch import Tensor

from wsdan_kernels._dtypes import accumulation_dtype
from wsdan_kernels.reference._layout import memory_format

MIN_NORM = 1e-12


def index_dtype(positions: int) -> torch.dtype:
    """The smallest integer type that holds a position below `positions`."""
    for dtype in (torch.uint8, torch.int16):
        if positions <= torch.iinfo(dtype).max + 1:
            return dtype
    return torch.int32


def forward(
    features: Tensor,
    attentions: Tensor,
    reduce: str,
    signed_sqrt: bool,
    normalize: str,
    groups: int,
    eps: float,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """features (B,C,h,w), attentions (B,M,h,w) -> Y (B,M,C), P (B,M,C), argmax (B,M,C) or (0,)."""
    dtype = accumulation_dtype(features.dtype)
    rows = features.flatten(2).to(dtype)
    maps = attentions.flatten(2).to(dtype)
    if reduce == "max":
        pooled, index = _max_pool(rows, maps)
        index = index.to(index_dtype(rows.shape[2]))
    else:
        pooled = maps @ rows.mT
        index = features.new_empty(0, dtype=index_dtype(rows.shape[2]))
        if reduce == "mean":
            pooled = pooled / rows.shape[2]
    root = _signed_sqrt(pooled, eps) if signed_sqrt else pooled
    norm = _norm(root, normalize, groups).clamp_min(MIN_NORM)
    return scale * (root / norm), pooled, index


def backward(
    grad_output: Tensor,
    features: Tensor,
    attentions: Tensor,
    pooled: Tensor,
    index: Tensor,
    reduce: str,
    signed_sqrt: bool,
    normalize: str,
    groups: int,
    eps: float,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """grad_output (B,M,C) -> grad_features (B,C,h,w), grad_attentions (B,M,h,w)."""
    dtype = pooled.dtype
    rows = features.flatten(2).to(dtype)
    maps = attentions.flatten(2).to(dtype)
    grad_pooled = _pooled_gradient(
        grad_output.to(dtype) * scale, pooled, signed_sqrt, normalize, groups, eps
    )
    if reduce == "max":
        grad_rows = torch.zeros_like(rows)
        grad_maps = torch.zeros_like(maps)
        for m in range(maps.shape[1]):
            k = index[:, m].to(torch.int64)
            grad_rows.scatter_add_(
                2, k[:, :, None], (grad_pooled[:, m] * maps[:, m].gather(1, k))[:, :, None]
            )
            values = grad_pooled[:, m] * rows.gather(2, k[:, :, None])[:, :, 0]
            grad_maps[:, m].scatter_add_(1, k, values)
    else:
        if reduce == "mean":
            grad_pooled = grad_pooled / rows.shape[2]
        grad_rows = grad_pooled.mT @ maps
        grad_maps = grad_pooled @ rows
    grad_features = grad_rows.to(features.dtype).view(features.shape)
    return (
        grad_features.contiguous(memory_format=memory_format(features)),
        grad_maps.to(attentions.dtype).view(attentions.shape),
    )


def _max_pool(rows: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """rows (B,C,K), maps (B,M,K) -> maximum over k and its lowest position, each (B,M,C)."""
    pooled = rows.new_empty(maps.shape[0], maps.shape[1], rows.shape[1])
    index = torch.empty_like(pooled, dtype=torch.int64)
    for m in range(maps.shape[1]):
        pooled[:, m], index[:, m] = (rows * maps[:, m, None]).max(dim=2)
    return pooled, index


def _signed_sqrt(pooled: Tensor, eps: float) -> Tensor:
    return torch.sign(pooled) * torch.sqrt(pooled.abs() + eps)


def _norm(root: Tensor, normalize: str, groups: int) -> Tensor:
    """Euclidean norm of root (B,M,C), shaped so that it broadcasts against it."""
    if normalize == "none":
        return root.new_ones(())
    if normalize == "part":
        return torch.linalg.vector_norm(root, dim=2, keepdim=True)
    maps = root.shape[1]
    grouped = root.unflatten(1, (groups, maps // groups))
    norm = torch.linalg.vector_norm(grouped, dim=(2, 3))
    return norm.repeat_interleave(maps // groups, dim=1)[:, :, None]


def _group_sum(values: Tensor, normalize: str, groups: int) -> Tensor:
    """Sum of values (B,M,C) over what one norm spans, shaped so that it broadcasts."""
    if normalize == "part":
        return values.sum(2, keepdim=True)
    maps = values.shape[1]
    total = values.unflatten(1, (groups, maps // groups)).sum((2, 3))
    return total.repeat_interleave(maps // groups, dim=1)[:, :, None]


def _pooled_gradient(
    grad: Tensor, pooled: Tensor, signed_sqrt: bool, normalize: str, groups: int, eps: float
) -> Tensor:
    """Gradient to P (B,M,C) through normalisation and root; 0 through the root where P = 0."""
    if normalize != "none":
        root = _signed_sqrt(pooled, eps) if signed_sqrt else pooled
        norm = _norm(root, normalize, groups)
        unit = root / norm.clamp_min(MIN_NORM)
        along = _group_sum(grad * unit, normalize, groups)
        along = torch.where(norm > MIN_NORM, along, torch.zeros_like(along))
        grad = (grad - unit * along) / norm.clamp_min(MIN_NORM)
    if not signed_sqrt:
        return grad
    slope = torch.sign(pooled).abs() / (2 * torch.sqrt(pooled.abs() + eps))
    return grad * torch.where(pooled == 0, torch.zeros_like(slope), slope)
