"""A CUDA graph's stand-in for the CPU, and what operators would make a GPU's host wait.

As a CUDA graph, a `Tape` keeps the operators of its capture with the memory they read and write,
and runs them again at `replay`: no Python of the step runs then, and every number that the step
took from Python stays what it was at the capture.
"""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

WAITING = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")


def waits(func, args) -> bool:
    """Whether the host must wait for a GPU to run this operator: its result depends on values."""
    if func.name().partition(".")[0] in INDEXING:
        return any(item.dtype in (torch.bool, torch.uint8) for item in args[1] if item is not None)
    return any(tag in func.tags for tag in WAITING)


class NoWaiting(TorchDispatchMode):
    """Refuses operators that wait for the device, and, with `device`, tensors elsewhere."""

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
    """Stands in for torch.cuda.CUDAGraph: what runs under it is kept, and leaves no trace."""

    def __init__(self):
        super().__init__()
        self.calls: list[tuple] = []
        self.captured = False
        self.replays = 0
        self._own: dict[int, torch.Tensor] = {}  # memory that the capture allocated
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # other memory it touched

    @contextlib.contextmanager
    def capture(self):
        random = torch.get_rng_state()
        with self:
            yield
        with torch.no_grad():
            for tensor, value in self._before.values():
                tensor.copy_(value)
        torch.set_rng_state(random)
        self._spoil()
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
        # Aliases of the memory, not the tensors, whose autograd graph would be kept with them.
        args, kwargs = tree_map_only(torch.Tensor, torch.Tensor.detach, (args, kwargs))
        self.calls.append((func, args, kwargs, fresh))
        return results

    @torch.no_grad()
    def replay(self) -> None:
        assert self.captured
        self.replays += 1
        self._spoil()
        for func, args, kwargs, fresh in self.calls:
            for target, value in zip(fresh, tree_leaves(func(*args, **kwargs)), strict=True):
                if target is not None:
                    target.copy_(value)

    def _spoil(self) -> None:
        """What an earlier replay left in the graph's own memory is nothing to rely on."""
        for tensor in self._own.values():
            if tensor.is_floating_point():
                tensor.fill_(torch.nan)


class Stream:
    """Stands in for torch.cuda.Stream."""

    def wait_stream(self, other) -> None:
        assert isinstance(other, Stream)


def stand_in(monkeypatch) -> list[Tape]:
    """torch.cuda's graphs and streams replaced; returns the graphs made from now on."""
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
