"""A training step as one CUDA graph (`--cuda-graph`): one launch instead of thousands."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from wsdan.errors import UserError

# Steps before the capture. They load kernels, compile Triton's, and create the optimizer's state. A
# graph can hold none of these, and SGD's first step differs from the following ones.
WARM_UP = 3


class GraphedStep:
    """Runs a training step on full batches through one CUDA graph.

    The warm-up steps train, and a capture runs nothing: weights, centers, batch norm, optimizer
    and random numbers advance as without a graph. A batch of another size than `batch_size` runs
    the step without the graph. The next call overwrites the results.

    Args:
        step: tensors of B rows -> dict of tensors. It must not wait for the device, and may depend
            only on its arguments, the device's memory and the device's default generator.
        optimizer: the one that `step` uses; fused, and capturable if it has that option. After the
            capture its state may only be changed in place.
        batch_size: images in a full batch.

    Raises:
        UserError: if the step cannot be captured.
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
        self._steps = 0  # on full batches
        self._stream = torch.cuda.Stream()
        self._graph: torch.cuda.CUDAGraph | None = None
        device = optimizer.param_groups[0]["params"][0].device
        self._lrs = [
            torch.zeros((), dtype=torch.float32, device=device) for _ in optimizer.param_groups
        ]

    def __call__(self, *batch: Tensor, **named: Tensor) -> dict[str, Tensor]:
        with self._lrs_on_device():
            if len(batch[0]) != self._batch_size:
                return self._step(*batch, **named)
            self._steps += 1
            if self._steps <= WARM_UP:
                return self._warm_up(*batch, **named)
            if self._graph is None:
                self._capture(*batch, **named)
            for static, tensor in zip(self._batch, batch, strict=True):
                static.copy_(tensor)
            for name, tensor in named.items():
                self._named[name].copy_(tensor)
            self._graph.replay()
            return self._results

    @contextmanager
    def _lrs_on_device(self) -> Iterator[None]:
        """Have the optimizer read its learning rates from tensors, so that a graph sees new values.

        Outside this context they are the floats that the scheduler sets and a checkpoint holds.
        """
        groups = self._optimizer.param_groups
        values = [group["lr"] for group in groups]
        for group, lr in zip(groups, self._lrs, strict=True):
            group["lr"] = lr.fill_(group["lr"])
        try:
            yield
        finally:
            for group, value in zip(groups, values, strict=True):
                group["lr"] = value

    def _warm_up(self, *batch: Tensor, **named: Tensor) -> dict[str, Tensor]:
        """Run the step on the stream of the capture, which has its own workspaces."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            results = self._step(*batch, **named)
        torch.cuda.current_stream().wait_stream(self._stream)
        return results

    def _capture(self, *batch: Tensor, **named: Tensor) -> None:
        self._batch = [tensor.clone() for tensor in batch]
        self._named = {name: tensor.clone() for name, tensor in named.items()}
        self._optimizer.zero_grad(set_to_none=True)  # the graph allocates its own gradients
        graph = torch.cuda.CUDAGraph()
        try:
            # "thread_local": the thread that pins the next batches may allocate meanwhile.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._results = self._step(*self._batch, **self._named)
        except RuntimeError as error:
            cause = error.__context__ or error  # ending a failed capture raises too
            reason = str(cause).splitlines()[0]
            raise UserError(f"--cuda-graph: the step cannot be captured: {reason}") from error
        self._graph = graph
