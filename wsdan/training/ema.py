"""Exponential moving average (EMA) of a model's weights, which often classifies better."""

import copy

import torch
from torch import nn


class ModelEma:
    """ema = d * ema + (1 - d) * weights after each step, for parameters and buffers.

    Integer buffers are copied. `module` is the averaged model, in evaluation mode. Its feature
    centers, which no prediction reads, are the model's own tensor: N*D numbers less to hold and to
    move in each step.

    Args:
        model: on its device.
        decay: d, in (0,1). At step n it is at most (1 + n) / (10 + n), which starts at 2/11, so
            that the first weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        shared = {}
        if hasattr(model, "centers"):
            shared[id(model.centers.centers)] = model.centers.centers
        self.module = copy.deepcopy(model, shared).eval().requires_grad_(False)
        self.steps = torch.zeros((), dtype=torch.int64, device=next(model.parameters()).device)
        self._decay = decay
        pairs = zip(_tensors(self.module), _tensors(model), strict=True)
        pairs = [pair for pair in pairs if pair[0] is not pair[1]]
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        others = [pair for pair in pairs if not pair[0].is_floating_point()]
        self._averaged, self._current = _unzipped(floating)
        self._copied, self._source = _unzipped(others)

    @torch.no_grad()
    def update(self, finite: torch.Tensor) -> None:
        """Average in the model's current weights, without waiting for the device.

        finite: () int64, on the model's device: 1, or 0 for a skipped step, which changes nothing
        here either.
        """
        self.steps += finite
        decay = ((1 + self.steps) / (10 + self.steps)).clamp(max=self._decay)
        # A few launches instead of one for each tensor. `_foreach_lerp_` would wait for a weight
        # that is on the device, or go tensor by tensor.
        moves = torch._foreach_sub(self._current, self._averaged)
        torch._foreach_mul_(moves, finite * (1 - decay))
        torch._foreach_add_(self._averaged, moves)
        if self._copied:
            torch._foreach_copy_(self._copied, self._source)

    def state_dict(self) -> dict:
        return {"model": self.module.state_dict(), "steps": int(self.steps)}

    def load_state_dict(self, state: dict) -> None:
        weights = {**state["model"]}
        if hasattr(self.module, "centers"):  # stay those of the model; older states averaged them
            weights["centers.centers"] = self.module.centers.centers
        self.module.load_state_dict(weights)
        self.steps.fill_(state["steps"])


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


def _unzipped(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[list, list]:
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
