"""Each operator's equation (arXiv:1901.09891) by loops over elements, in Python's float64.

Written from the equations alone: nothing here calls wsdan_kernels or torch's mathematics. A
function has the name of its operator and takes the inputs and options of an OpCase: floating-point
tensors in float64, integer tensors as they are. It returns a tensor, or a tuple of them.
"""

import math

import torch
from torch import Tensor


def bilinear_attention_pool(
    features: Tensor,
    attentions: Tensor,
    reduce: str = "mean",
    signed_sqrt: bool = True,
    normalize: str | None = "all",
    groups: int = 1,
    eps: float = 1e-12,
    scale: float = 1.0,
) -> Tensor:
    """Eq. 2-4: P = reduce over k of A F, S = sign(P) sqrt(|P| + eps), Y = scale S / ||S||_2."""
    height, width = features.shape[2:]
    results = []
    for image, maps in zip(features.tolist(), attentions.tolist(), strict=True):
        rows = []
        for attention in maps:
            attention = _resized(attention, height, width, align_corners=True)
            pooled = [_pooled(attention, channel, reduce) for channel in image]
            rows.append([_signed_root(p, eps) for p in pooled] if signed_sqrt else pooled)
        size = {"all": len(rows) // groups, "part": 1, None: len(rows)}[normalize]
        output = []
        for first in range(0, len(rows), size):
            group = rows[first : first + size]
            norm = math.sqrt(math.fsum(s * s for row in group for s in row))
            divisor = 1.0 if normalize is None else max(norm, 1e-12)
            output += [[scale * s / divisor for s in row] for row in group]
        results.append(output)
    return torch.tensor(results, dtype=torch.float64)


def attend_and_pool(
    features: Tensor, weight: Tensor, norm: Tensor, **options
) -> tuple[Tensor, Tensor]:
    """Eq. 1: A = relu(batch_norm(W F)), then the pooling. norm: see testing._attend."""
    gammas, betas, means, spreads = norm.tolist()
    maps = []
    for image in features.tolist():
        seen = []
        for m, row in enumerate(weight.flatten(1).tolist()):
            deviation = math.sqrt(abs(spreads[m]) + 0.5 + 1e-5)
            seen.append(
                [
                    [
                        max((_dot(row, column) - means[m]) / deviation * gammas[m] + betas[m], 0.0)
                        for column in zip(*lines, strict=True)
                    ]
                    for lines in zip(*image, strict=True)
                ]
            )
        maps.append(seen)
    attentions = torch.tensor(maps, dtype=torch.float64)
    return bilinear_attention_pool(features, attentions, **options), attentions


def sample_attention(attentions: Tensor, uniforms: Tensor) -> Tensor:
    """Section 3.2: map m with the weight sqrt(mean of map m), by the inverse of their sums."""
    picks = []
    for maps, numbers in zip(attentions.tolist(), uniforms.tolist(), strict=True):
        weights = []
        for attention in maps:
            values = [value for row in attention for value in row]
            weights.append(math.sqrt(max(math.fsum(values) / len(values), 0.0)))
        if not any(weights):
            weights = [1.0] * len(weights)
        ends = [math.fsum(weights[: m + 1]) for m in range(len(weights))]
        picks.append(
            [next(m for m, end in enumerate(ends) if number * ends[-1] < end) for number in numbers]
        )
    return torch.tensor(picks, dtype=torch.int64)


def attention_boxes(
    maps: Tensor,
    images: Tensor,
    threshold: float | tuple[float, ...],
    padding: float,
    rule: str = "paper",
    align_corners: bool = True,
) -> Tensor:
    """Eq. 6: the padded box around the rows and columns where up >= threshold * peak."""
    height, width = images.shape[2:]
    single = isinstance(threshold, float)
    results = []
    for attention in maps.tolist():
        boxes = []
        for share in (threshold,) if single else threshold:
            hit = _reached(attention, share, height, width, rule, align_corners)
            rows = [y for y in range(height) if any(hit[y])]
            columns = [x for x in range(width) if any(row[x] for row in hit)]
            top, bottom = _side(rows, height, padding, rule)
            left, right = _side(columns, width, padding, rule)
            boxes.append([left, top, right, bottom])
        results.append(boxes[0] if single else boxes)
    return torch.tensor(results, dtype=torch.int32)


def crop_resize(
    images: Tensor,
    boxes: Tensor,
    size: tuple[int, int] | None = None,
    align_corners: bool = True,
) -> Tensor:
    """Section 3.2: each box x1 y1 x2 y2, resized bilinear to `size`."""
    height, width = images.shape[2:]
    rows, columns = size or (height, width)
    results = []
    for image, box in zip(images.tolist(), boxes.tolist(), strict=True):
        x1 = min(max(box[0], 0), width - 1)
        y1 = min(max(box[1], 0), height - 1)
        x2 = max(min(box[2], width), x1 + 1)
        y2 = max(min(box[3], height), y1 + 1)
        parts = [[row[x1:x2] for row in plane[y1:y2]] for plane in image]
        results.append([_resized(part, rows, columns, align_corners) for part in parts])
    return torch.tensor(results, dtype=torch.float64)


def attention_drop(
    images: Tensor,
    maps: Tensor,
    threshold: float | Tensor,
    rule: str = "paper",
    align_corners: bool = True,
) -> Tensor:
    """Eq. 7-8: the image where up < threshold * peak, 0 elsewhere."""
    height, width = images.shape[2:]
    shares = threshold.tolist() if isinstance(threshold, Tensor) else [threshold] * len(images)
    results = []
    for image, attention, share in zip(images.tolist(), maps.tolist(), shares, strict=True):
        hit = _reached(attention, share, height, width, rule, align_corners)
        results.append(
            [
                [[0.0 if hit[y][x] else plane[y][x] for x in range(width)] for y in range(height)]
                for plane in image
            ]
        )
    return torch.tensor(results, dtype=torch.float64)


def attention_swap(images: Tensor, boxes: Tensor, partners: Tensor) -> Tensor:
    """CALMix (arXiv:2605.18700): in each box the partner's, resized to it; else the image."""
    height, width = images.shape[2:]
    sources, places = images.tolist(), []
    for x1, y1, x2, y2 in boxes.tolist():
        x, y = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
        places.append((x, y, max(min(x2, width), x + 1), max(min(y2, height), y + 1)))
    results = images.tolist()
    for b, p in enumerate(partners.tolist()):
        x1, y1, x2, y2 = places[b]
        left, top, right, bottom = places[p]
        for channel, source in zip(results[b], sources[p], strict=True):
            part = [row[left:right] for row in source[top:bottom]]
            patch = _resized(part, y2 - y1, x2 - x1, align_corners=True)
            for row, values in zip(channel[y1:y2], patch, strict=True):
                row[x1:x2] = row[x1:x2] if p == b else values
    return torch.tensor(results, dtype=torch.float64)


def attention_crop_drop(
    images: Tensor,
    crop_maps: Tensor,
    drop_maps: Tensor,
    drop_threshold: Tensor,
    crop_threshold: float,
    padding: float = 0.1,
) -> tuple[Tensor, Tensor]:
    """Both training views: the box of the crop map, resized, and the drop."""
    boxes = attention_boxes(crop_maps, images, crop_threshold, padding)
    return crop_resize(images, boxes), attention_drop(images, drop_maps, drop_threshold)


def center_loss(features: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
    """Eq. 5: mean over b of ||f_b - c_b||^2, c_b the normalised center of the label."""
    squares = [d * d for row in _differences(features, centers, labels) for d in row]
    return torch.tensor(math.fsum(squares) / len(features), dtype=torch.float64)


def update_centers_(
    centers: Tensor, features: Tensor, labels: Tensor, duplicates: str, beta: float = 0.05
) -> Tensor:
    """Eq. 5: centers[labels_b] += beta (f_b - c_b); of equal labels the sum, or the mean."""
    result = centers.tolist()
    numbers = labels.tolist()
    for label, row in zip(numbers, _differences(features, centers, labels), strict=True):
        count = numbers.count(label) if duplicates == "mean" else 1
        for j, difference in enumerate(row):
            result[label][j] += beta * difference / count
    return torch.tensor(result, dtype=torch.float64)


def _differences(features: Tensor, centers: Tensor, labels: Tensor) -> list[list[float]]:
    """f_b - c_b, c_b = centers[labels_b] / max(||centers[labels_b]||_2, 1e-12)."""
    rows = []
    for feature, label in zip(features.tolist(), labels.tolist(), strict=True):
        center = centers[label].tolist()
        norm = max(math.sqrt(_dot(center, center)), 1e-12)
        rows.append([f - c / norm for f, c in zip(feature, center, strict=True)])
    return rows


def _dot(first, second) -> float:
    return math.fsum(a * b for a, b in zip(first, second, strict=True))


def _pooled(attention: list, channel: list, reduce: str) -> float:
    products = [
        a * f
        for maps, features in zip(attention, channel, strict=True)
        for a, f in zip(maps, features, strict=True)
    ]
    if reduce == "max":
        return max(products)
    return math.fsum(products) / (len(products) if reduce == "mean" else 1)


def _signed_root(value: float, eps: float) -> float:
    return math.copysign(math.sqrt(abs(value) + eps), value) if value else 0.0


def _resized(values: list, height: int, width: int, align_corners: bool) -> list[list[float]]:
    """A plane (h,w), resized bilinear to (height,width); as it is where the sizes are the same."""
    rows, columns = len(values), len(values[0])
    if (rows, columns) == (height, width):
        return values
    across = [_tap(x, columns, width, align_corners) for x in range(width)]
    result = []
    for y in range(height):
        above, below, down = _tap(y, rows, height, align_corners)
        upper = [(1 - t) * values[above][i] + t * values[above][j] for i, j, t in across]
        lower = [(1 - t) * values[below][i] + t * values[below][j] for i, j, t in across]
        result.append([(1 - down) * a + down * b for a, b in zip(upper, lower, strict=True)])
    return result


def _tap(i: int, length: int, size: int, align_corners: bool) -> tuple[int, int, float]:
    """Element i of `size` from an axis of `length`: both neighbours, the second one's weight."""
    if align_corners:
        position = i * (length - 1) / (size - 1) if size > 1 else 0.0
    else:
        position = max((i + 0.5) * length / size - 0.5, 0.0)
    lower = min(int(position), length - 1)
    return lower, min(lower + 1, length - 1), min(position - lower, 1.0)


def _reached(
    attention: list, share: float, height: int, width: int, rule: str, align_corners: bool
) -> list[list[bool]]:
    """Where the resized map is at or above share * peak; nowhere for a map without a peak."""
    up = _resized(attention, height, width, align_corners)
    peak = max(value for row in (up if rule == "paper" else attention) for value in row)
    return [[peak > 0 and value >= share * peak for value in row] for row in up]


def _side(hit: list[int], size: int, padding: float, rule: str) -> tuple[int, int]:
    """Start and end of a box's side; the whole axis where nothing is hit."""
    if not hit:
        return 0, size
    if rule == "paper":
        pad = int(padding * size)
        start, end = max(hit[0] - pad, 0), min(hit[-1] + pad, size)
    else:
        start = max(int(hit[0] - padding * size), 0)
        end = min(int(hit[-1] + padding * size), size)
    return start, max(end, start + 1)
