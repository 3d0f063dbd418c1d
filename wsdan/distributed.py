"""Many processes, one run: torchrun starts them, torch.distributed joins them.

Without torchrun every function here is that of a single process.
"""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from wsdan.errors import UserError

TIMEOUT = timedelta(minutes=30)  # a rank may evaluate, or fill a cache, while others wait


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Joins the processes that torchrun started: NCCL between GPUs, gloo between CPUs.

    Small things of the hosts (a request to stop, names of files) always pass by gloo, so that they
    never wait for a GPU.
    """
    if not launched():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store, own, world = next(dist.rendezvous("env://", timeout=TIMEOUT))
    store = dist.PrefixStore(_name_of_start(store, own, world), store)
    dist.init_process_group(backend, store=store, rank=own, world_size=world, timeout=TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _name_of_start(store: dist.Store, own: int, world: int) -> str:
    """A name that all processes share and that no earlier start of them had.

    torchrun's store outlives a restart and holds the addresses of the dead, and its machines may
    count the restarts differently. So the first process tells each that asks, under a name of its
    own; what it tells the dead nobody reads.
    """
    name, end = uuid.uuid4().hex, time.monotonic() + TIMEOUT.total_seconds()
    if own > 0:
        store.set(f"asks {own}", name)
        start = store.get(f"told {name}").decode()  # waits
        store.set(f"{start} {own}", "has it")
        return start
    for other in range(1, world):
        while not store.check([f"{name} {other}"]):
            if time.monotonic() > end:
                raise TimeoutError(f"process {other} has not come in {TIMEOUT}")
            if store.check([f"asks {other}"]):
                store.set("told " + store.get(f"asks {other}").decode(), name)
            time.sleep(0.02)
    return name


def launched() -> bool:
    """Whether torchrun started this process."""
    return "LOCAL_RANK" in os.environ and dist.is_available()


def local_rank() -> int:
    """The number of this process on its machine: the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def restarts() -> int:
    """How often this machine's torchrun has restarted its processes (--max-restarts): less often
    than another's where that one's failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def may_restart() -> bool:
    """Whether torchrun was told to restart the group where a process fails."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes files and prints."""
    return rank() == 0


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The tensor, summed over the processes in place; each gets the same bits."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def gather_rows(tensor: Tensor) -> Tensor:
    """The rows of every process in the order of their ranks: (B,...) -> (world * B,...).

    No gradient passes. All processes must have the same number of rows.
    """
    tensor = tensor.detach()
    if world_size() == 1:
        return tensor
    rows = tensor.new_empty((world_size() * tensor.shape[0], *tensor.shape[1:]))
    dist.all_gather_into_tensor(rows, tensor.contiguous())
    return rows


def gather_objects(value: object) -> list:
    """A small value of every process, by rank; through the hosts."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def from_first(ask: Callable[[], object]) -> object:
    """What the first process gets, in every process, and so with a UserError that it raises."""
    found: list = [None, None]
    if is_main():
        try:
            found[0] = ask()
        except UserError as error:
            found[1] = str(error)
    if world_size() > 1:
        dist.broadcast_object_list(found, 0)
    if found[1] is not None:
        raise UserError(found[1])
    return found[0]


def largest(number: int) -> int:
    """The largest of the numbers of all processes; through the hosts, without waiting for a GPU."""
    if world_size() == 1:
        return number
    found = torch.tensor(number)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def all_agree(flag: Tensor) -> Tensor:
    """A bool tensor: where the flag is true in every process; does not wait for a GPU."""
    if world_size() == 1:
        return flag
    count = flag.to(torch.int32)
    dist.all_reduce(count, dist.ReduceOp.MIN)
    return count.bool()


def broadcast_(tensors: list[Tensor]) -> None:
    """Overwrite the tensors by those of the first process."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)
