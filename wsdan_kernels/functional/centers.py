"""Attention regularisation by feature centers (arXiv:1901.09891 eq. 5)."""

import torch
from torch import Tensor

from wsdan_kernels import _checks as check
from wsdan_kernels import ops
from wsdan_kernels.backends import resolve


def center_loss(
    features: Tensor, centers: Tensor, labels: Tensor, *, backend: str = "auto"
) -> Tensor:
    """Attention regularisation (eq. 5): mean over b of ||f_b - c_b||^2.

    c_b = centers[labels_b] / max(||centers[labels_b]||_2, 1e-12). Differentiable in features only.

    Args:
        features: (B,D) floating point; the pooled features, flattened.
        centers: (N,D) of the same dtype and device.
        labels: (B,) int64 or int32 in [0,N). On the CPU the range is checked; on a GPU that would
            wait for the device: there a label out of range makes the loss NaN (triton) or stops
            the device with an assertion (reference).

    Returns:
        Scalar, float64 for float64 inputs, else float32; 0 for an empty batch.

    Raises:
        TypeError, ValueError: for a wrong argument, with its rule and the value.
    """
    op = "center_loss"
    _check_centers(op, features, centers, labels)
    chosen = resolve(op, backend, features.device.type, features.dtype)
    return ops.center_loss.forward(features, centers.detach(), labels.to(torch.int64), chosen)[0]


def update_centers_(
    centers: Tensor,
    features: Tensor,
    labels: Tensor,
    *,
    beta: float = 0.05,
    duplicates: str = "accumulate",
    backend: str = "auto",
) -> Tensor:
    """Move the feature centers, in place (eq. 5): centers[labels_b] += beta (f_b - c_b).

    c_b is the normalised center as in center_loss, read before any update. Deterministic.

    Args:
        centers: (N,D) floating point, written in place; must not require a gradient.
        features: (B,D) of the same dtype and device.
        labels: (B,) int64 or int32 in [0,N); on a GPU one out of range moves no center (triton),
            see center_loss.
        beta: in [0,1].
        duplicates: a label that occurs several times in the batch moves its center by the sum of
            the steps ("accumulate", the official code) or by their mean ("mean").

    Returns:
        centers.

    Raises:
        TypeError, ValueError: for a wrong argument, with its rule and the value.
    """
    op = "update_centers_"
    _check_centers(op, features, centers, labels)
    check.number(op, "beta", beta, 0.0, 1.0)
    check.choice(op, "duplicates", duplicates, ("accumulate", "mean"))
    if centers.requires_grad:
        rule = "a buffer that does not require a gradient"
        raise check.wrong_value(op, "centers", rule, "requires_grad=True")
    chosen = resolve(op, backend, centers.device.type, centers.dtype)
    ops.update_centers_.forward(
        centers, features.detach(), labels.to(torch.int64), float(beta), duplicates, chosen
    )
    return centers


def _check_centers(op: str, features: Tensor, centers: Tensor, labels: Tensor) -> None:
    check.tensor(op, "features", features, "B D")
    check.tensor(op, "centers", centers, "N D")
    check.tensor(op, "labels", labels, "B", check.INTEGER)
    check.not_empty(op, "centers", centers, (0, 1))
    check.same_dtype(op, ("features", features), ("centers", centers))
    check.same_device(op, ("features", features), ("centers", centers))
    check.same_device(op, ("features", features), ("labels", labels))
    check.same_batch(op, ("features", features), ("labels", labels))
    if features.shape[1] != centers.shape[1]:
        rule = f"of the width of centers {check.shape_text(centers)}"
        raise check.wrong_value(op, "features", rule, check.shape_text(features))
    check.index_range(op, "labels", labels, centers.shape[0])
