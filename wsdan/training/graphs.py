"""A training step as one CUDA graph: a single launch instead of thousands (`--cuda-graph`)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from wsdan.errors import UserError

# Steps before the capture. They load kernels, compile Triton's, and make the optimizer's state: a
# graph could hold none of these, and SGD's first step is another than those that follow.
WARM_UP = 3


class GraphedStep:
    """Runs a training step on whole batches through one CUDA graph.

    The warm-up steps are real ones, and a capture runs nothing: weights, centers, batch norm,
    optimizer and random numbers go on as without a graph. A batch of another size than
    `batch_size` runs the step as it stands. The results are overwritten by the next call.

    Args:
        step: tensors of B rows -> dict of tensors. It must neither wait for the device nor depend
            on anything but these, the device's memory and its default generator.
        optimizer: the one that `step` uses; fused, and capturable where it has that option. After
            the capture its state may only be changed in place.
        batch_size: images of a whole batch.

    Raises:
        UserError: the step cannot be captured.
    """

    def __init__(
        self,
        step: Callable[..., dict[str, Tensor]],
        optimizer: torch.optim.Optimizer,
        batch_size: int,
    ):
        self._step = step
        self._optimizer = optimizer
        self._batch_size = batch_size
        self._steps = 0  # on whole batches
        self._stream = torch.cuda.Stream()
        self._graph: torch.cuda.CUDAGraph | None = None
        device = optimizer.param_groups[0]["params"][0].device
        self._rates = [
            torch.zeros((), dtype=torch.float32, device=device) for _ in optimizer.param_groups
        ]

    def __call__(self, *batch: Tensor) -> dict[str, Tensor]:
        with self._rates_on_device():
            if len(batch[0]) != self._batch_size:
                return self._step(*batch)
            self._steps += 1
            if self._steps <= WARM_UP:
                return self._warm_up(*batch)
            if self._graph is None:
                self._capture(*batch)
            for held, tensor in zip(self._batch, batch, strict=True):
                held.copy_(tensor)
            self._graph.replay()
            return self._results

    @contextmanager
    def _rates_on_device(self) -> Iterator[None]:
        """The optimizer reads its learning rates from the device, where a graph finds today's.

        Outside they stay the numbers that the schedule sets and a checkpoint holds.
        """
        groups = self._optimizer.param_groups
        numbers = [group["lr"] for group in groups]
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate.fill_(group["lr"])
        try:
            yield
        finally:
            for group, number in zip(groups, numbers, strict=True):
                group["lr"] = number

    def _warm_up(self, *batch: Tensor) -> dict[str, Tensor]:
        """A step on the stream that will be captured, which has its own workspaces."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            results = self._step(*batch)
        torch.cuda.current_stream().wait_stream(self._stream)
        return results

    def _capture(self, *batch: Tensor) -> None:
        self._batch = [tensor.clone() for tensor in batch]
        self._optimizer.zero_grad(set_to_none=True)  # the graph's gradients are its own memory
        graph = torch.cuda.CUDAGraph()
        try:
            # The thread that pins the next batches may allocate meanwhile: "thread_local" lets it.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._results = self._step(*self._batch)
        except RuntimeError as error:
            cause = error.__context__ or error  # the end of a failed capture raises as well
            reason = str(cause).splitlines()[0]
            raise UserError(f"--cuda-graph: the step cannot be captured: {reason}") from error
        self._graph = graph
