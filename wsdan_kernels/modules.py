"""The operators as modules, for models that are built from modules."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from wsdan_kernels.functional import bilinear_attention_pool, center_loss, update_centers_


class BilinearAttentionPool(nn.Module):
    """`bilinear_attention_pool` with its options fixed.

    forward: features (B,C,h,w), attentions (B,M,h,w) -> (B,M,C); groups: see the function.
    """

    def __init__(
        self,
        reduce: str = "mean",
        signed_sqrt: bool = True,
        normalize: str | None = "all",
        eps: float = 1e-12,
        scale: float = 1.0,
        backend: str = "auto",
    ):
        super().__init__()
        self.options = {
            "reduce": reduce,
            "signed_sqrt": signed_sqrt,
            "normalize": normalize,
            "eps": eps,
            "scale": scale,
            "backend": backend,
        }

    def forward(self, features: Tensor, attentions: Tensor, groups: int = 1) -> Tensor:
        return bilinear_attention_pool(features, attentions, groups=groups, **self.options)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


class FeatureCenters(nn.Module):
    """The feature centers of attention regularisation: state of the model, not parameters.

    forward: features (B,D), labels (B,) -> scalar loss. `update_` moves the centers afterwards.
    The centers stay float32 in a model of half precision, in which their small steps would be lost;
    features are cast to their dtype.

    Args:
        num_classes: N. dim: D = M*C. beta: step of the update, in [0,1].
        duplicates: "accumulate" or "mean", see `update_centers_`.
    """

    centers: Tensor

    def __init__(
        self,
        num_classes: int,
        dim: int,
        beta: float = 0.05,
        duplicates: str = "accumulate",
        backend: str = "auto",
    ):
        super().__init__()
        self.beta = beta
        self.duplicates = duplicates
        self.backend = backend
        dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
        self.register_buffer("centers", torch.zeros(num_classes, dim, dtype=dtype))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        features = features.to(self.centers.dtype)
        return center_loss(features, self.centers, labels, backend=self.backend)

    @torch.no_grad()
    def update_(self, features: Tensor, labels: Tensor) -> None:
        """Move the centers towards features (B,D) of labels (B,), in place."""
        update_centers_(
            self.centers,
            features.to(self.centers.dtype),
            labels,
            beta=self.beta,
            duplicates=self.duplicates,
            backend=self.backend,
        )

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """What `half`, `bfloat16`, `to` and their kind call."""
        exact = self.centers
        super()._apply(function, recurse)
        if self.centers.dtype.itemsize < torch.float32.itemsize:
            self.centers = exact.to(self.centers.device, torch.float32)
        return self

    def extra_repr(self) -> str:
        classes, dim = self.centers.shape
        return f"{classes}, {dim}, beta={self.beta}, duplicates={self.duplicates!r}"
