"""Fused operators for WS-DAN (arXiv:1901.09891), attention-guided fine-grained classification."""

from wsdan_kernels._version import VERSION
from wsdan_kernels.backends import BackendUnavailableError, available, explain
from wsdan_kernels.exported import ExportedModel, load_exported
from wsdan_kernels.functional import (
    attend_and_pool,
    attention_boxes,
    attention_drop,
    attention_swap,
    bilinear_attention_pool,
    center_loss,
    crop_resize,
    sample_attention,
    update_centers_,
)
from wsdan_kernels.modules import BilinearAttentionPool, FeatureCenters
from wsdan_kernels.views import (
    attention_crop,
    attention_crop_drop,
    attention_refine,
    otsu_thresholds,
)

__version__ = VERSION

# Every function and class imported above, in words that a type checker reads.
__all__ = [
    "BackendUnavailableError",
    "BilinearAttentionPool",
    "ExportedModel",
    "FeatureCenters",
    "attend_and_pool",
    "attention_boxes",
    "attention_crop",
    "attention_crop_drop",
    "attention_drop",
    "attention_refine",
    "attention_swap",
    "available",
    "bilinear_attention_pool",
    "center_loss",
    "crop_resize",
    "explain",
    "load_exported",
    "otsu_thresholds",
    "sample_attention",
    "update_centers_",
]
