"""The training loop: straight-line code around one objective."""

import time
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from wsdan.checkpoint import NotSavedError, save_checkpoint
from wsdan.config import Config
from wsdan.data.loaders import Batch, train_loader, val_loader
from wsdan.data.samplers import image_seed
from wsdan.distributed import (
    broadcast_,
    from_first,
    gather_objects,
    is_main,
    process_group,
    rank,
    world_size,
)
from wsdan.errors import StoppedError, UserError
from wsdan.inference.evaluate import (
    NoImagesError,
    accuracy_table,
    count_bad,
    evaluate,
    final_accuracy,
)
from wsdan.inference.figures import view_grid
from wsdan.networks.model import build_model
from wsdan.profiling import NO_PROFILER, Profiler, StepProfiler, device_clock
from wsdan.training.ema import AveragedWeights
from wsdan.training.folder import BEST, LAST, keep_metrics_before, load_last, open_run_folder
from wsdan.training.launch import check_device, check_processes, pick_device, print_main, restarted
from wsdan.training.logging import RunLogger
from wsdan.training.optim import build_optimizer, build_schedule
from wsdan.training.signals import StopSignals
from wsdan.training.skips import Skips
from wsdan.training.state import Progress, RunState, seed_generators
from wsdan.training.step import Step, build_scaler, build_step

BAR_EVERY = 5  # steps between the progress bar's figures


def train(config: Config) -> tuple[Path, dict[str, float]]:
    """Train, evaluate and write a run; `config` need not be resolved.

    Under torchrun the processes share the work, and the first one writes. Returns the run's folder
    and the last evaluation's metrics. The folder holds config.yaml, metrics.jsonl, last.pt, best.pt
    and TensorBoard events.

    Raises:
        UserError: for what a user can put right.
        StoppedError: SIGTERM or Ctrl-C came, and last.pt holds all up to that step.
    """
    config = config.resolved()
    device = pick_device(config.device)
    check_device(config, device)
    with process_group(device), StopSignals() as stop:
        check_processes(config)
        return _train(restarted(config), device, stop)


def _train(config: Config, device: torch.device, stop: StopSignals) -> tuple[Path, dict]:
    seed_generators(config.seed)
    batches, classes = train_loader(config)
    val_batches = val_loader(config, classes)
    run = new_run(config, classes, device, batches.batch_sampler)
    profiler = StepProfiler(device_clock(device), run.model) if config.profile else NO_PROFILER
    step = build_step(run.model, run.optimizer, config, run.scaler, profiler)
    folder = from_first(partial(open_run_folder, config))
    if config.resume:
        path, state = from_first(partial(load_last, folder))
        run.restore(state, path)
    from_first(partial(keep_metrics_before, folder, run.progress.epoch))
    print_main(_opening(config, device, batches, val_batches, classes, folder))
    metrics: dict[str, float] = {}
    shown = torch.empty(0)
    if config.log_images and is_main():
        shown = next(iter(val_batches)).images[: config.log_images].to(device)
    with RunLogger(folder if is_main() else None, config, run.progress.epoch) as logger:
        while run.progress.epoch < config.epochs:
            epoch = run.progress.epoch
            train_one_epoch(step, batches, run, device, stop, folder, profiler)
            record = epoch_record(run)
            best = None
            if (epoch + 1) % config.eval_every == 0 or epoch + 1 == config.epochs:
                metrics = _evaluate(run, val_batches, device, stop, folder, logger, shown)
                record |= {f"val_{name}": value for name, value in metrics.items()}
                if final_accuracy(metrics) > run.progress.best:
                    best = final_accuracy(metrics)
            logger.write({**record, "seconds": run.progress.seconds})
            run.progress.next_epoch()
            saved = save(run, folder, best)
    if not metrics:  # resumed after the last epoch
        metrics = evaluate(run.eval_model(), val_batches, config, device).metrics
    elif not saved:
        raise UserError(f"the run is over, but {folder} could not take its last checkpoint")
    print_main(accuracy_table(metrics))
    if config.profile:
        print_main(profiler.table())
    print_main(f"checkpoints: {folder / LAST}, {folder / BEST}")
    return folder, metrics


