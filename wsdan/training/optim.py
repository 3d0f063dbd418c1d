"""The optimizer and the learning rate's schedule."""

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from wsdan.config import Config
from wsdan.networks.layers import parameter_layers

# What an optimizer keeps for each parameter.
STATE = {
    torch.optim.SGD: ("momentum_buffer",),
    torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
}
# What changes in a learning rate's schedule.
POSITION = ("last_epoch", "_step_count", "_last_lr")


def build_optimizer(model: nn.Module, config: Config) -> torch.optim.Optimizer:
    """SGD with momentum 0.9 on all weights (the published recipe), or AdamW.

    AdamW applies no weight decay to biases, norms and the classifier. Both use torch's fused
    implementation: few launches, which a CUDA graph can hold, and `found_inf` skips a step on the
    device.
    """
    options = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    groups = _parameter_groups(model, config)
    if config.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, momentum=0.9, **options)
        # Else torch starts the momentum at the first step, even if that step is skipped.
        for parameter in model.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer
    return torch.optim.AdamW(groups, capturable=True, **options)


def _parameter_groups(model: nn.Module, config: Config) -> list[dict]:
    """The optimizer's groups, each parameter in one; the first has the full learning rate."""
    classifier = list(model.classifier.parameters())
    head = {"params": classifier, "lr": config.lr * config.classifier_lr_scale}
    adamw = config.optimizer == "adamw"
    groups = []
    for lr, body in _rates(model, config):
        if not adamw:
            groups.append({"params": body, "lr": lr})
            continue
        matrices = [weight for weight in body if weight.dim() > 1]
        vectors = [weight for weight in body if weight.dim() <= 1]
        groups.append({"params": matrices, "lr": lr})
        groups.append({"params": vectors, "lr": lr, "weight_decay": 0.0})
    if adamw:
        head["weight_decay"] = 0.0
    return [*groups, head]


def _rates(model: nn.Module, config: Config) -> list[tuple[float, list[nn.Parameter]]]:
    """Learning rates, and the parameters but for the classifier's that have them.

    With --layer-decay d, the last layer of the backbone has d times the rate of the attention maps,
    the one before it d^2 times, and so on, as in BEiT (arXiv:2106.08254).
    """
    classifier = {id(parameter) for parameter in model.classifier.parameters()}
    body = {n: item for n, item in model.named_parameters() if id(item) not in classifier}
    if config.layer_decay == 1:
        return [(config.lr, list(body.values()))]
    layers = {f"backbone.{n}": layer for n, layer in parameter_layers(model.backbone).items()}
    count = 1 + max(layers.values())
    found: dict[int, list[nn.Parameter]] = {}
    for name, parameter in body.items():
        found.setdefault(count - layers.get(name, count), []).append(parameter)
    return [(config.lr * config.layer_decay**depth, found[depth]) for depth in sorted(found)]


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load a state, perhaps from another device; of its options only the learning rates, since the
    others follow from the settings and the device.

    Raises ValueError if the parameter groups, or the tensors of a parameter, are not this
    optimizer's.
    """
    groups = optimizer.state_dict()["param_groups"]
    for own, saved in zip(groups, state["param_groups"], strict=True):
        own["lr"] = saved["lr"]
    parameters = [item for group in optimizer.param_groups for item in group["params"]]
    for index, values in state["state"].items():
        shapes = {name: tuple(value.shape) for name, value in values.items()}
        full = tuple(parameters[index].shape)
        fitting = {name: () if name == "step" else full for name in STATE[type(optimizer)]}
        if shapes != fitting:
            raise ValueError(f"parameter {index} has {shapes} in place of {fitting}")
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})


def load_lr_scheduler(lr_scheduler: LRScheduler, state: dict) -> None:
    """Load the position of a learning rate's schedule; its function stays this one's."""
    own = lr_scheduler.state_dict()
    lr_scheduler.load_state_dict({**own, **{name: state[name] for name in POSITION}})


def build_lr_scheduler(
    optimizer: torch.optim.Optimizer, config: Config, steps_per_epoch: int
) -> LRScheduler:
    """A linear warm-up of the learning rate, then x0.9 every 2 epochs, at once or by a little at
    every step (CAL), or a cosine down to 0."""
    total = config.epochs * steps_per_epoch
    warmup = config.warmup * total

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if config.schedule == "step":
            return 0.9 ** (step // steps_per_epoch // 2)
        if config.schedule == "exponential":
            return 0.9 ** (step / steps_per_epoch / 2)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def rising_rate(scheduler: torch.optim.lr_scheduler.LambdaLR) -> tuple[float, float] | None:
    """The learning rate that a scheduler was loaded with and the next one, where that is higher.

    So it is where a run goes on to more epochs than its cosine was made for.
    """
    last = scheduler.get_last_lr()[0]
    rate = scheduler.base_lrs[0] * scheduler.lr_lambdas[0](scheduler.last_epoch)
    return (last, rate) if rate > 1.01 * last else None
