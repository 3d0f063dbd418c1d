"""The optimiser and its learning rate."""

import math

import torch
from torch import nn

from wsdan.config import Config

# How torch computes the step, not what it computes: of the machine, not of the run.
IMPLEMENTATION = ("foreach", "fused", "capturable")


def build_optimizer(model: nn.Module, config: Config) -> torch.optim.Optimizer:
    """SGD with momentum 0.9 on all weights alike (the published recipe), or AdamW.

    AdamW leaves biases, norms and the classifier without weight decay. Both are torch's fused ones:
    few launches, which a CUDA graph may hold, and a step that `found_inf` calls off on the device.
    """
    classifier = list(model.classifier.parameters())
    ids = {id(parameter) for parameter in classifier}
    body = [parameter for parameter in model.parameters() if id(parameter) not in ids]
    classifier_lr = config.lr * config.classifier_lr_scale
    options = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    if config.optimizer == "sgd":
        groups = [{"params": body}, {"params": classifier, "lr": classifier_lr}]
        optimizer = torch.optim.SGD(groups, momentum=0.9, **options)
        # torch would take the first step for the momentum's start, also where it is called off.
        for parameter in model.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer
    groups = [
        {"params": [weight for weight in body if weight.dim() > 1]},
        {"params": [weight for weight in body if weight.dim() <= 1], "weight_decay": 0.0},
        {"params": classifier, "lr": classifier_lr, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, capturable=True, **options)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load a state that may come from another device; the implementation stays this optimizer's.

    Raises ValueError or RuntimeError for the state of other groups.
    """
    for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
        saved.update({name: group[name] for name in IMPLEMENTATION if name in group})
    optimizer.load_state_dict(state)


def build_schedule(
    optimizer: torch.optim.Optimizer, config: Config, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The rate at each step: a linear rise over the warm-up, then steps (x0.9 every 2 epochs) or a
    cosine down to 0."""
    total = config.epochs * steps_per_epoch
    rise = config.warmup * total

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / (rise + 1)
        if config.schedule == "step":
            return 0.9 ** (step // steps_per_epoch // 2)
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(total - rise, 1)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
