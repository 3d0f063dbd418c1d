"""The operators of wsdan_kernels as torch's own, each of which ONNX has: for programs without
custom operators.

The same equations as in wsdan_kernels/reference, as arithmetic of the whole batch: without a loop
over images, and with no tensor larger than the maps resized to the images.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_NORM = 1e-12  # of pooled features, as in the operators
OPERATORS = torch.ops.wsdan


def _attend_and_pool(
    features: Tensor,
    weight: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    variance: Tensor,
    bn_eps: float,
    *options,
) -> tuple[Tensor, Tensor]:
    """features (B,C,h,w) -> Y (B,M,C), A (B,M,h,w): arXiv:1901.09891 eq. 1 to 4."""
    seen = F.conv2d(features, weight[:, :, None, None])
    attentions = F.batch_norm(seen, mean, variance, gamma, beta, eps=bn_eps).relu()
    reduce, signed_sqrt, normalize, eps, scale, backend = options
    options = (reduce, signed_sqrt, normalize, 1, eps, scale, backend)
    return _bilinear_attention_pool(features, attentions, *options)[0], attentions


def _bilinear_attention_pool(
    features: Tensor,
    attentions: Tensor,
    reduce: str,
    signed_sqrt: bool,
    normalize: str,
    groups: int,
    eps: float,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """features (B,C,h,w), attentions (B,M,h',w') -> Y (B,M,C); P and the positions of the maxima
    are of use to a backward pass only, and stand for nothing here."""
    if (reduce, signed_sqrt, normalize, groups) != ("mean", True, "all", 1):
        raise ValueError("the pooling must be that of wsdan's models")
    if attentions.shape[2:] != features.shape[2:]:
        size = features.shape[2:]
        attentions = F.interpolate(attentions, size, mode="bilinear", align_corners=True)
    rows = features.flatten(2)
    pooled = attentions.flatten(2) @ rows.mT / rows.shape[2]
    root = torch.sign(pooled) * torch.sqrt(pooled.abs() + eps)
    norm = torch.linalg.vector_norm(root, dim=(1, 2), keepdim=True).clamp_min(MIN_NORM)
    return scale * (root / norm), pooled, pooled


def _attention_boxes(
    maps: Tensor,
    thresholds: Tensor,
    height: int,
    width: int,
    padding: float,
    rule: str,
    align_corners: bool,
    backend: str,
) -> Tensor:
    """maps (B,h,w), thresholds (B,1) -> boxes (B,1,4) int32, x1 y1 x2 y2, half-open.

    A row reaches the threshold where its maximum does, so that only rows and columns are compared.
    """
    if rule != "paper":
        raise ValueError(f'the rule of the boxes must be "paper", but got {rule!r}')
    size = (height, width)
    up = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=align_corners)[:, 0]
    rows, columns = up.amax(2), up.amax(1)
    peak = rows.amax(1, keepdim=True)
    alive = torch.isfinite(maps).flatten(1).all(1, keepdim=True) & (peak > 0)
    cut = thresholds * peak
    y1, y2 = _span((rows >= cut) & alive, height, int(padding * height))
    x1, x2 = _span((columns >= cut) & alive, width, int(padding * width))
    return torch.stack((x1, y1, x2, y2), dim=1)[:, None].to(torch.int32)


def _span(hit: Tensor, size: int, pad: int) -> tuple[Tensor, Tensor]:
    """hit (B,size) bool -> start and end (B,); the whole axis where nothing is hit."""
    positions = torch.arange(size, device=hit.device)
    first = torch.where(hit, positions, size).amin(1)
    last = torch.where(hit, positions, -1).amax(1)
    start = (first - pad).clamp_min(0)
    end = torch.maximum((last + pad).clamp_max(size), start + 1)
    found = hit.any(1)
    return torch.where(found, start, 0), torch.where(found, end, size)


def _crop_resize(
    images: Tensor, boxes: Tensor, height: int, width: int, align_corners: bool, backend: str
) -> Tensor:
    """images (B,C,H,W), boxes (B,4) inside them -> (B,C,height,width), bilinear."""
    if images.dtype == torch.uint8:
        options = (boxes, height, width, align_corners, backend)
        return _crop_resize(images.to(torch.float32), *options).round().to(torch.uint8)
    x1, y1, x2, y2 = boxes.to(images.dtype).unbind(1)
    columns = _positions(x1, x2, width, images.shape[3], align_corners)
    rows = _positions(y1, y2, height, images.shape[2], align_corners)
    columns = columns[:, None, :].expand(-1, height, -1)
    rows = rows[:, :, None].expand(-1, -1, width)
    grid = torch.stack((columns, rows), dim=3)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _positions(start: Tensor, end: Tensor, count: int, size: int, corners: bool) -> Tensor:
    """Where `count` outputs sample the interval [start, end) of each image, (B,count), as
    grid_sample counts an axis of `size` pixels: from -1 to 1."""
    index = torch.arange(count, dtype=start.dtype, device=start.device)
    start, end = start[:, None], end[:, None]
    if corners:
        position = start + (end - start - 1) / max(count - 1, 1) * index
    else:
        position = start + (index + 0.5) * ((end - start) / count) - 0.5
        position = torch.minimum(torch.maximum(position, start), end - 1)
    return position * (2 / max(size - 1, 1)) - 1


# For ExportedProgram.run_decompositions.
DECOMPOSITIONS = {
    OPERATORS.attend_and_pool.default: _attend_and_pool,
    OPERATORS.bilinear_attention_pool.default: _bilinear_attention_pool,
    OPERATORS.attention_boxes.default: _attention_boxes,
    OPERATORS.crop_resize.default: _crop_resize,
}
