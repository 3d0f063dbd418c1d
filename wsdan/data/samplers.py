"""Which images make a batch, and the random numbers of each.

Both follow from (seed, epoch, image) alone. So a run that starts in the middle of an epoch, one
with other loading processes, and one over more ranks with smaller batches see the same images.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from wsdan.errors import UserError

UNIFORMS = 4  # random numbers of an image for the views of its training step


class Draw(NamedTuple):
    """Image `index` of a data set, and the seed of all that is random in it."""

    index: int
    seed: int


class EpochBatches(Sampler[list[Draw]]):
    """The batches of one rank in one epoch: lists of Draw.

    Step s takes the images [s * size * world, (s + 1) * size * world) of the epoch's order, and
    each rank its part of them.

    Args:
        length: images of the data set. size: images of a batch. seed: of the order.
        rank, world: this process and how many there are.

    Raises:
        UserError: fewer images than one step of all ranks takes.
    """

    def __init__(self, length: int, size: int, *, seed: int, rank: int = 0, world: int = 1):
        self.length, self.size, self.seed = length, size, seed
        self.rank, self.world = rank, world
        self.epoch = self.first = 0
        if world > 1 and length < self.step_size:
            raise UserError(
                f"{world} processes x --batch-size x --accumulate make steps of {self.step_size} "
                f"images, but there are {length} to train on"
            )

    @property
    def step_size(self) -> int:
        """Images of a step of all ranks."""
        return self.size * self.world

    def begin(self, epoch: int, first: int = 0) -> None:
        """The next iteration is over `epoch`, from its step `first` on."""
        self.epoch, self.first = epoch, first

    def __len__(self) -> int:
        """Whole steps of an epoch: a last short one is left out, unless it is the only one."""
        return max(1, self.length // self.step_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        generator = torch.Generator().manual_seed(image_seed(self.seed, self.epoch))
        order = torch.randperm(self.length, generator=generator).tolist()
        for step in range(self.first, len(self)):
            start = step * self.step_size + self.rank * self.size
            yield [
                Draw(index, image_seed(self.seed, self.epoch, index))
                for index in order[start : start + self.size]
            ]


class ShardBatches(Sampler[list[Draw]]):
    """One rank's share of a data set in order: each image belongs to one rank, none is padded."""

    def __init__(self, length: int, size: int, *, rank: int = 0, world: int = 1):
        self.indices = range(rank, length, world)
        self.size = size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.size)

    def __iter__(self) -> Iterator[list[Draw]]:
        for start in range(0, len(self.indices), self.size):
            yield [Draw(index, 0) for index in self.indices[start : start + self.size]]


class Seeded(Dataset):
    """A data set whose items draw from torch's default generator, seeded for each image.

    Indexed by a Draw. Items are (the item of the data set, UNIFORMS numbers in [0,1)).
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> tuple:
        generator = torch.default_generator
        before = generator.get_state()
        generator.manual_seed(draw.seed)
        try:
            uniforms = torch.rand(UNIFORMS)
            return self.dataset[draw.index], uniforms
        finally:
            generator.set_state(before)


def image_seed(*numbers: int) -> int:
    """A seed from whole numbers >= 0, unrelated for neighbours."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