def new_run(config: Config, classes: list[str], device: torch.device, batches) -> RunState:
    """The model of a resolved configuration and all that trains it, at the start.

    batches: the EpochBatchSampler of the training images.
    """
    model = build_model(config, len(classes))
    if config.sync_batchnorm and world_size() > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model = model.to(device, memory_format=torch.channels_last)
    average = AveragedWeights(model, config.ema) if config.ema else None
    if config.compile:
        model.compile()
    optimizer = build_optimizer(model, config)
    schedule = build_schedule(optimizer, config, len(batches))
    if rank() > 0:  # the weights are those of the first rank, dropout is not
        torch.manual_seed(image_seed(config.seed, rank()))
    scaler, skips = build_scaler(config, device), Skips(config.max_skipped)
    return RunState(
        config, classes, model, optimizer, schedule, scaler, average, batches, Progress(), skips
    )


def train_one_epoch(
    step: Step,
    batches: DataLoader,
    run: RunState,
    device: torch.device,
    stop: StopSignals,
    folder: Path,
    profiler: Profiler = NO_PROFILER,
) -> None:
    """The steps of an epoch that are left; run.progress counts them.

    Saves last.pt in `folder` every config.save_every steps.

    Raises StoppedError, with last.pt written, after the step in which a signal came.
    """
    config, progress = run.config, run.progress
    first = progress.first_step(run.batches.step_size)
    run.batches.set_epoch(progress.epoch, first)
    run.model.train()
    started = time.perf_counter() - progress.seconds
    steps = range(first, 0 if progress.trained else len(run.batches))
    bar = tqdm(
        batches if steps else (), f"epoch {progress.epoch + 1}/{config.epochs}",
        total=len(run.batches), initial=first, leave=False, disable=None if is_main() else True,
    )  # fmt: skip
    for batch in profiler.data(bar):
        progress.bad += count_bad(batch, config)
        progress.seen += run.batches.step_size
        count = _common_count(batch, config)
        if count >= 2:  # batch norm cannot train on a single image
            with profiler("data"):
                images, labels, uniforms = (x[:count] for x in on_device(batch, device))
            results = step(images, labels, uniforms)
            with profiler("optimizer"):
                run.schedule.step()
                if run.average is not None:
                    run.average.update(results["finite"])
            _count(progress, results, count)
            run.skips.add(results["finite"], batch.names)
            _show(bar, progress)
            profiler.end_step()
        progress.seconds = time.perf_counter() - started
        _stop_or_save(run, stop, folder)
    run.skips.look()
    progress.trained = True


def on_device(batch: Batch, device: torch.device) -> list[torch.Tensor]:
    """images (B,3,H,W) channels_last, labels (B,), uniforms (B,4): what a step takes."""
    images = batch.images.to(device, memory_format=torch.channels_last, non_blocking=True)
    return [images, *(x.to(device, non_blocking=True) for x in (batch.labels, batch.uniforms))]


def epoch_record(run: RunState) -> dict[str, float]:
    """An epoch's figures, over all ranks.

    "epoch"; the means of the objective's scalars over the steps with a finite loss; "accuracy",
    percent, of the raw view while training; "lr"; "bad" images and "skipped" steps. Raises
    UserError where no step was taken.
    """
    progress = run.progress
    totals = {name: float(total) for name, total in progress.totals.items()}
    counts = {"bad": progress.bad, "steps": progress.steps}
    shares = gather_objects({**totals, **counts})
    # A rank that came after the last step has no totals.
    sums = {name: sum(share.get(name, 0) for share in shares) for name in shares[0]}
    if sums["steps"] == 0:
        raise UserError("no batch of two readable images to train on; is --batch-size 1?")
    steps, finite = sums.pop("steps"), sums.pop("finite")
    images, correct, bad = sums.pop("images"), sums.pop("correct"), sums.pop("bad")
    return {
        "epoch": progress.epoch,
        **{name: total / max(finite, 1) for name, total in sums.items()},
        "accuracy": 100 * correct / max(images, 1),
        "lr": run.schedule.get_last_lr()[0],
        "bad": bad,
        "skipped": round((steps - finite) / world_size()),
    }


