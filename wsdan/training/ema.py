"""Exponential moving average (EMA) of a model's weights, which often classifies better."""

import copy

import torch
from torch import nn


class ModelEma:
    """ema = d * ema + (1 - d) * weights after each step, for parameters and buffers.

    Integer buffers are copied. `module` is the averaged model, in evaluation mode.

    Args:
        model: on its device.
        decay: d, in (0,1). At step n it is at most (1 + n) / (10 + n), which starts at 2/11, so
            that the first weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.steps = torch.zeros((), dtype=torch.int64, device=next(model.parameters()).device)
        self._decay = decay
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, finite: torch.Tensor) -> None:
        """Average in the model's current weights, without waiting for the device.

        finite: () int64, on the model's device: 1, or 0 for a skipped step, which changes nothing
        here either.
        """
        self.steps += finite
        decay = ((1 + self.steps) / (10 + self.steps)).clamp(max=self._decay)
        weight = finite * (1 - decay)
        for average, current in self._averaged:
            average.lerp_(current, weight.to(average.dtype))
        for copied, current in self._copied:
            copied.copy_(current)

    def state_dict(self) -> dict:
        return {"model": self.module.state_dict(), "steps": int(self.steps)}

    def load_state_dict(self, state: dict) -> None:
        self.module.load_state_dict(state["model"])
        self.steps.fill_(state["steps"])


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]
