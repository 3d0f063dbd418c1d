"""Batches of images, as the loaders return them."""

import torch

from wsdan.data.loaders import Batch


def make_batch(images, labels, boxes=None, bad=()) -> Batch:
    """images (B,3,H,W), labels (B,), boxes (B,4) or None if unknown."""
    count = len(labels)
    return Batch(
        images=images,
        labels=labels,
        uniforms=torch.zeros(count, 4),
        boxes=torch.full((count, 4), torch.nan) if boxes is None else boxes,
        names=[f"{index}.png" for index in range(count)],
        sizes=[tuple(images.shape[:1:-1])] * count,
        indices=list(range(count)),
        bad=list(bad),
    )


def unreadable(text: str) -> Batch:
    """A batch of one unreadable image, with its error message."""
    return make_batch(torch.empty(0), torch.empty(0, dtype=torch.int64), bad=[text])
