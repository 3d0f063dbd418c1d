"""Attention maps (1x1 convolution, batch norm, ReLU) and the pooling under them, for inference.

A = relu(norm(W F)), arXiv:1901.09891 eq. 1, with the norm's running mean and variance; then
bilinear_attention_pool.
"""

from torch import Tensor
from torch.nn import functional as F

from wsdan_kernels.reference import bilinear_attention_pool as pool
from wsdan_kernels.reference._layout import memory_format


def attend(
    features: Tensor,
    weight: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    variance: Tensor,
    bn_eps: float,
) -> Tensor:
    """features (B,C,h,w), weight (M,C) -> A (B,M,h,w), in the features' dtype and format."""
    kernel = weight.to(features.dtype)[:, :, None, None]
    seen = F.conv2d(features, kernel)
    seen = F.batch_norm(seen, mean, variance, gamma, beta, training=False, eps=bn_eps).relu_()
    return seen.contiguous(memory_format=memory_format(features))


def forward(
    features: Tensor,
    weight: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    variance: Tensor,
    bn_eps: float,
    reduce: str,
    signed_sqrt: bool,
    normalize: str,
    eps: float,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """-> Y (B,M,C), A (B,M,h,w)."""
    attentions = attend(features, weight, gamma, beta, mean, variance, bn_eps)
    options = (reduce, signed_sqrt, normalize, 1, eps, scale)
    return pool.forward(features, attentions, *options)[0], attentions
