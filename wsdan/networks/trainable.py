"""What is found out about a network before its first training step."""

import torch
from torch import nn
from torch.func import functional_call

from wsdan.errors import UserError


def freeze_unused(model: nn.Module, shape: tuple[int, int, int]) -> list[str]:
    """Set requires_grad to False for the weights that the logits do not depend on; their names.

    A stage of a network may leave branches of it unused, and DistributedDataParallel would wait for
    their gradients. shape: (C,H,W) of the input.
    """
    weights = dict(model.named_parameters())
    was_training = model.training
    logits = model.eval()(_image(model, shape)).logits
    model.train(was_training)
    gradients = torch.autograd.grad(logits.sum(), list(weights.values()), allow_unused=True)
    unused = [name for name, grad in zip(weights, gradients, strict=True) if grad is None]
    for name in unused:
        weights[name].requires_grad_(False)
    return unused


@torch.no_grad()
def check_single_image(model: nn.Module, shape: tuple[int, int, int]) -> None:
    """Raise UserError if batch norm cannot train on one image, since it has one value a channel.

    shape: (C,H,W) of the input.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.random.fork_rng(devices=[]):
            functional_call(model.train(), buffers, (_image(model, shape),))
    except ValueError:
        _, height, width = shape
        text = height if height == width else f"{height}x{width}"
        raise UserError(
            f"--batch-size 1: at --image-size {text} the network has maps of a single pixel, "
            "and batch norm cannot train on one image of them; pass --batch-size 2"
        ) from None


def _image(model: nn.Module, shape: tuple[int, int, int]) -> torch.Tensor:
    return torch.zeros(1, *shape, device=next(model.parameters()).device)
