"""The optimizer and the learning rate's schedule."""

import math

import torch
from torch import nn

from wsdan.config import Config

# Options that choose torch's implementation of a step. They depend on the device, not on the run.
IMPLEMENTATION = ("foreach", "fused", "capturable")


def build_optimizer(model: nn.Module, config: Config) -> torch.optim.Optimizer:
    """SGD with momentum 0.9 on all weights (the published recipe), or AdamW.

    AdamW applies no weight decay to biases, norms and the classifier. Both use torch's fused
    implementation: few launches, which a CUDA graph can hold, and `found_inf` skips a step on the
    device.
    """
    classifier = list(model.classifier.parameters())
    ids = {id(parameter) for parameter in classifier}
    body = [parameter for parameter in model.parameters() if id(parameter) not in ids]
    classifier_lr = config.lr * config.classifier_lr_scale
    options = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    if config.optimizer == "sgd":
        groups = [{"params": body}, {"params": classifier, "lr": classifier_lr}]
        optimizer = torch.optim.SGD(groups, momentum=0.9, **options)
        # Else torch starts the momentum at the first step, even if that step is skipped.
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
    """Load a state, perhaps from another device; keeps this optimizer's implementation.

    Raises ValueError or RuntimeError if the parameter groups differ.
    """
    for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
        saved.update({name: group[name] for name in IMPLEMENTATION if name in group})
    optimizer.load_state_dict(state)


def build_lr_scheduler(
    optimizer: torch.optim.Optimizer, config: Config, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """A linear warm-up of the learning rate, then x0.9 every 2 epochs or a cosine down to 0."""
    total = config.epochs * steps_per_epoch
    warmup = config.warmup * total

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if config.schedule == "step":
            return 0.9 ** (step // steps_per_epoch // 2)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def rising_rate(scheduler: torch.optim.lr_scheduler.LambdaLR) -> tuple[float, float] | None:
    """The learning rate that a scheduler was loaded with and the next one, where that is higher.

    So it is where a run goes on to more epochs than its cosine was made for.
    """
    last = scheduler.get_last_lr()[0]
    rate = scheduler.base_lrs[0] * scheduler.lr_lambdas[0](scheduler.last_epoch)
    return (last, rate) if rate > 1.01 * last else None
