"""One training step: forward, backward and optimizer, without waiting for the device.

torch's SyncBatchNorm alone (--sync-batchnorm) waits: it picks the ranks that had images.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

from wsdan.config import Config
from wsdan.data.zoom import Large
from wsdan.distributed import all_over_ranks, gather_rows, world_size
from wsdan.precision import autocast
from wsdan.profiling import NO_PROFILER, Profiler
from wsdan.training.graphs import GraphedStep
from wsdan.training.objective import OBJECTIVES
from wsdan.training.rollback import Rollback

# images (B,3,H,W), labels (B,), uniforms (B,4), with --calmix (B,6), others by name -> what
# TrainingStep returns.
Step = Callable[..., dict[str, Tensor]]


class Objective(nn.Module):
    """The objective of a run as a module, for torch's DistributedDataParallel."""

    def __init__(
        self,
        model: nn.Module,
        config: Config,
        profiler: Profiler,
        class_weights: Tensor | None = None,
        views: tuple[str, ...] | None = None,
    ):
        super().__init__()
        self.model = model
        self._objective = OBJECTIVES[config.method]
        self._options = {
            "center_weight": config.center_weight,
            "class_weights": class_weights,
            "counterfactual": config.counterfactual,
            "calmix": config.calmix,
            "joint_views": config.joint_views,
            "label_smoothing": config.label_smoothing,
            "views": config.train_view_names if views is None else views,
            "move_centers": False,  # TrainingStep does, once a step
            "profiler": profiler,
        }

    def forward(
        self, images: Tensor, labels: Tensor, uniforms: Tensor, **others: Tensor
    ) -> dict[str, Tensor]:
        options = {"uniforms": uniforms, **self._options}
        if "pixels" in others:
            options["large"] = Large(others["pixels"], others["extents"])
        return self._objective(self.model, images, labels, **options)


