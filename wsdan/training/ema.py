"""Averaged weights: an exponential moving average of a model's, which often classifies better."""

import copy

import torch
from torch import nn


class AveragedWeights:
    """average = d * average + (1 - d) * weights after each step; buffers alike.

    Args:
        model: on its device. decay: d, in (0,1); it rises to that from 2/11 on, as
            (1 + n) / (10 + n) at step n, so that the first weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.steps = torch.zeros((), dtype=torch.int64, device=next(model.parameters()).device)
        self._decay = decay
        pairs = list(zip(_tensors(self.model), _tensors(model), strict=True))
        self._moving = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counting = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, finite: torch.Tensor) -> None:
        """Take the weights of now into the average.

        finite: () int64, of the model's device: 1, or 0 for a step that was left out, which changes
        nothing here either. Its value is not waited for.
        """
        self.steps += finite
        decay = ((1 + self.steps) / (10 + self.steps)).clamp(max=self._decay)
        share = finite * (1 - decay)
        for average, now in self._moving:
            average.lerp_(now, share.to(average.dtype))
        for average, now in self._counting:
            average.copy_(now)

    def state_dict(self) -> dict:
        return {"model": self.model.state_dict(), "steps": int(self.steps)}

    def load_state_dict(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.steps.fill_(state["steps"])


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]
