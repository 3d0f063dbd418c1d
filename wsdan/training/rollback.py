"""Taking back what a training step did to a model's buffers, without waiting for the device.

The forward passes of a step move batch norm's statistics and the feature centers before its loss is
known. Where that loss is no finite number, the buffers become again what they were.
"""

import torch
from torch import Tensor, nn

ALIGNMENT = 64  # elements; buffers start where an allocation of their own could have


class Rollback:
    """The buffers of a model from before a step.

    All but the centers move into one piece of memory for each dtype (they stay the same tensors),
    so that keeping them and putting them back are two launches each. Of the centers only the rows
    of the step's labels are kept.

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
        self._memory = [_in_one_piece(buffers) for buffers in by_dtype.values()]
        self._kept = [memory.clone() for memory in self._memory]

    @torch.no_grad()
    def keep(self, labels: Tensor) -> None:
        """Keep the buffers; labels (B,) int64: the classes whose centers the step will move."""
        for kept, memory in zip(self._kept, self._memory, strict=True):
            kept.copy_(memory)
        if self._centers is not None:
            self._labels, self._rows = labels, self._centers[labels]

    @torch.no_grad()
    def restore_unless(self, good: Tensor) -> None:
        """Put the kept values back unless `good`, a () bool tensor, is true."""
        for kept, memory in zip(self._kept, self._memory, strict=True):
            torch.where(good, memory, kept, out=memory)
        if self._centers is not None:
            rows = torch.where(good, self._centers[self._labels], self._rows)
            self._centers.index_copy_(0, self._labels, rows)  # equal rows where labels repeat


@torch.no_grad()
def _in_one_piece(buffers: list[Tensor]) -> Tensor:
    """Move the buffers, all of one dtype, into one new tensor, which is returned."""
    spaces = [-(-buffer.numel() // ALIGNMENT) * ALIGNMENT for buffer in buffers]
    memory = buffers[0].new_zeros(sum(spaces))
    start = 0
    for buffer, space in zip(buffers, spaces, strict=True):
        part = memory[start : start + buffer.numel()].view(buffer.shape)
        part.copy_(buffer)
        buffer.data = part
        start += space
    return memory
