"""Input normalization of networks whose pretrained weights do not expect ImageNet's statistics."""

import torch
from torch import Tensor, nn

from wsdan.constants import IMAGENET_MEAN, IMAGENET_STD


class InputScaling(nn.Module):
    """Renormalize images (B,3,H,W) from ImageNet's mean and std to those of a network's weights.

    Scale and shift are buffers, so that a checkpoint holds them. Checkpoints written before this
    module existed have none, and load as the identity.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        pairs = list(zip(IMAGENET_MEAN, IMAGENET_STD, mean, std, strict=True))
        scale = [from_std / to_std for _, from_std, _, to_std in pairs]
        shift = [(from_mean - to_mean) / to_std for from_mean, _, to_mean, to_std in pairs]
        self.register_buffer("scale", torch.tensor(scale).view(3, 1, 1))
        self.register_buffer("shift", torch.tensor(shift).view(3, 1, 1))
        self.register_load_state_dict_pre_hook(_default_to_identity)

    def set_channels(self, channels: int) -> None:
        """Scale images of 1 channel by the averages of RGB, a fourth channel not at all."""
        if channels == 1:
            self.scale, self.shift = self.scale.mean(0, True), self.shift.mean(0, True)
        else:
            self.scale = torch.cat((self.scale, torch.ones_like(self.scale[:1])))
            self.shift = torch.cat((self.shift, torch.zeros_like(self.shift[:1])))

    def forward(self, images: Tensor) -> Tensor:
        return images * self.scale + self.shift


def _default_to_identity(module: InputScaling, state: dict, prefix: str, *_: object) -> None:
    state.setdefault(prefix + "scale", torch.ones_like(module.scale))
    state.setdefault(prefix + "shift", torch.zeros_like(module.shift))


def scaling_for(mean: tuple[float, ...], std: tuple[float, ...]) -> InputScaling | None:
    """The scaling to `mean` and `std`, or None if they are ImageNet's."""
    same = tuple(mean) == IMAGENET_MEAN and tuple(std) == IMAGENET_STD
    return None if same else InputScaling(mean, std)
