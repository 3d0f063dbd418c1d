"""Both training views of an image, arXiv:1901.09891 section 3.2 (eq. 6-8), in plain PyTorch."""

from torch import Tensor

from wsdan_kernels.reference import attention_boxes, attention_drop, crop_resize


def forward(
    images: Tensor,
    crop_maps: Tensor,
    drop_maps: Tensor,
    crop_thresholds: Tensor,
    drop_thresholds: Tensor,
    padding: float,
    rule: str,
    align_corners: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """images (B,C,H,W), maps (B,h,w), thresholds (B,) -> crops, drops (B,C,H,W), boxes (B,4) int32.

    align_corners is that of the maps' resize; crops are resized with align_corners=True.
    """
    height, width = images.shape[2:]
    thresholds = crop_thresholds[:, None]
    boxes = attention_boxes.forward(
        crop_maps, thresholds, height, width, padding, rule, align_corners
    ).squeeze(1)
    crops = crop_resize.forward(images, boxes, height, width, True)
    drops = attention_drop.forward(images, drop_maps, drop_thresholds, rule, align_corners)
    return crops, drops, boxes
