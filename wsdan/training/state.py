"""The state of a run: what training changes, a checkpoint holds and a resumed run loads."""

import dataclasses
import random
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from wsdan.config import Config
from wsdan.data.fingerprint import difference
from wsdan.data.samplers import EpochBatchSampler, image_seed
from wsdan.distributed import gather_objects, rank, warn_main, world_size
from wsdan.errors import UserError
from wsdan.networks.model import build_model
from wsdan.networks.trainable import check_single_image, freeze_unused
from wsdan.training.ema import ModelEma
from wsdan.training.optim import (
    build_lr_scheduler,
    build_optimizer,
    load_lr_scheduler,
    load_optimizer,
)
from wsdan.training.skips import Skips
from wsdan.training.step import build_scaler
from wsdan.validation import option_name

# Settings that may change when a run is resumed; any other change makes it a different run. The
# number of images in a step may change if it divides the number the epoch has seen.
MAY_CHANGE = {
    "out", "mirror", "resume", "overwrite", "allow_changed_data", "profile", "root", "device",
    "workers", "cache", "decode", "epochs", "eval_every", "save_every", "max_skipped", "log_images",
    "max_pixels", "allow_empty",
    "skip_bad_images", "batch_size", "accumulate", "compile", "cuda_graph", "pretrained", "weights",
    "ignore_classifier", "log", "final", "tta", "refine_threshold", "refine_padding", "plots",
    "refine_smoothing",
    "views",
}  # fmt: skip


@dataclass
class Progress:
    """The position of a run, and the sums of the current epoch.

    Args:
        epoch: counted from 0.
        seen: images of the epoch that all ranks' steps have passed.
        trained: the epoch's steps are done, its evaluation is not.
        best: the accuracy of best.pt.
        steps: training steps of the epoch, skipped ones included.
        bad: unreadable images of the epoch, in this process.
        seconds: duration of the epoch so far.
        totals: sums of the steps' results over the epoch, in this process, and "images", the
            number trained on.
    """

    epoch: int = 0
    seen: int = 0
    trained: bool = False
    best: float = -1.0
    steps: int = 0
    bad: int = 0
    seconds: float = 0.0
    totals: dict[str, Tensor] = field(default_factory=dict)

    def next_epoch(self) -> None:
        """Move to the start of the next epoch."""
        self.__init__(epoch=self.epoch + 1, best=self.best)

    def first_step(self, step_size: int) -> int:
        """The index of the epoch's next step, of `step_size` images. Raises UserError."""
        if self.seen % step_size and not self.trained:
            raise UserError(
                f"--resume: the run has seen {self.seen} images of epoch {self.epoch + 1}, which "
                f"steps of {step_size} (processes x --batch-size x --accumulate) do not divide"
            )
        return self.seen // step_size


