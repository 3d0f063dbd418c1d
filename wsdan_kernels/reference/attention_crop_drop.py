"""Both training views of an image, arXiv:1901.09891 section 3.2 (eq. 6-8), in plain PyTorch."""

from torch import Tensor

from wsdan_kernels.reference import attention_drop, crop_resize


def forward(
    images: Tensor,
    boxes: Tensor,
    maps: Tensor,
    thresholds: Tensor,
    rule: str,
    align_corners: bool,
) -> tuple[Tensor, Tensor]:
    """images (B,C,H,W), boxes (B,4), maps (B,h,w), thresholds (B,) -> crops, drops (B,C,H,W).

    align_corners is that of the maps' resize; crops are resized with align_corners=True.
    """
    height, width = images.shape[2:]
    crops = crop_resize.forward(images, boxes, height, width, True)
    return crops, attention_drop.forward(images, maps, thresholds, rule, align_corners)