class TrainingStep:
    """Forward, backward and the optimizer's step.

    A step whose loss or gradient is not finite is skipped: weights, the optimizer's state, batch
    norm's statistics and feature centers stay as they were. A CUDA graph is captured from this
    step, so it must not read a value from the device, and no part of the autograd graph may
    outlive the call.

    Args:
        optimizer: fused, so that `found_inf` skips a step on the device.
        scaler: of the loss, enabled for fp16.
        class_weights: (N,) on the model's device, of the cross-entropies.
        views: of the objective, if not those of the configuration.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: Config,
        scaler: torch.amp.GradScaler,
        profiler: Profiler,
        class_weights: Tensor | None = None,
        views: tuple[str, ...] | None = None,
    ):
        self._config, self._profiler = config, profiler
        self._optimizer, self._scaler = optimizer, scaler
        self._model = model
        self._parameters = list(model.parameters())
        self._rollback = Rollback(model)
        self._objective = Objective(model, config, profiler, class_weights, views)
        if world_size() > 1:
            self._objective = DistributedDataParallel(self._objective)
            # The centers are equal in all ranks; of batch norm, rank 0's buffers are used. As an
            # argument, newer versions of torch warn of it.
            self._objective.broadcast_buffers = False

    def __call__(
        self, images: Tensor, labels: Tensor, uniforms: Tensor, **others: Tensor
    ) -> dict[str, Tensor]:
        """images (B,3,H,W), labels (B,) int64, uniforms (B,4), with --calmix (B,6).

        others: of B rows; with a zoom "pixels" and "extents", the parts of a Large.

        Returns:
            The objective's scalars, detached; "correct" () int64, the number of images whose raw
            view is classified correctly; "finite" () int64, 1, or 0 for a skipped step, whose
            other values are 0 too.
        """
        with self._profiler("optimizer"):
            all_labels = gather_rows(labels)
            self._rollback.save(all_labels)
            self._optimizer.zero_grad(set_to_none=True)
        scalars, pooled = self._accumulate(images, labels, uniforms, others)
        if pooled:  # of all micro-batches and ranks, in order: equal centers in every rank
            with self._profiler("classifier and losses"):
                self._model.centers.update_(gather_rows(torch.cat(pooled)), all_labels)
        with self._profiler("optimizer"):
            finite = self._optimizer_step(scalars["loss"])
            self._rollback.restore_unless(finite)
        scalars = {name: torch.where(finite, value, 0) for name, value in scalars.items()}
        return {**scalars, "finite": finite.long()}

    def _optimizer_step(self, loss: Tensor) -> Tensor:
        """The optimizer's step, skipped if the loss or a gradient is not finite.

        Returns a () bool tensor: whether both are finite. A gradient that overflows under a loss
        scale above 1 counts as finite: the scaler skips the step and lowers its scale.
        """
        self._scaler.unscale_(self._optimizer)
        gradients = [item.grad for item in self._parameters if item.grad is not None]
        values = torch.stack((loss, get_total_norm(gradients)))
        finite_loss, finite_gradients = all_over_ranks(torch.isfinite(values))
        # Not scaler.step, which checks the gradients only.
        self._optimizer.found_inf = (~(finite_loss & finite_gradients)).float()
        self._optimizer.step()
        if self._scaler.is_enabled():
            finite_gradients = finite_gradients | (self._scaler.scale(torch.ones_like(loss)) > 1)
            self._scaler.update()
        return finite_loss & finite_gradients

    def _accumulate(
        self, images: Tensor, labels: Tensor, uniforms: Tensor, others: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Accumulate the gradients of the micro-batches of a step.

        Returns the means of their scalars, and their pooled features for the centers' update.
        """
        # No part is a single image, which batch norm may not take, unless --batch-size is 1.
        smallest = min(self._config.batch_size, 2)
        count = max(min(self._config.accumulate, len(labels) // smallest), 1)
        tensors = (images, labels, uniforms, *others.values())
        batches = zip(*(x.tensor_split(count) for x in tensors), strict=True)
        sums: dict[str, Tensor] = {}
        pooled = []
        for number, batch in enumerate(batches, start=1):
            weight = len(batch[1]) / len(labels)
            named = dict(zip(others, batch[3:], strict=True))
            with self._gradient_sync(last=number == count):
                scalars, features = self._micro_batch(*batch[:3], named, weight)
            pooled += features
            for name, value in scalars.items():
                sums[name] = sums[name] + value if name in sums else value
        return sums, pooled

    def _micro_batch(
        self,
        images: Tensor,
        labels: Tensor,
        uniforms: Tensor,
        others: dict[str, Tensor],
        weight: float,
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Forward and backward. Returns the weighted scalars, and the pooled features if any."""
        with self._profiler("classifier and losses"), autocast(self._config, images.device):
            result = self._objective(images, labels, uniforms, **others)
        with self._profiler("backward"):
            self._scaler.scale(result["loss"] * weight).backward()
        scalars = {n: value.detach() * weight for n, value in result.items() if value.dim() == 0}
        correct = (result["logits"].detach().argmax(1) == labels).sum()
        pooled = [result["pooled"].detach()] if "pooled" in result else []
        return {**scalars, "correct": correct}, pooled

    def _gradient_sync(self, last: bool) -> AbstractContextManager:
        """Ranks exchange gradients once a step, in its last micro-batch."""
        if last or not isinstance(self._objective, DistributedDataParallel):
            return nullcontext()
        return self._objective.no_sync()


def build_scaler(config: Config, device: torch.device) -> torch.amp.GradScaler:
    """The loss scaler of a run; it does nothing unless the precision is fp16."""
    return torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")


def build_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: Config,
    scaler: torch.amp.GradScaler | None = None,
    profiler: Profiler = NO_PROFILER,
    class_weights: Tensor | None = None,
    views: tuple[str, ...] | None = None,
) -> Step:
    """The training step of a run, as a CUDA graph with --cuda-graph."""
    if scaler is None:
        scaler = build_scaler(config, next(model.parameters()).device)
    step = TrainingStep(model, optimizer, config, scaler, profiler, class_weights, views)
    if config.cuda_graph:
        return GraphedStep(step, optimizer, config.batch_size * config.accumulate)
    return step
