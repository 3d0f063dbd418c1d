"""Restores a model's buffers after a skipped training step, without waiting for the device.

The forward passes of a step update batch norm's statistics and the feature centers before its loss
is known. If that loss is not finite, the buffers get their previous values back.
"""

import torch
from torch import Tensor, nn

ALIGNMENT = 64  # elements; each buffer starts aligned, as an allocation of its own would


class Rollback:
    """A copy of a model's buffers from before a step.

    The buffers of each dtype, except the centers, are moved into one tensor (they stay the same
    Tensor objects), so that saving and restoring take two launches each. Of the centers only the
    rows of the step's labels are saved.

    Args:
        model: on its device; its buffers may afterwards only be changed in place.
    """

    def __init__(self, model: nn.Module):
        centers = getattr(model, "centers", None)
        self._centers: Tensor | None = None if centers is None else centers.centers
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for buffer in model.buffers():
            if buffer is not self._centers:
                by_dtype.setdefault(buffer.dtype, []).append(buffer)
        self._flat = [_flattened(buffers) for buffers in by_dtype.values()]
        self._saved = [flat.clone() for flat in self._flat]

    @torch.no_grad()
    def save(self, labels: Tensor) -> None:
        """Save the buffers; labels (B,) int64: the classes whose centers the step will update."""
        for saved, flat in zip(self._saved, self._flat, strict=True):
            saved.copy_(flat)
        if self._centers is not None:
            self._labels, self._rows = labels, self._centers[labels]

    @torch.no_grad()
    def restore_unless(self, finite: Tensor) -> None:
        """Restore the saved values unless `finite`, a () bool tensor, is true."""
        for saved, flat in zip(self._saved, self._flat, strict=True):
            torch.where(finite, flat, saved, out=flat)
        if self._centers is not None:
            rows = torch.where(finite, self._centers[self._labels], self._rows)
            self._centers.index_copy_(0, self._labels, rows)  # repeated labels have equal rows


@torch.no_grad()
def _flattened(buffers: list[Tensor]) -> Tensor:
    """Move the buffers, all of one dtype, into one new 1-D tensor, and return it."""
    spaces = [-(-buffer.numel() // ALIGNMENT) * ALIGNMENT for buffer in buffers]
    flat = buffers[0].new_zeros(sum(spaces))
    start = 0
    for buffer, space in zip(buffers, spaces, strict=True):
        view = flat[start : start + buffer.numel()].view(buffer.shape)
        view.copy_(buffer)
        buffer.data = view
        start += space
    return flat
