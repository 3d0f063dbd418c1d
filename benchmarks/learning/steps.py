"""The published training step and ours from the same state, one step after the other, in float64.

Before each step ours takes over all state of the published run: weights, batch norm, centers,
optimizer. Left alone, two runs drift apart from rounding, as one more run of ours shows.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from harness import published
from torch import Tensor, nn

from wsdan.config import Config
from wsdan.data.loaders import train_loader
from wsdan.networks.model import build_model
from wsdan.training.loop import to_device
from wsdan.training.optim import build_optimizer
from wsdan.training.state import seed_generators
from wsdan.training.step import Step, build_step
from wsdan_kernels.testing import relative_error

LOSSES = ("loss", "raw", "crop", "drop", "center")
Batch = tuple[Tensor, Tensor, Tensor]  # images (B,3,H,W), labels (B,), uniforms (B,4)


@dataclass
class Trained:
    """A model, its optimizer and its training step."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: Step

    def take_over(self, other: "Trained") -> None:
        """All state of another one, copied."""
        self.model.load_state_dict(other.model.state_dict())
        self.optimizer.load_state_dict(copy.deepcopy(other.optimizer.state_dict()))


@dataclass
class Compared:
    """One step of both from the same state.

    published, ours: the losses. left_alone: those of a run of ours with a state of its own.
    losses, gradients, weights, centers, statistics: the largest difference, relative to the
    published value (of a tensor: to its largest value); of the last three after the step.
    """

    published: dict[str, float]
    ours: dict[str, float]
    left_alone: dict[str, float]
    losses: float
    gradients: float
    weights: float
    centers: float
    statistics: float
    worst_gradient: str = field(default="", repr=False)


def published_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    """The published step: zero, forward, backward, optimizer, and nothing else."""

    def step(images: Tensor, labels: Tensor, uniforms: Tensor) -> dict[str, Tensor]:
        optimizer.zero_grad(set_to_none=True)
        result = published.listing_losses(model, images, labels, uniforms)
        result["loss"].backward()
        optimizer.step()
        losses = {name: result[name].detach() for name in LOSSES}
        correct = (result["logits"].detach().argmax(1) == labels).sum()
        return {**losses, "correct": correct, "finite": torch.ones((), dtype=torch.int64)}

    return step


def trained(model: nn.Module, config: Config, ours: bool) -> Trained:
    """A copy of the model with the step of a run of this resolved configuration."""
    model = copy.deepcopy(model)
    optimizer = build_optimizer(model, config)
    step = build_step(model, optimizer, config) if ours else published_step(model, optimizer)
    return Trained(model, optimizer, step)


def batches(config: Config) -> Iterator[Batch]:
    """A run's batches in their order, with its draws, in float64."""
    loader, _ = train_loader(config)
    epoch = 0
    while True:
        loader.batch_sampler.set_epoch(epoch, 0)
        for batch in loader:
            (images, labels, uniforms), _ = to_device(batch, config, torch.device("cpu"))
            yield images.double(), labels, uniforms.double()
        epoch += 1


def compare(config: Config, count: int, classes: int) -> list[Compared]:
    """This many steps of a run of a resolved configuration, on the CPU in float64."""
    seed_generators(config.seed)
    model = build_model(config, classes).double().to(memory_format=torch.channels_last).train()
    theirs, ours, alone = (trained(model, config, kind) for kind in (False, True, True))
    found = []
    for _, batch in zip(range(count), batches(config), strict=False):
        ours.take_over(theirs)
        found.append(_compared(theirs, ours, alone, batch))
    return found


def _compared(theirs: Trained, ours: Trained, alone: Trained, batch: Batch) -> Compared:
    losses = [_floats(one.step(*batch)) for one in (theirs, ours, alone)]
    expected, value, _ = losses
    gradients = {
        name: relative_error(mine.grad, parameter.grad)
        for (name, parameter), mine in zip(
            theirs.model.named_parameters(), ours.model.parameters(), strict=True
        )
    }
    worst = max(gradients, key=gradients.get)
    return Compared(
        *losses,
        losses=max(abs(value[name] - expected[name]) / abs(expected[name]) for name in LOSSES),
        gradients=gradients[worst],
        weights=_largest(theirs.model.parameters(), ours.model.parameters()),
        centers=relative_error(ours.model.centers.centers, theirs.model.centers.centers),
        statistics=_largest(_statistics(theirs.model), _statistics(ours.model)),
        worst_gradient=worst,
    )


def _floats(results: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(results[name]) for name in LOSSES}


def _largest(expected, values) -> float:
    pairs = zip(expected, values, strict=True)
    return max((relative_error(value, truth) for truth, value in pairs), default=0.0)


def _statistics(model: nn.Module) -> list[Tensor]:
    """The buffers of batch norm; "default_value" 0 where a network has none."""
    norms = [item for item in model.modules() if isinstance(item, nn.BatchNorm2d)]
    return [buffer.double() for norm in norms for buffer in norm.buffers()]
