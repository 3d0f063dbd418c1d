"""A mock of CUDA graphs for the CPU, and a check that operators do not wait for the device.

Like a CUDA graph, a `Tape` records the operators of its capture with the memory they read and
write, and `replay` runs them again. A replay runs no Python code of the step, and every Python
number that the step used keeps its value of the capture.
"""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

SYNCHRONIZING = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")


def waits(func, args) -> bool:
    """Whether this operator makes the host wait for a GPU: its result depends on tensor values."""
    if func.name().partition(".")[0] in INDEXING:
        return any(item.dtype in (torch.bool, torch.uint8) for item in args[1] if item is not None)
    return any(tag in func.tags for tag in SYNCHRONIZING)


class NoWaiting(TorchDispatchMode):
    """Fails on operators that wait for the device and, if given, on tensors off `device`."""

    def __init__(self, device: str | None = None):
        super().__init__()
        self.device = device
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not waits(func, args), f"{func} waits for the device"
        results = func(*args, **(kwargs or {}))
        for item in tree_leaves((args, kwargs, results)):
            if self.device is not None and isinstance(item, torch.Tensor):
                assert item.device.type == self.device, f"{func}: a tensor on {item.device}"
        self.seen.append(func.name())
        return results


class Tape(NoWaiting):
    """A mock of torch.cuda.CUDAGraph: a capture records what runs in it, and changes nothing."""

    def __init__(self):
        super().__init__()
        self.calls: list[tuple] = []
        self.captured = False
        self.replays = 0
        # By address: memory that the capture allocated, and other memory it used, with its values.
        self._own: dict[int, torch.Tensor] = {}
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @contextlib.contextmanager
    def capture(self):
        random = torch.get_rng_state()
        with self:
            yield
        with torch.no_grad():
            for tensor, value in self._before.values():
                tensor.copy_(value)
        torch.set_rng_state(random)
        self._fill_with_nan()
        self.captured = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inputs = [item for item in tree_leaves((args, kwargs)) if isinstance(item, torch.Tensor)]
        for item in inputs:
            memory = item.untyped_storage().data_ptr()
            if memory not in self._own and memory not in self._before:
                self._before[memory] = item.detach(), item.detach().clone()
        results = super().__torch_dispatch__(func, types, args, kwargs)
        read = {item.untyped_storage().data_ptr() for item in inputs}
        fresh = []
        for item in tree_leaves(results):
            new = isinstance(item, torch.Tensor) and item.untyped_storage().data_ptr() not in read
            fresh.append(item.detach() if new else None)
            if new:
                self._own[item.untyped_storage().data_ptr()] = fresh[-1]
        # Detached, so that the tape does not keep the autograd graph.
        args, kwargs = tree_map_only(torch.Tensor, torch.Tensor.detach, (args, kwargs))
        self.calls.append((func, args, kwargs, fresh))
        return results

    @torch.no_grad()
    def replay(self) -> None:
        assert self.captured
        self.replays += 1
        self._fill_with_nan()
        for func, args, kwargs, fresh in self.calls:
            for target, value in zip(fresh, tree_leaves(func(*args, **kwargs)), strict=True):
                if target is not None:
                    target.copy_(value)

    def _fill_with_nan(self) -> None:
        """A replay must not depend on what an earlier one left in the graph's own memory."""
        for tensor in self._own.values():
            if tensor.is_floating_point():
                tensor.fill_(torch.nan)


class Stream:
    """A mock of torch.cuda.Stream."""

    def wait_stream(self, other) -> None:
        assert isinstance(other, Stream)


def mock_cuda_graphs(monkeypatch) -> list[Tape]:
    """Replace torch.cuda's graphs and streams; returns a list to which new graphs are added."""
    graphs: list[Tape] = []

    def new_graph():
        graphs.append(Tape())
        return graphs[-1]

    monkeypatch.setattr(torch.cuda, "CUDAGraph", new_graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **options: graph.capture())
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    return graphs
