"""Attention regularisation by feature centers, arXiv:1901.09891 eq. 5, in plain PyTorch.

c_b = centers[labels_b] / max(||centers[labels_b]||_2, 1e-12);
loss = mean over b of ||f_b - c_b||^2.
"""

from torch import Tensor
from torch.nn import functional as F

from wsdan_kernels._dtypes import accumulation_dtype


def _difference(features: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
    """f_b - c_b (B,D), in float32 (float64 stays float64)."""
    dtype = accumulation_dtype(features.dtype)
    return features.to(dtype) - F.normalize(centers[labels].to(dtype), dim=1)


def forward(features: Tensor, centers: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """features (B,D), centers (N,D), labels (B,) -> loss (), f_b - c_b (B,D); 0 if B = 0."""
    difference = _difference(features, centers, labels)
    return difference.square().sum() / max(features.shape[0], 1), difference


def update(centers: Tensor, features: Tensor, labels: Tensor, beta: float, duplicates: str) -> None:
    """centers (N,D) in place: centers[labels_b] += beta (f_b - c_b), c_b read before any update."""
    step = beta * _difference(features, centers, labels)
    if duplicates == "mean":
        step = step / (labels[:, None] == labels).sum(1)[:, None]
    centers.index_put_((labels,), step.to(centers.dtype), accumulate=True)