@dataclass
class RunState:
    """The model and everything else that training changes.

    data: the fingerprints of the splits, empty for the synthetic images.
    """

    config: Config
    classes: list[str]
    model: nn.Module
    optimizer: torch.optim.Optimizer
    lr_scheduler: LRScheduler
    scaler: torch.amp.GradScaler
    model_ema: ModelEma | None
    batch_sampler: EpochBatchSampler
    progress: Progress
    skips: Skips
    data: dict[str, Tensor] = field(default_factory=dict)

    def eval_model(self) -> nn.Module:
        """The model to evaluate: the averaged one if there is one."""
        return self.model if self.model_ema is None else self.model_ema.module

    def state_dict(self) -> dict:
        """The content of a checkpoint. All ranks must call it; rank 0 writes it."""
        ranks = gather_objects({"rng": _random_state(), "progress": self._progress_on_cpu()})
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step_size": self.batch_sampler.step_size,
            "ranks": ranks,
        }
        if self.data:
            state["data"] = self.data
        if self.model_ema is not None:
            ema = self.model_ema.state_dict()
            state |= {"ema": ema["model"], "ema_steps": ema["steps"]}
        return state

    def load_state_dict(self, state: dict, path: object) -> None:
        """Load the content of the checkpoint `path`. Raises UserError if it is another run's."""
        self._check_same_run(state, path)
        same_images = self._check_data(state)
        try:
            self.model.load_state_dict(state["model"])
            load_optimizer(self.optimizer, state["optimizer"])
            if self.model_ema is not None:
                self.model_ema.load_state_dict({"model": state["ema"], "steps": state["ema_steps"]})
            if self.scaler.is_enabled():
                self.scaler.load_state_dict(state["scaler"])
        except (RuntimeError, ValueError, KeyError):
            raise UserError(
                f"--resume: {path} holds another model than the settings ask for"
            ) from None
        load_lr_scheduler(self.lr_scheduler, state["lr_scheduler"])
        self._load_ranks(state["ranks"], state["step_size"])
        self._check_position(state["step_size"], same_images)

    def _load_ranks(self, ranks: list[dict], step_size: int) -> None:
        """Load this rank's progress and random state or, if the number of ranks or the images in a
        step have changed, the ranks' common progress."""
        if len(ranks) == world_size() and step_size == self.batch_sampler.step_size:
            own = ranks[rank()]
            self.progress = Progress(**own["progress"])
            _set_random_state(own["rng"])
        else:
            self.progress = _merged([item["progress"] for item in ranks], rank() == 0)

    def _check_position(self, step_size: int, same_images: bool) -> None:
        """Check the loaded position, of a run with steps of `step_size` images, against the epoch's
        images; where the steps of an epoch are others, move the learning rate's there."""
        progress, sampler = self.progress, self.batch_sampler
        first = min(progress.first_step(sampler.step_size), len(sampler))
        position = progress.epoch * len(sampler) + first
        if not (same_images and step_size == sampler.step_size):
            self.lr_scheduler.last_epoch = position
        elif progress.seen > max(sampler.length, step_size):
            raise UserError(
                f"--resume: the run has seen {progress.seen} images of epoch {progress.epoch + 1}, "
                f"which has {sampler.length}"
            )
        elif self.lr_scheduler.last_epoch > position:
            raise UserError(
                f"--resume: the learning rate's schedule is at step {self.lr_scheduler.last_epoch},"
                f" the run at step {position}"
            )

    def _check_data(self, state: dict) -> bool:
        """Whether the training images are those of the checkpoint, or it does not tell.

        Raises UserError for other ones in the middle of an epoch; else warns.
        """
        changes = {
            name: text
            for name, old in state.get("data", {}).items()
            if name in self.data and (text := difference(old, self.data[name]))
        }
        progress = state["ranks"][0]["progress"]
        within = progress["seen"] > 0 and not progress["trained"]
        for name, text in changes.items():
            message = f"the {name} images of {self.config.root} are not those of the run: {text}"
            if name == "train" and within and not self.config.allow_changed_data:
                raise UserError(
                    f"--resume: {message}, and epoch {progress['epoch'] + 1} is not at its end; "
                    "--allow-changed-data goes on"
                )
            warn_main(message)
        return "train" not in changes

    def _check_same_run(self, state: dict, path: object) -> None:
        if "ranks" not in state:
            raise UserError(f"--resume: {path} holds a model but no run to resume")
        for item in dataclasses.fields(Config):
            old, new = getattr(state["config"], item.name), getattr(self.config, item.name)
            if item.name not in MAY_CHANGE and old != new:
                raise UserError(
                    f"--resume: {path} is of another run: {option_name(item.name)} was {old} "
                    f"there and is {new} now"
                )
        if state["classes"] != self.classes:
            raise UserError(f"--resume: {path} was trained on other classes than --root holds")

    def _progress_on_cpu(self) -> dict:
        """This rank's progress as a dict, its tensors on the CPU."""
        values = {
            item.name: getattr(self.progress, item.name) for item in dataclasses.fields(Progress)
        }
        values["totals"] = {name: total.cpu() for name, total in self.progress.totals.items()}
        return values


def new_state(
    config: Config,
    classes: list[str],
    device: torch.device,
    batch_sampler: EpochBatchSampler,
    data: dict[str, Tensor] | None = None,
) -> RunState:
    """The state of a new run of a resolved configuration: the model and what trains it.

    data: the fingerprints of its splits.
    """
    model = build_model(config, len(classes))
    if config.batch_size == 1:
        check_single_image(model, (config.in_channels, *config.input_size))
    if world_size() > 1:
        freeze_unused(model, (config.in_channels, *config.input_size))
    if config.sync_batchnorm and world_size() > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model = model.to(device, memory_format=torch.channels_last)
    model_ema = ModelEma(model, config.ema) if config.ema else None
    if config.compile:
        model.compile()
    optimizer = build_optimizer(model, config)
    if rank() > 0:  # all ranks start from equal weights, but draw different random numbers
        torch.manual_seed(image_seed(config.seed, rank()))
    return RunState(
        config=config,
        classes=classes,
        model=model,
        optimizer=optimizer,
        lr_scheduler=build_lr_scheduler(optimizer, config, len(batch_sampler)),
        scaler=build_scaler(config, device),
        model_ema=model_ema,
        batch_sampler=batch_sampler,
        progress=Progress(),
        skips=Skips(config.max_skipped),
        data=data or {},
    )


def _merged(ranks: list[dict], main: bool) -> Progress:
    """The progress of the ranks of a checkpoint as one; rank 0 (`main`) takes over their sums."""
    common = {name: ranks[0][name] for name in ("epoch", "seen", "trained", "best", "seconds")}
    if not main:
        return Progress(**common)
    sums = {name: sum(item[name] for item in ranks) for name in ("steps", "bad")}
    names = {name: None for item in ranks for name in item["totals"]}  # in their order
    totals = {name: sum(item["totals"].get(name, 0) for item in ranks) for name in names}
    return Progress(**common, **sums, totals=totals)


def seed_generators(seed: int) -> None:
    """Seed the default generators of torch, Python and NumPy."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def _random_state() -> dict:
    """The state of these generators, as tensors, numbers and text."""
    version, words, gauss = random.getstate()
    name, key, *rest = np.random.get_state()
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "python": [version, list(words), gauss],
        "numpy": [name, key.tolist(), *rest],
    }


def _set_random_state(state: dict) -> None:
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, key, *rest = state["numpy"]
    np.random.set_state((name, np.array(key, dtype=np.uint32), *rest))
