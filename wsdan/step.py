"""One training step: from a batch to moved weights, without waiting for the device."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from wsdan.config import Config
from wsdan.graphs import GraphedStep
from wsdan.objective import OBJECTIVES
from wsdan.phases import UNTIMED, Phases

# images (B,3,H,W), labels (B,) -> what training_step returns.
Step = Callable[[Tensor, Tensor], dict[str, Tensor]]


def training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: Config,
    phases: Phases,
    images: Tensor,
    labels: Tensor,
) -> dict[str, Tensor]:
    """Forward, backward and the optimizer's step; images (B,3,H,W), labels (B,) int64.

    Nothing here may read a value from the device, and nothing of the autograd graph may outlive the
    call: a CUDA graph is captured from it.

    Returns:
        The objective's scalars, detached, and "correct" () int64, the number of pictures that the
        raw view classifies right.
    """
    with phases("classifier and losses"):
        result = OBJECTIVES[config.method](
            model, images, labels, center_weight=config.center_weight, phases=phases
        )
    with phases("backward"):
        optimizer.zero_grad(set_to_none=True)
        result["loss"].backward()
    with phases("optimizer"):
        optimizer.step()
    scalars = {name: value.detach() for name, value in result.items() if value.dim() == 0}
    correct = (result["logits"].detach().argmax(1) == labels).sum()
    return {**scalars, "correct": correct}


def build_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: Config,
    phases: Phases = UNTIMED,
) -> Step:
    """The training step of a run: called as it stands, or through a CUDA graph (--cuda-graph)."""

    def step(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return training_step(model, optimizer, config, phases, images, labels)

    return GraphedStep(step, optimizer, config.batch_size) if config.cuda_graph else step
