"""The training loop: epochs of training steps, evaluation and checkpoints."""

import dataclasses
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from wsdan.checkpoint import NotSavedError, save_checkpoint
from wsdan.config import Config
from wsdan.constants import METRICS
from wsdan.data.loaders import Batch
from wsdan.distributed import (
    broadcast_,
    call_on_main,
    gather_objects,
    is_main,
    print_main,
    process_group,
    warn_main,
    world_size,
)
from wsdan.errors import StoppedError, UserError, one_line
from wsdan.inference.evaluate import (
    NoImagesError,
    accuracy_table,
    count_bad,
    evaluate,
    final_accuracy,
)
from wsdan.inference.figures import view_grid
from wsdan.networks.model import describe_start
from wsdan.remote.addresses import is_remote
from wsdan.remote.errors import RemoteError
from wsdan.training.folder import BEST, LAST
from wsdan.training.launch import (
    check_device,
    check_loggers,
    check_processes,
    pick_device,
    restarted,
    resume_command,
    with_precision,
)
from wsdan.training.lock import RunLock
from wsdan.training.progress import EpochProgress
from wsdan.training.run import Run, open_run, start_epoch
from wsdan.training.signals import StopSignals
from wsdan.training.state import Progress, RunState


def train(config: Config) -> tuple[Path, dict[str, float]]:
    """Train, evaluate and save a model; `config` need not be resolved.

    Under torchrun the processes share the work, and rank 0 writes. The run's folder holds
    config.yaml, metrics.jsonl, last.pt, best.pt and TensorBoard events.

    Returns:
        The run's folder, and the metrics of the last evaluation.

    Raises:
        UserError: for what a user can correct.
        StoppedError: after SIGTERM or Ctrl-C; last.pt holds the run up to its last step.
    """
    config = config.resolved()
    if config.root is not None and not is_remote(config.root):
        # So that a resumed or evaluated run finds it from anywhere.
        config = dataclasses.replace(config, root=os.path.abspath(config.root))
    device = pick_device(config.device)
    check_device(config, device)
    check_loggers(config)
    with process_group(device), StopSignals() as stop, RunLock() as lock:
        check_processes(config)
        # The run must be freed before the process group, or DistributedDataParallel may hang.
        config = with_precision(restarted(config), device)
        return _train(config, device, stop, lock)


def _train(
    config: Config, device: torch.device, stop: StopSignals, lock: RunLock
) -> tuple[Path, dict[str, float]]:
    run = open_run(config, device, stop, lock)
    print_main(_summary(run))
    with run.logger:
        if run.mirror is not None:
            call_on_main(run.mirror.begin)
        metrics = train_epochs(run)
    print_main(accuracy_table(metrics))
    if config.profile:
        print_main(run.profiler.table())
    if config.plots:
        plot(run)
    copies = "" if config.mirror is None else f"; copies in {config.mirror}"
    print_main(f"checkpoints: {run.folder / LAST}, {run.folder / BEST}{copies}")
    return run.folder, metrics


def train_epochs(run: Run) -> dict[str, float]:
    """Train the epochs that are left. Returns the metrics of the last evaluation."""
    config, progress = run.config, run.state.progress
    metrics: dict[str, float] = {}
    saved = True
    while progress.epoch < config.epochs:
        train_one_epoch(run)
        record = epoch_record(run.state)
        best = None
        last = progress.epoch + 1 == config.epochs
        if last or (progress.epoch + 1) % config.eval_every == 0:
            metrics = evaluate_epoch(run, new_log(run) if last else None)
            record |= {f"val_{name}": value for name, value in metrics.items()}
            if final_accuracy(metrics) > progress.best:
                best = final_accuracy(metrics)
        record["seconds"] = progress.seconds
        run.lock.check()
        run.logger.log(record)
        progress.next_epoch()
        saved = save(run, best)
        run.logger.print(record)  # last: whoever reads it can rely on last.pt
    if not saved:
        raise UserError(f"training is done, but {_places(run)} could not take its last checkpoint")
    if not metrics:  # resumed after the last epoch
        metrics = evaluate_run(run, run.val_loader, new_log(run))
    return metrics


