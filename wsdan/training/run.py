"""A training run: its state, and all else that the training loop needs."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from wsdan.config import Config
from wsdan.data.decoding import DecodingLoader
from wsdan.data.loaders import fetches, fingerprints, labels_of, train_loader, val_loader
from wsdan.data.long_tail import class_weights
from wsdan.data.zoom import Large
from wsdan.distributed import call_on_main, is_main, warn_main
from wsdan.inference.metrics import Evaluation
from wsdan.profiling import NO_PROFILER, Profiler, StepProfiler, device_clock
from wsdan.remote.errors import RemoteError
from wsdan.remote.mirror import Mirror
from wsdan.training.folder import keep_metrics_before, load_last, open_run_folder
from wsdan.training.launch import check_data
from wsdan.training.lock import RunLock
from wsdan.training.logging import RunLogger
from wsdan.training.optim import rising_rate
from wsdan.training.signals import StopSignals
from wsdan.training.state import RunState, new_state, seed_generators
from wsdan.training.step import Step, build_step


@dataclass
class Run:
    """A training run.

    Args:
        state: what its checkpoints hold.
        step: one training step of the state's model.
        device: of the model.
        folder: the output folder.
        stop: the requests to stop.
        lock: of the folder, in the first process.
        fetches: whether images come from remote addresses.
        mirror: of --mirror, in the first process used.
        class_weights: (N,) on the device, of the cross-entropies (--class-weights).
        frozen: parameters of the backbone that do not train now (--freeze).
        views: that the step passes now beside the raw one (--views-after).
        logged_images: (n,3,H,W) on the device, n >= 0: images whose views are logged.
        logged_large: what the views are cut from, see `Inputs`.
        evaluation: the last evaluation and, if it is to be drawn, its PredictionLog.
    """

    state: RunState
    step: Step
    train_loader: DataLoader | DecodingLoader
    val_loader: DataLoader | DecodingLoader
    device: torch.device
    folder: Path
    logger: RunLogger
    stop: StopSignals
    lock: RunLock = field(default_factory=RunLock)
    fetches: bool = False
    mirror: Mirror | None = None
    profiler: Profiler = NO_PROFILER
    class_weights: Tensor | None = None
    frozen: list[nn.Parameter] = field(default_factory=list)
    views: tuple[str, ...] = ()
    logged_images: Tensor = field(default_factory=lambda: torch.empty(0))
    logged_large: Large | None = None
    evaluation: tuple[Evaluation, Any] | None = None

    @property
    def config(self) -> Config:
        """The resolved settings."""
        return self.state.config


def open_run(config: Config, device: torch.device, stop: StopSignals, lock: RunLock) -> Run:
    """Build the run of a resolved configuration and, with --resume, load its last checkpoint.

    Raises UserError for what a user can correct.
    """
    seed_generators(config.seed)
    train_batches, classes = train_loader(config)
    val_batches = val_loader(config, classes)
    data = fingerprints(config, train=train_batches, val=val_batches)
    check_data(data, config, classes)
    state = new_state(config, classes, device, train_batches.batch_sampler, data)
    profiler = StepProfiler(device_clock(device), state.model) if config.profile else NO_PROFILER
    weights = None
    if config.class_weights:
        labels = labels_of(train_batches.dataset.dataset)
        weights = class_weights(labels, len(classes), config.class_weights).to(device)
    step = build_step(state.model, state.optimizer, config, state.scaler, profiler, weights)
    folder = call_on_main(partial(open_run_folder, config, lock))
    if config.resume:
        path, content = call_on_main(partial(load_last, folder))
        state.load_state_dict(content, path)
        rates = rising_rate(state.lr_scheduler)
        if rates is not None:
            warn_main(
                f"the learning rate rises from {rates[0]:.2g} to {rates[1]:.2g} "
                f"again: the {config.schedule} schedule now ends after {config.epochs} epochs, not "
                f"{content['config'].epochs}"
            )
    call_on_main(partial(keep_metrics_before, folder, state.progress.epoch))
    run = Run(
        state=state,
        step=step,
        train_loader=train_batches,
        val_loader=val_batches,
        device=device,
        folder=folder,
        logger=RunLogger(folder if is_main() else None, config, state.progress.epoch),
        stop=stop,
        lock=lock,
        fetches=fetches(train_batches) or fetches(val_batches),
        mirror=None if config.mirror is None else Mirror(folder, config.mirror),
        profiler=profiler,
        class_weights=weights,
        views=config.train_view_names,
    )
    if config.log_images and is_main():
        first = next(iter(val_batches))
        if first.failure is not None:
            raise RemoteError(first.failure)
        if len(first.labels) > 0:
            shown = first.first(config.log_images).inputs(config, device)
            run.logged_images, run.logged_large = shown
    return run


def start_epoch(run: Run) -> None:
    """Put the model in training mode and, in the first epochs of --freeze, freeze its backbone; in
    those before --views-after, leave out the views.

    Frozen, its weights get no gradient, weight decay or momentum, and its batch norm uses and keeps
    the statistics that it has.
    """
    state, config = run.state, run.config
    state.model.train()
    epoch = state.progress.epoch
    freeze = epoch < config.freeze
    views = config.train_view_names if epoch >= config.raw_epochs else ()
    turns = freeze != bool(run.frozen)
    if turns:
        if freeze:
            run.frozen = [item for item in state.model.backbone.parameters() if item.requires_grad]
        for parameter in run.frozen:
            parameter.requires_grad_(not freeze)
            parameter.grad = None
        if not freeze:
            run.frozen = []
    if turns or views != run.views:
        run.views = views
        # DistributedDataParallel and a CUDA graph are made for the weights and views that train.
        how = (state.scaler, run.profiler, run.class_weights, views)
        run.step = build_step(state.model, state.optimizer, config, *how)
    if freeze:
        state.model.backbone.eval()
