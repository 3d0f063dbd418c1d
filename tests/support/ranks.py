"""Ranks of a process group as forked processes: without a new interpreter and its imports."""

import os
import socket
from collections.abc import Callable

import torch

if not torch.cuda.is_available():
    # At its first backward autograd starts a thread for each device there is, and a process with
    # such threads cannot be forked. torch.compile adds devices in newer versions: so before it.
    torch.ones((), requires_grad=True).backward()


def run_ranks(function: Callable, *arguments: object, world_size: int = 2) -> None:
    """Call function(rank, *arguments) in each rank, with the environment variables of torchrun.

    Raises torch's ProcessRaisedException, with the traceback, if a rank raises.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(
        _run, (world_size, port, function, arguments), nprocs=world_size, start_method="fork"
    )


def _run(rank: int, world_size: int, port: int, function: Callable, arguments: tuple) -> None:
    torch.set_num_threads(1)  # the threads of the parent do not exist here
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
    os.environ.update({name: str(number) for name, number in numbers.items()})
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    function(rank, *arguments)