def train_one_epoch(run: Run) -> None:
    """Take the steps that are left in the epoch; run.state.progress counts them.

    Saves last.pt every config.save_every steps. Raises StoppedError, with last.pt written, after
    the step during which a signal came.
    """
    state, config, profiler = run.state, run.config, run.profiler
    progress, sampler = state.progress, state.batch_sampler
    first = progress.first_step(sampler.step_size)
    sampler.set_epoch(progress.epoch, first)
    start_epoch(run)
    start = time.perf_counter() - progress.seconds
    steps_left = range(first, 0 if progress.trained else len(sampler))
    batches = run.train_loader if steps_left else ()
    title = f"epoch {progress.epoch + 1}/{config.epochs}"
    shown = EpochProgress(batches, title, first, len(sampler), sampler.step_size)
    for batch in profiler.data(shown):
        _check_fetched(run, batch)
        progress.bad += count_bad(batch, config)
        progress.seen += sampler.step_size
        size = _common_size(batch, config)
        if size >= 2:  # batch norm cannot train on a single image
            with profiler("data"):
                tensors, others = to_device(batch, config, run.device)
                tensors = [x[:size] for x in tensors]
                others = {name: x[:size] for name, x in others.items()}
            results = run.step(*tensors, **others)
            with profiler("optimizer"):
                state.lr_scheduler.step()
                if state.model_ema is not None:
                    state.model_ema.update(results["finite"])
            _add_to_totals(progress, results, size)
            read = state.skips.add(results["finite"], batch.names)
            shown.end_step(progress, free=read or run.device.type == "cpu")
            profiler.end_step()
        progress.seconds = time.perf_counter() - start
        _stop_or_save(run)
    state.skips.check()
    progress.trained = True


def new_log(run: Run) -> Any:
    """A PredictionLog of the last evaluation, or None without --plots. matplotlib is imported here,
    when it is needed."""
    if not run.config.plots:
        return None
    from wsdan.inference.plots.predictions import PredictionLog

    return PredictionLog(run.state.classes, run.config)


def evaluate_run(run: Run, batches: Iterable[Batch], log: Any = None) -> dict[str, float]:
    """Evaluate the run's model; run.evaluation holds the result. Returns the metrics."""
    result = evaluate(run.state.eval_model(), batches, run.config, run.device, log=log)
    run.evaluation = result, log
    return result.metrics


def plot(run: Run) -> None:
    """Draw the figures of the run and of its last evaluation; a failure is a warning."""
    from wsdan.inference.plots.folder import write_curves, write_plots

    try:
        if is_main():
            write_curves(run.folder, run.folder / METRICS)
        if run.evaluation is not None:
            images = run.val_loader.dataset.dataset
            write_plots(run.folder, *run.evaluation, run.state.classes, run.config, images)
    except Exception as error:  # no figure is worth a run
        warn_main(f"the figures could not be drawn: {type(error).__name__}: {one_line(error)}")
    else:
        print_main(f"figures and predictions: {run.folder}")


def evaluate_epoch(run: Run, log: Any = None) -> dict[str, float]:
    """Evaluate the run's model, and log its views of run.logged_images. Returns the metrics.

    Raises StoppedError, with last.pt written, after a signal.
    """
    start = time.perf_counter()
    # Now: a rank whose images cannot be fetched could not do so alone.
    saved = run.fetches and save(run, mirrored=False)
    model = run.state.eval_model()
    broadcast_(list(model.buffers()))
    try:
        batches = run.stop.until_requested(run.val_loader)
        metrics = evaluate_run(run, batches, log)
    except NoImagesError:  # raised in all ranks, unlike the error of an unreadable image
        if run.stop.agreed() is None:
            raise
        metrics = {}
    except RemoteError as error:
        raise RemoteError(f"{error}; {_kept(run, saved)}") from None
    _stop_or_save(run)
    if len(run.logged_images):
        views = view_grid(model, run.logged_images, run.config, run.logged_large)
        run.logger.log_image(views, run.state.progress.epoch)
    run.state.progress.seconds += time.perf_counter() - start
    return metrics


def epoch_record(state: RunState) -> dict[str, float]:
    """The training metrics of an epoch, over all ranks.

    "epoch"; the means of the objective's scalars over the steps that were not skipped; "accuracy",
    in percent, of the raw view during training; "lr"; the counts "bad" of unreadable images and
    "skipped" of skipped steps. Raises UserError if there was no step.
    """
    progress = state.progress
    totals = {name: float(total) for name, total in progress.totals.items()}
    counts = {"bad": progress.bad, "steps": progress.steps}
    ranks = gather_objects({**totals, **counts})
    # A rank that joined after the last step has no totals.
    sums = {name: sum(values.get(name, 0) for values in ranks) for name in ranks[0]}
    if sums["steps"] == 0:
        raise UserError("no batch of two readable images to train on; is --batch-size 1?")
    steps, finite = sums.pop("steps"), sums.pop("finite")
    images, correct, bad = sums.pop("images"), sums.pop("correct"), sums.pop("bad")
    return {
        "epoch": progress.epoch,
        **{name: total / max(finite, 1) for name, total in sums.items()},
        "accuracy": 100 * correct / max(images, 1),
        "lr": state.lr_scheduler.get_last_lr()[0],
        "bad": bad,
        "skipped": round((steps - finite) / world_size()),
    }


