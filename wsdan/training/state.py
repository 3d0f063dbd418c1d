"""All that a run changes, as one object that a checkpoint holds and a resumed run takes up."""

import dataclasses
import random
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from wsdan.config import Config
from wsdan.data.samplers import EpochBatchSampler
from wsdan.distributed import gather_objects, rank, world_size
from wsdan.errors import UserError
from wsdan.training.ema import AveragedWeights
from wsdan.training.optim import load_optimizer
from wsdan.training.skips import Skips
from wsdan.validation import option_name

# What a resumed run may be asked to do otherwise. A change of anything else would make another run
# of it. The size of a step may change where it divides what the epoch has seen.
MAY_CHANGE = {
    "out", "resume", "overwrite", "profile", "root", "device", "workers", "cache", "decode",
    "epochs", "eval_every", "save_every", "max_skipped", "log_images", "skip_bad_images",
    "batch_size", "accumulate", "compile", "cuda_graph", "pretrained", "weights",
    "ignore_classifier", "final", "tta", "refine_threshold", "refine_padding",
}  # fmt: skip


@dataclass
class Progress:
    """How far a run is: `seen` images of epoch `epoch` (by steps of all ranks).

    totals: sums of the step's scalars over the epoch, in this process, and "images", those learnt
    from. bad: unreadable images. trained: the epoch's steps are done, its evaluation is not.
    best: the accuracy of best.pt.
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
        """Go on to the next epoch's start."""
        self.__init__(epoch=self.epoch + 1, best=self.best)

    def first_step(self, step_size: int) -> int:
        """The number of the epoch's next step, of `step_size` images. Raises UserError."""
        if self.seen % step_size and not self.trained:
            raise UserError(
                f"--resume: the run has seen {self.seen} images of epoch {self.epoch + 1}, which "
                f"steps of {step_size} (processes x --batch-size x --accumulate) do not divide"
            )
        return self.seen // step_size


@dataclass
class RunState:
    """The model and everything else that training moves."""

    config: Config
    classes: list[str]
    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler
    scaler: torch.amp.GradScaler
    average: AveragedWeights | None
    batches: EpochBatchSampler
    progress: Progress
    skips: Skips

    def eval_model(self) -> nn.Module:
        """The model that is evaluated: the averaged one where there is one."""
        return self.model if self.average is None else self.average.model

    def state_dict(self) -> dict:
        """What a checkpoint holds. All ranks must call it; the first rank's is written."""
        shares = gather_objects({"rng": _random_state(), "progress": self._share()})
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step_size": self.batches.step_size,
            "ranks": shares,
        }
        if self.average is not None:
            average = self.average.state_dict()
            state |= {"ema": average["model"], "ema_steps": average["steps"]}
        return state

    def restore(self, state: dict, path: object) -> None:
        """Take up a checkpoint's state in place. Raises UserError where it is another run's."""
        self._check_same_run(state, path)
        try:
            self.model.load_state_dict(state["model"])
            load_optimizer(self.optimizer, state["optimizer"])
        except (RuntimeError, ValueError, KeyError):
            raise UserError(
                f"--resume: {path} holds another model than the settings ask for"
            ) from None
        self.schedule.load_state_dict(state["schedule"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict({"model": state["ema"], "steps": state["ema_steps"]})
        self._take_up(state["ranks"], state["step_size"])

    def _take_up(self, shares: list[dict], step_size: int) -> None:
        """Go on where each rank was or, with other ranks or steps, where all of them were."""
        if len(shares) == world_size() and step_size == self.batches.step_size:
            own = shares[rank()]
            self.progress = Progress(**own["progress"])
            _set_random_state(own["rng"])
            return
        self.progress = _together([share["progress"] for share in shares], rank() == 0)
        first = self.progress.first_step(self.batches.step_size)
        self.schedule.last_epoch = self.progress.epoch * len(self.batches) + first

    def _check_same_run(self, state: dict, path: object) -> None:
        if "ranks" not in state:
            raise UserError(f"--resume: {path} holds a model and no run to go on with")
        for item in dataclasses.fields(Config):
            then, now = getattr(state["config"], item.name), getattr(self.config, item.name)
            if item.name not in MAY_CHANGE and then != now:
                raise UserError(
                    f"--resume: {path} is of another run: {option_name(item.name)} was {then} "
                    f"there and is {now} now"
                )
        if state["classes"] != self.classes:
            raise UserError(f"--resume: {path} was trained on other classes than --root holds")

    def _share(self) -> dict:
        """This rank's progress, as plain numbers."""
        values = {
            item.name: getattr(self.progress, item.name) for item in dataclasses.fields(Progress)
        }
        values["totals"] = {name: total.cpu() for name, total in self.progress.totals.items()}
        return values


def _together(shares: list[dict], first: bool) -> Progress:
    """The progress of other processes than those of now: the first one takes over their sums."""
    known = {name: shares[0][name] for name in ("epoch", "seen", "trained", "best", "seconds")}
    if not first:
        return Progress(**known)
    sums = {name: sum(share[name] for share in shares) for name in ("steps", "bad")}
    totals = {name: sum(share["totals"][name] for share in shares) for name in shares[0]["totals"]}
    return Progress(**known, **sums, totals=totals)


def seed_generators(seed: int) -> None:
    """Seed every generator that a run, or code of others in it, may draw from."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def _random_state() -> dict:
    """That of these generators, as tensors, numbers and text."""
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
