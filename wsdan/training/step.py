"""One training step: from a batch to moved weights, without waiting for the device."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

from wsdan.config import Config
from wsdan.distributed import all_agree, gather_rows, world_size
from wsdan.precision import autocast
from wsdan.profiling import NO_PROFILER, Profiler
from wsdan.training.graphs import GraphedStep
from wsdan.training.objective import OBJECTIVES
from wsdan.training.rollback import Rollback

# images (B,3,H,W), labels (B,), uniforms (B,4) -> what TrainingStep returns.
Step = Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]]


class Objective(nn.Module):
    """The objective of a run as a module, which torch's DistributedDataParallel can wrap whole."""

    def __init__(self, model: nn.Module, config: Config, profiler: Profiler):
        super().__init__()
        self.model = model
        self._objective = OBJECTIVES[config.method]
        self._options = {
            "center_weight": config.center_weight,
            "counterfactual": config.counterfactual,
            "joint_views": config.joint_views,
            "label_smoothing": config.label_smoothing,
            "move_centers": False,  # once a step, by all its parts
            "profiler": profiler,
        }

    def forward(self, images: Tensor, labels: Tensor, uniforms: Tensor) -> dict[str, Tensor]:
        return self._objective(self.model, images, labels, uniforms=uniforms, **self._options)


class TrainingStep:
    """Forward, backward and the optimizer's step.

    A step whose loss or gradient is no finite number changes nothing: weights, the optimizer's
    state, batch norm's statistics and feature centers stay as they were. Nothing here may read a
    value from the device, and nothing of the autograd graph may outlive the call: a CUDA graph is
    captured from it.

    Args:
        optimizer: fused, so that it can leave out a step on the device's word.
        scaler: of the loss, enabled for float16.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: Config,
        scaler: torch.amp.GradScaler,
        profiler: Profiler,
    ):
        self._config, self._profiler = config, profiler
        self._optimizer, self._scaler = optimizer, scaler
        self._model = model
        self._parameters = list(model.parameters())
        self._rollback = Rollback(model)
        self._objective = Objective(model, config, profiler)
        if world_size() > 1:
            # Buffers: the centers are alike everywhere, batch norm's statistics count on rank 0.
            self._objective = DistributedDataParallel(self._objective, broadcast_buffers=False)

    def __call__(self, images: Tensor, labels: Tensor, uniforms: Tensor) -> dict[str, Tensor]:
        """images (B,3,H,W), labels (B,) int64, uniforms (B,4).

        Returns:
            The objective's scalars, detached; "correct" () int64, the number of images that the
            raw view classifies right; "finite" () int64, 1, or 0 where the step was left out and
            all others are 0.
        """
        with self._profiler("optimizer"):
            labels_of_all = gather_rows(labels)
            self._rollback.keep(labels_of_all)
            self._optimizer.zero_grad(set_to_none=True)
        scalars, pooled = self._accumulate(images, labels, uniforms)
        if pooled:  # by all parts and ranks, in their order, so that the centers are alike in each
            with self._profiler("classifier and losses"):
                self._model.centers.update_(gather_rows(torch.cat(pooled)), labels_of_all)
        with self._profiler("optimizer"):
            finite = self._move_weights(scalars["loss"])
            self._rollback.restore_unless(finite)
        counted = {name: torch.where(finite, value, 0) for name, value in scalars.items()}
        return {**counted, "finite": finite.long()}

    def _move_weights(self, loss: Tensor) -> Tensor:
        """The optimizer's step, left out where the loss or a gradient is not finite.

        Returns a () bool tensor: whether neither is to blame. A gradient that overflows under a
        scale above 1 is not: the scaler lets it, and scales less from then on.
        """
        self._scaler.unscale_(self._optimizer)
        gradients = [item.grad for item in self._parameters if item.grad is not None]
        finite, sound = all_agree(torch.isfinite(torch.stack((loss, get_total_norm(gradients)))))
        # Not through the scaler's step, which goes by the gradients alone.
        self._optimizer.found_inf = (~(finite & sound)).float()
        self._optimizer.step()
        if self._scaler.is_enabled():
            sound = sound | (self._scaler.scale(torch.ones_like(loss)) > 1)
            self._scaler.update()
        return finite & sound

    def _accumulate(
        self, images: Tensor, labels: Tensor, uniforms: Tensor
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Add up the gradients of the parts of a step; the means of their scalars, and what the
        centers are to move by."""
        parts = min(self._config.accumulate, len(labels))
        batches = zip(*(x.tensor_split(parts) for x in (images, labels, uniforms)), strict=True)
        sums: dict[str, Tensor] = {}
        pooled = []
        for number, batch in enumerate(batches, start=1):
            share = len(batch[1]) / len(labels)
            with self._synchronised(number == parts):
                scalars, features = self._one_part(*batch, share)
            pooled += features
            for name, value in scalars.items():
                sums[name] = sums[name] + value if name in sums else value
        return sums, pooled

    def _one_part(
        self, images: Tensor, labels: Tensor, uniforms: Tensor, share: float
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Its share of the scalars, and what the centers are to move by, if anything."""
        with self._profiler("classifier and losses"), autocast(self._config, images.device):
            result = self._objective(images, labels, uniforms)
        with self._profiler("backward"):
            self._scaler.scale(result["loss"] * share).backward()
        scalars = {n: value.detach() * share for n, value in result.items() if value.dim() == 0}
        correct = (result["logits"].detach().argmax(1) == labels).sum()
        pooled = [result["pooled"].detach()] if "pooled" in result else []
        return {**scalars, "correct": correct}, pooled

    def _synchronised(self, last: bool):
        """Ranks exchange gradients once a step, with its last part."""
        alone = isinstance(self._objective, DistributedDataParallel) and not last
        return self._objective.no_sync() if alone else nullcontext()


def build_scaler(config: Config, device: torch.device) -> torch.amp.GradScaler:
    """The scaler of a run's loss: it does nothing unless the precision is fp16."""
    return torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")


def build_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: Config,
    scaler: torch.amp.GradScaler | None = None,
    profiler: Profiler = NO_PROFILER,
) -> Step:
    """The training step of a run: called as it stands, or through a CUDA graph (--cuda-graph)."""
    if scaler is None:
        scaler = build_scaler(config, next(model.parameters()).device)
    step = TrainingStep(model, optimizer, config, scaler, profiler)
    if config.cuda_graph:
        return GraphedStep(step, optimizer, config.batch_size * config.accumulate)
    return step
