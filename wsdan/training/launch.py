"""What happens before the first step: the device, the folder, and who may print."""

import dataclasses
import importlib.util
import os
import platform
import shlex
from functools import partial
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from wsdan.config import Config
from wsdan.distributed import (
    call_on_main,
    gather_objects,
    local_rank,
    max_over_ranks,
    may_restart,
    print_main,
    restarts,
    world_size,
)
from wsdan.errors import UserError
from wsdan.precision import pick_precision
from wsdan.training.folder import check_run_folder, holds_checkpoint


def restarted(config: Config) -> Config:
    """The configuration, resolved, of a group of processes that torchrun may have restarted.

    A restarted group goes on from last.pt, or begins anew where there is none yet. It is the first
    process that looks, and whose settings a resumed run has in all: another machine may have a disk
    of its own. Raises UserError where a restart could not find the run's folder, and for what that
    folder holds.
    """
    if may_restart() and config.out is None:
        raise UserError(
            "torchrun --max-restarts needs --out, the folder in which a restart goes on"
        )
    if max_over_ranks(restarts()) > 0:
        resume = call_on_main(partial(holds_checkpoint, Path(config.out)))
        config = dataclasses.replace(config, resume=resume, overwrite=not resume)
    if config.resume:
        config = call_on_main(lambda: config)
    call_on_main(partial(check_run_folder, config))
    return config


def resume_command(folder: Path) -> str:
    """The command that resumes the run in the folder, with as many processes of this machine."""
    command = ["wsdan", "train", "--resume", "--out", str(folder)]
    if world_size() > 1:
        launcher = ["torchrun", "--nproc-per-node", os.environ.get("LOCAL_WORLD_SIZE", "1"), "-m"]
        command = [*launcher, *command]
    return shlex.join(command)


def pick_device(name: str) -> torch.device:
    """ "auto" is the GPU where one can be used; under torchrun each process of a machine has its
    own. Raises UserError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("--device cuda: this torch sees no CUDA device (see `wsdan info`)")
    if local_rank() >= torch.cuda.device_count():
        raise UserError(
            f"--nproc-per-node: process {local_rank()} has no GPU of its own; this machine has "
            f"{torch.cuda.device_count()}"
        )
    torch.cuda.set_device(local_rank())
    return torch.device("cuda", local_rank())


def with_precision(config: Config, device: torch.device) -> Config:
    """The configuration with the precision that --precision auto stands for on the device of the
    first process, which says so. It is what config.yaml and the checkpoints hold."""
    if config.precision != "auto":
        return config
    precision = call_on_main(partial(pick_precision, config.precision, device, config.compile))
    print_main(f"--precision auto: {precision} on {device.type}")
    return dataclasses.replace(config, precision=precision)


def check_loggers(config: Config) -> None:
    """Raises UserError where a client that --log needs is not installed."""
    for name in (config.log or "csv").split(","):
        if name != "csv" and importlib.util.find_spec(name) is None:
            raise UserError(f"--log {name} needs {name}; pip install {name}")


def check_device(config: Config, device: torch.device) -> None:
    """Raises UserError for what the device, or several processes, cannot do."""
    if config.cuda_graph and device.type != "cuda":
        raise UserError(f"--cuda-graph needs --device cuda and a GPU; this run is on {device}")
    if config.sync_batchnorm and device.type != "cuda":
        raise UserError(f"--sync-batchnorm needs --device cuda and GPUs; this run is on {device}")
    if config.decode == "gpu" and device.type != "cuda":
        raise UserError(f"--decode gpu needs --device cuda and a GPU; this run is on {device}")


def check_processes(config: Config) -> None:
    """Raises UserError for what several processes cannot do together."""
    if world_size() > 1 and config.cuda_graph:
        raise UserError("--cuda-graph is for a single process; this run has " + str(world_size()))


def check_data(data: dict[str, Tensor], config: Config, classes: list[str]) -> None:
    """Raises UserError, in all processes, unless all read the same images.

    data: the fingerprints of the splits.
    """
    digests = {name: sha256(rows.numpy().tobytes()).digest() for name, rows in data.items()}
    counts = ", ".join(f"{len(rows)} {name} images" for name, rows in data.items())
    text = f"{counts} of {len(classes)} classes below {config.root} on {platform.node()}"
    found = gather_objects((digests, classes, text))
    for number, (*others, other_text) in enumerate(found):
        if others != list(found[0][:2]):
            raise UserError(
                f"--root: process {number} reads other images than process 0: {other_text}; "
                f"process 0: {found[0][2]}"
            )