def save(run: RunState, folder: Path, best: float | None = None) -> bool:
    """Write last.pt and, where the run is at its best accuracy, best.pt.

    Returns whether all was written; a warning says what the disk refused. All ranks must call it.
    """
    state = run.state_dict()
    if not is_main():
        return True
    first, whole = state["ranks"][0]["progress"], True
    if best is not None:
        first["best"] = best
        whole = _written(run, folder / BEST, state)
        if whole:
            run.progress.best = best
        first["best"] = run.progress.best  # a best.pt that was refused is tried again
    return _written(run, folder / LAST, state) and whole


def _written(run: RunState, path: Path, state: dict) -> bool:
    try:
        save_checkpoint(path, run.config, run.classes, state)
    except NotSavedError as error:
        print_main(f"wsdan: warning: {error}", error=True)
        return False
    return True


def _evaluate(
    run: RunState,
    val_batches: DataLoader,
    device: torch.device,
    stop: StopSignals,
    folder: Path,
    logger: RunLogger,
    shown: torch.Tensor,
) -> dict[str, float]:
    """The metrics of the run's model, and its views of the images `shown` to TensorBoard.

    Raises StoppedError, with last.pt written, on a signal."""
    started = time.perf_counter()
    model = run.eval_model()
    broadcast_(list(model.buffers()))
    try:
        metrics = evaluate(model, stop.until_requested(val_batches), run.config, device).metrics
    except NoImagesError:  # in all processes, unlike an image that one of them cannot read
        if stop.agreed() is None:
            raise
        metrics = {}
    _stop_or_save(run, stop, folder)
    if len(shown):
        logger.show(view_grid(model, shown, run.config), run.progress.epoch)
    run.progress.seconds += time.perf_counter() - started
    return metrics


def _stop_or_save(run: RunState, stop: StopSignals, folder: Path) -> None:
    number = stop.agreed()
    if number is not None:
        if not save(run, folder):
            raise UserError(f"stopped by {number.name}, but {folder / LAST} could not be written")
        progress = run.progress
        at = f"epoch {progress.epoch + 1}, {progress.seen} images into it"
        raise StoppedError(number, f"stopped by {number.name} at {at}; --resume goes on from there")
    every, done = run.config.save_every, run.progress.seen // run.batches.step_size
    if every and not run.progress.trained and done % every == 0:
        save(run, folder)


def _common_count(batch: Batch, config: Config) -> int:
    """The images that a step learns from: as many in each rank, should some be unreadable."""
    if not config.skip_bad_images:
        return len(batch.labels)
    return min(gather_objects(len(batch.labels)))


def _count(progress: Progress, results: dict[str, torch.Tensor], images: int) -> None:
    """Add a step's results to the epoch's sums, on the device."""
    learnt = {**results, "images": results["finite"] * images}
    for name, value in learnt.items():
        progress.totals[name] = progress.totals.get(name, 0) + value
    progress.steps += 1


def _show(bar: tqdm, progress: Progress) -> None:
    """The progress bar's figures, now and then: reading a value waits for the device."""
    if bar.disable or progress.steps % BAR_EVERY != 1:
        return
    finite = max(int(progress.totals["finite"]), 1)
    loss = float(progress.totals["loss"]) / finite
    accuracy = 100 * int(progress.totals["correct"]) / max(int(progress.totals["images"]), 1)
    bar.set_postfix_str(f"loss {loss:.3f}, accuracy {accuracy:.1f} %")


def _opening(config, device, batches, val_batches, classes, folder) -> str:
    text = (
        f"{len(batches.dataset)} images of {len(classes)} classes to train on, "
        f"{len(val_batches.dataset)} to validate; {config.method}, {config.backbone} at "
        f"{config.image_size} px on {device}"
    )
    if world_size() > 1:
        text += f", {world_size()} processes of batch {config.batch_size}"
    return f"{text}; writing to {folder}"
