"""Distributed training: torchrun starts the processes, torch.distributed connects them.

Without torchrun every function here acts as in a single process.
"""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from wsdan.errors import UserError
from wsdan.output import print_if_possible, warn

FAILURE = "failure"  # key of the store
PARTNER_GONE = (  # in the errors of gloo and NCCL
    "Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exit",
)  # fmt: skip
TIMEOUT = timedelta(minutes=30)  # one rank may evaluate, or fill a cache, while others wait


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Joins the processes that torchrun started: NCCL between GPUs, gloo between CPUs.

    Small host data (a request to stop, names of files) always goes through gloo, so that it never
    waits for a GPU. Where a process fails, the others raise UserError with its reason.
    """
    if not launched():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store, own, world = next(dist.rendezvous("env://", timeout=TIMEOUT))
    store = dist.PrefixStore(_unique_prefix(store, own, world), store)
    dist.init_process_group(backend, store=store, rank=own, world_size=world, timeout=TIMEOUT)
    try:
        yield
    except Exception as error:
        if not _another_ended(error):
            with suppress(RuntimeError):  # the store may have ended with its process
                store.set(FAILURE, f"process {own}: {error or type(error).__name__}")
            raise
        raise UserError(f"another process of the run has ended: {_failure(store)}") from None
    finally:
        dist.destroy_process_group()


def _another_ended(error: Exception) -> bool:
    """Whether a collective failed because its partner is gone."""
    return isinstance(error, RuntimeError) and any(text in str(error) for text in PARTNER_GONE)


def _failure(store: dist.Store) -> str:
    """Why the first process that failed did so, as far as it could tell."""
    try:
        if store.check([FAILURE]):
            return store.get(FAILURE).decode().splitlines()[0]
    except RuntimeError:  # the store was in that process
        pass
    return "see its own message"


def _unique_prefix(store: dist.Store, own: int, world: int) -> str:
    """A store prefix that all processes share and that no earlier start of them used.

    torchrun's store survives a restart and still holds the addresses of the dead processes, and
    the machines' restart counts may differ. So rank 0 draws the prefix and sends it to each rank
    that asks, under a key of that process's own; answers to dead processes are not read.
    """
    name, end = uuid.uuid4().hex, time.monotonic() + TIMEOUT.total_seconds()
    if own > 0:
        store.set(f"asks {own}", name)
        prefix = store.get(f"told {name}").decode()  # waits
        store.set(f"{prefix} {own}", "has it")
        return prefix
    for other in range(1, world):
        while not store.check([f"{name} {other}"]):
            if time.monotonic() > end:
                raise TimeoutError(f"process {other} has not joined within {TIMEOUT}")
            if store.check([f"asks {other}"]):
                store.set("told " + store.get(f"asks {other}").decode(), name)
            time.sleep(0.02)
    return name


def launched() -> bool:
    """Whether torchrun started this process."""
    return "LOCAL_RANK" in os.environ and dist.is_available()


def local_rank() -> int:
    """The rank of this process on its machine, which is the index of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def launched_rank() -> int:
    """The rank that torchrun gave this process, within `process_group` or not; 0 without it."""
    return int(os.environ.get("RANK", 0)) if launched() else 0


def launched_size() -> int:
    """The number of processes that torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1)) if launched() else 1


def restarts() -> int:
    """How often this machine's torchrun has restarted its processes (--max-restarts).

    The machines' counts may differ: a machine counts the failures of its own processes.
    """
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def may_restart() -> bool:
    """Whether torchrun restarts the group if a process fails."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process, rank 0, writes files and prints."""
    return rank() == 0


def print_main(text: str) -> None:
    """Print, in the first process only; a stream that cannot be written ends no run."""
    if is_main():
        print_if_possible(text)


def warn_main(text: str) -> None:
    """Print a warning, in the first process only."""
    if is_main():
        warn(text)


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Sum the tensor over the ranks in place; every rank gets the same bits."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def gather_rows(tensor: Tensor) -> Tensor:
    """The rows of all ranks, in rank order: (B,...) -> (world * B,...).

    Not differentiable. All ranks must have the same number of rows.
    """
    tensor = tensor.detach()
    if world_size() == 1:
        return tensor
    rows = tensor.new_empty((world_size() * tensor.shape[0], *tensor.shape[1:]))
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # torch < 2.14
    gather(rows, tensor.contiguous())
    return rows


def gather_objects(value: object) -> list:
    """A small object of every rank, in rank order, sent through the hosts."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def call_on_main(function: Callable[[], object]) -> object:
    """Call the function in rank 0 only; every rank gets its result, or the UserError it raises."""
    result: list = [None, None]
    if is_main():
        try:
            result[0] = function()
        except UserError as error:
            result[1] = str(error)
    if world_size() > 1:
        dist.broadcast_object_list(result, 0)
    if result[1] is not None:
        raise UserError(result[1])
    return result[0]


def max_over_ranks(number: int) -> int:
    """The maximum of the ranks' numbers, through the hosts, without waiting for a GPU."""
    if world_size() == 1:
        return number
    maximum = torch.tensor(number)
    dist.all_reduce(maximum, dist.ReduceOp.MAX)
    return int(maximum)


def all_over_ranks(flags: Tensor) -> Tensor:
    """A bool tensor: which flags are true in every rank. Does not wait for a GPU."""
    if world_size() == 1:
        return flags
    count = flags.to(torch.int32)
    dist.all_reduce(count, dist.ReduceOp.MIN)
    return count.bool()


def broadcast_(tensors: list[Tensor]) -> None:
    """Overwrite the tensors with those of rank 0."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)
