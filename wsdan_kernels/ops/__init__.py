"""The dispatcher operators `torch.ops.wsdan.*`, each declared once in its own module."""

from wsdan_kernels.ops import (
    attend_and_pool,
    attention_boxes,
    attention_crop_drop,
    attention_drop,
    bilinear_attention_pool,
    center_loss,
    crop_resize,
    sample_attention,
)
from wsdan_kernels.ops._declare import Kernel

KERNELS: dict[str, dict[str, Kernel]] = {
    "bilinear_attention_pool": bilinear_attention_pool.KERNELS,
    "attend_and_pool": attend_and_pool.KERNELS,
    "sample_attention": sample_attention.KERNELS,
    "attention_boxes": attention_boxes.KERNELS,
    "crop_resize": crop_resize.KERNELS,
    "attention_drop": attention_drop.KERNELS,
    "attention_crop_drop": attention_crop_drop.KERNELS,
    "center_loss": center_loss.KERNELS,
    "update_centers_": center_loss.UPDATE_KERNELS,
}