def to_device(
    batch: Batch, config: Config, device: torch.device
) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """images (B,3,H,W) channels_last, labels (B,) and uniforms (B,4) of a batch, (B,6) with
    --calmix; by name, what else a step takes."""
    inputs = batch.inputs(config, device)
    others = {} if inputs.large is None else inputs.large._asdict()
    tensors = (x.to(device, non_blocking=True) for x in (batch.labels, batch.uniforms))
    return [inputs.images, *tensors], others


def save(run: Run, best: float | None = None, mirrored: bool = True) -> bool:
    """Write last.pt and, if the accuracy `best` is given, best.pt; copy them to --mirror.

    Returns whether all was written; a warning says why not. All ranks must call it. Raises
    UserError if another run has taken over the folder.
    """
    state = run.state.state_dict()
    if not is_main():
        return True
    run.lock.check()
    progress, best_saved = state["ranks"][0]["progress"], True
    if best is not None:
        progress["best"] = best
        best_saved = _save_file(run, BEST, state)
        if best_saved:
            run.state.progress.best = best
        progress["best"] = run.state.progress.best  # the old one, if best.pt was not written
    saved = _save_file(run, LAST, state) and best_saved
    if run.mirror is None or not mirrored:
        return saved
    return run.mirror.update(LAST, *([BEST] if best is not None and best_saved else [])) and saved


def _save_file(run: Run, name: str, state: dict) -> bool:
    try:
        save_checkpoint(run.folder / name, run.config, run.state.classes, state)
    except NotSavedError as error:
        warn_main(str(error))
        return False
    return True


def _check_fetched(run: Run, batch: Batch) -> None:
    """Save and raise RemoteError, in all ranks, where a rank's images could not be fetched."""
    if not run.fetches:
        return
    failures = [text for text in gather_objects(batch.failure) if text is not None]
    if failures:
        saved = save(run, mirrored=False)
        if run.mirror is not None and is_main():
            run.mirror.update(LAST)
        raise RemoteError(f"{failures[0]}; {_kept(run, saved)}")


def _kept(run: Run, saved: bool) -> str:
    """What is left of a run that ends, for a message."""
    if not saved:
        return f"{run.folder / LAST} could not be written"
    command = resume_command(run.folder)
    return f"{run.folder / LAST} holds the run up to its last step; to go on: {command}"


def _places(run: Run) -> str:
    """Where the checkpoints go, for a message."""
    return str(run.folder) if run.config.mirror is None else f"{run.folder} or {run.config.mirror}"


def _stop_or_save(run: Run) -> None:
    """Save and raise StoppedError after a signal, else save if config.save_every says so."""
    progress, number = run.state.progress, run.stop.agreed()
    if number is not None:
        if not save(run):
            where = f"a checkpoint in {_places(run)} could not be written"
            raise UserError(f"stopped by {number.name}, but {where}")
        at = f"epoch {progress.epoch + 1}, {progress.seen} images into it"
        command = resume_command(run.folder)
        raise StoppedError(number, f"stopped by {number.name} at {at}; to go on: {command}")
    every, done = run.config.save_every, progress.seen // run.state.batch_sampler.step_size
    if every and not progress.trained and done % every == 0:
        save(run)


def _common_size(batch: Batch, config: Config) -> int:
    """The images of the batch to train on: as many in each rank, if some are unreadable."""
    if not config.skip_bad_images:
        return len(batch.labels)
    return min(gather_objects(len(batch.labels)))


def _add_to_totals(progress: Progress, results: dict[str, torch.Tensor], size: int) -> None:
    """Add a step's results to the epoch's sums, on the device."""
    for name, value in {**results, "images": results["finite"] * size}.items():
        progress.totals[name] = progress.totals.get(name, 0) + value
    progress.steps += 1


def _summary(run: Run) -> str:
    """The line that is printed before training."""
    config = run.config
    text = (
        f"{len(run.train_loader.dataset)} images of {len(run.state.classes)} classes to train on, "
        f"{len(run.val_loader.dataset)} to validate; {config.method}, {config.backbone} at "
        f"{config.image_size} px on {run.device}, {describe_start(config)}"
    )
    if world_size() > 1:
        text += f", {world_size()} processes of batch {config.batch_size}"
    return f"{text}; writing to {run.folder}"
