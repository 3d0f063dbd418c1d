"""For classes of unequal size: an epoch's order that draws them equally, and weights of classes."""

from collections.abc import Sequence

import torch
from torch import Tensor


def balanced_order(labels: Sequence[int], generator: torch.Generator) -> list[tuple[int, int]]:
    """The order of an epoch of len(labels) images, as many of each class, give or take one.

    A class's images follow in a new random order each time they are used up: so those of a small
    class come several times, of a large one a part.

    Args:
        labels: of the images. Classes without one have no part.
        generator: of the order.

    Returns:
        Of each image its index, and how often it came before in the epoch.
    """
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(label, []).append(index)
    classes = [members[label] for label in sorted(members)]
    share, rest = divmod(len(labels), len(classes))
    with_one_more = set(torch.randperm(len(classes), generator=generator)[:rest].tolist())
    drawn = []
    for number, images in enumerate(classes):
        drawn += _cycled(images, share + (number in with_one_more), generator)
    return [drawn[place] for place in torch.randperm(len(drawn), generator=generator).tolist()]


def _cycled(images: list[int], count: int, generator: torch.Generator) -> list[tuple[int, int]]:
    """`count` of the images, in rounds of random order, each with the number of its round."""
    rounds = -(-count // len(images))
    found = [
        (images[place], number)
        for number in range(rounds)
        for place in torch.randperm(len(images), generator=generator).tolist()
    ]
    return found[:count]


def class_weights(labels: Sequence[int], num_classes: int, beta: float) -> Tensor:
    """Weights (N,) float32 of the classes' losses by the effective number of their images: of a
    class of n images proportional to (1 - beta) / (1 - beta^n) (arXiv:1901.05555, eq. 2 and 4).

    Their mean over the images of `labels` is 1. beta 0 weighs all classes alike; the nearer it is
    to 1, the nearer are the weights to 1/n.

    Args:
        labels: of the training images, in [0, N). A class without one counts as of one.
        beta: in [0, 1).
    """
    images = torch.tensor(labels, dtype=torch.int64)
    counts = images.bincount(minlength=num_classes).clamp(min=1).double()
    log_beta = torch.tensor(beta, dtype=torch.float64).log()
    weights = 1 / -torch.expm1(counts * log_beta)  # 1 - beta^n, exact near 1
    return (weights / weights[images].mean()).float()
