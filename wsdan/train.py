"""The training loop: straight-line code around one objective."""

import time
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from wsdan.checkpoint import load_checkpoint, save_checkpoint
from wsdan.config import Config
from wsdan.data.loaders import train_loader, val_loader
from wsdan.errors import UserError
from wsdan.evaluate import VIEWS, accuracy_table, count_bad, evaluate, final_accuracy
from wsdan.model import build_model
from wsdan.optim import build_optimizer, build_schedule, load_optimizer
from wsdan.phases import UNTIMED, Phases, TimedPhases, device_clock
from wsdan.run_folder import (
    BEST,
    CONFIG,
    LAST,
    append_metrics,
    check_run_folder,
    keep_metrics_before,
    open_run_folder,
)
from wsdan.step import Step, build_step

BAR_EVERY = 5  # steps between the progress bar's figures


def train(config: Config) -> tuple[Path, dict[str, float]]:
    """Train, evaluate and write a run; `config` need not be resolved.

    Returns the run's folder and the last evaluation's metrics. The folder holds config.yaml,
    metrics.jsonl, last.pt, best.pt and TensorBoard events.

    Raises:
        UserError: for what a user can put right.
    """
    config = config.resolved()
    check_run_folder(config)
    device = pick_device(config.device)
    check_graph(config, device)
    torch.manual_seed(config.seed)
    batches, classes = train_loader(config)
    val_batches = val_loader(config, classes)
    model = build_model(config, len(classes)).to(device, memory_format=torch.channels_last)
    optimizer = build_optimizer(model, config, fused=device.type == "cuda")
    schedule = build_schedule(optimizer, config, len(batches))
    phases = TimedPhases(device_clock(device), model) if config.profile else UNTIMED
    step = build_step(model, optimizer, config, phases)
    folder = open_run_folder(config)
    first_epoch, best = 0, -1.0
    if config.resume:
        first_epoch, best = _restore(folder / LAST, model, optimizer, schedule, classes, device)
        keep_metrics_before(folder, first_epoch)
    (folder / CONFIG).write_text(config.to_yaml(), encoding="utf-8")
    print(
        f"{len(batches.dataset)} pictures of {len(classes)} classes to train on, "
        f"{len(val_batches.dataset)} to validate; {config.method}, {config.backbone} at "
        f"{config.image_size} px on {device}; writing to {folder}",
        flush=True,
    )
    metrics: dict[str, float] = {}
    with SummaryWriter(str(folder)) as board:
        for epoch in range(first_epoch, config.epochs):
            started = time.perf_counter()
            record = {"epoch": epoch}
            model.train()
            record |= train_one_epoch(step, batches, schedule, config, device, phases, epoch)
            improved = False
            if (epoch + 1) % config.eval_every == 0 or epoch + 1 == config.epochs:
                metrics = evaluate(model, val_batches, config, device)
                record |= {f"val_{name}": value for name, value in metrics.items()}
                improved = final_accuracy(metrics) > best
                best = max(best, final_accuracy(metrics))
            record["seconds"] = time.perf_counter() - started
            _log(record, config, folder, board)
            state = _state(model, optimizer, schedule, epoch + 1, best)
            save_checkpoint(folder / LAST, config, classes, state)
            if improved:
                save_checkpoint(folder / BEST, config, classes, state)
    if not metrics:  # resumed after the last epoch
        metrics = evaluate(model, val_batches, config, device)
    print(accuracy_table(metrics))
    if config.profile:
        print(phases.table())
    print(f"checkpoints: {folder / LAST}, {folder / BEST}")
    return folder, metrics


def train_one_epoch(
    step: Step,
    batches,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    config: Config,
    device: torch.device,
    phases: Phases,
    epoch: int,
) -> dict[str, float]:
    """One pass over the training batches.

    Returns the means of the objective's scalars, "accuracy" (percent, of the raw view while
    training), "lr" and "bad", the number of pictures skipped.
    """
    totals: dict[str, torch.Tensor] = {}
    pictures = steps = bad = 0
    bar = tqdm(batches, desc=f"epoch {epoch + 1}/{config.epochs}", leave=False, disable=None)
    for batch in phases.data(bar):
        bad += count_bad(batch, config)
        if len(batch.labels) < 2:  # batch norm cannot train on a single picture
            continue
        with phases("data"):
            images = batch.images.to(device, memory_format=torch.channels_last, non_blocking=True)
            labels = batch.labels.to(device, non_blocking=True)
        for name, value in step(images, labels).items():
            totals[name] = totals.get(name, 0) + value
        with phases("optimizer"):
            schedule.step()
        pictures += len(labels)
        steps += 1
        if not bar.disable and steps % BAR_EVERY == 1:  # reading a value waits for the device
            loss, accuracy = float(totals["loss"]) / steps, 100 * int(totals["correct"]) / pictures
            bar.set_postfix_str(f"loss {loss:.3f}, accuracy {accuracy:.1f} %")
        phases.end_step()
    if steps == 0:
        raise UserError("no batch of two readable pictures to train on; is --batch-size 1?")
    accuracy = 100 * int(totals.pop("correct")) / pictures
    means = {name: float(total) / steps for name, total in totals.items()}
    return {**means, "accuracy": accuracy, "lr": schedule.get_last_lr()[0], "bad": bad}


def pick_device(name: str) -> torch.device:
    """ "auto" is the GPU where one can be used. Raises UserError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this torch sees no CUDA device (see `wsdan info`)")
    return torch.device(name)


def check_graph(config: Config, device: torch.device) -> None:
    """Raises UserError where a CUDA graph is asked for on another device."""
    if config.cuda_graph and device.type != "cuda":
        raise UserError(f"--cuda-graph needs --device cuda and a GPU; this run is on {device}")


def _state(model, optimizer, schedule, epoch: int, best: float) -> dict:
    """What a run needs to go on after `epoch` epochs."""
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "epoch": epoch,
        "best": best,
        "rng": {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()},
    }


def _restore(path, model, optimizer, schedule, classes, device) -> tuple[int, float]:
    """Load a run's state in place; returns the epoch to go on with and the best accuracy."""
    state = load_checkpoint(path)
    if state["classes"] != classes:
        raise UserError(f"--resume: {path} was trained on other classes than --root holds")
    try:
        model.load_state_dict(state["model"])
        load_optimizer(optimizer, state["optimizer"])
    except (RuntimeError, ValueError):
        raise UserError(f"--resume: {path} holds another model than the settings ask for") from None
    schedule.load_state_dict(state["schedule"])
    torch.set_rng_state(state["rng"]["cpu"])
    if device.type == "cuda" and state["rng"]["cuda"]:
        torch.cuda.set_rng_state_all(state["rng"]["cuda"])
    return state["epoch"], state["best"]


def _log(record: dict, config: Config, folder: Path, board: SummaryWriter) -> None:
    """One epoch's record to metrics.jsonl, to TensorBoard and, as a line, to the terminal."""
    append_metrics(folder, record)
    for name, value in record.items():
        board.add_scalar(name, value, record["epoch"])
    text = f"epoch {record['epoch'] + 1}/{config.epochs}: loss {record['loss']:.3f}"
    text += f", training accuracy {record['accuracy']:.1f} %"
    for view in VIEWS:
        if f"val_{view}" in record:
            text += f", {view} {record[f'val_{view}']:.1f} %"
    if record["bad"]:
        text += f", {record['bad']} unreadable pictures skipped"
    print(f"{text} ({record['seconds']:.1f} s)", flush=True)
