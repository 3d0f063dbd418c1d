"""Batch samplers, and the seed of each image's random transforms.

The order of the images and their seeds depend on (seed, epoch, index) only. So a run resumed in the
middle of an epoch, one with another number of workers, and one on more ranks with smaller batches
all see the same inputs.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from wsdan.errors import UserError

NUM_UNIFORMS = 4  # random numbers per image, for the attention views of its training step


class SeededIndex(NamedTuple):
    """The index of an image, and the seed of its random transforms."""

    index: int
    seed: int


class EpochBatchSampler(Sampler[list[SeededIndex]]):
    """Shuffled training batches of one rank.

    Step s takes images [s * batch_size * world_size, (s + 1) * batch_size * world_size) of the
    epoch's permutation; each rank takes its slice of them. Call `set_epoch` before each epoch.

    Args:
        length: number of images in the dataset.
        batch_size: images per batch of one rank.
        seed: of the permutation and the transforms.
        rank, world_size: of this process.

    Raises:
        UserError: fewer images than one step of all ranks takes.
    """

    def __init__(
        self, length: int, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1
    ):
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = self.start_step = 0
        if world_size > 1 and length < self.step_size:
            raise UserError(
                f"{world_size} processes x --batch-size x --accumulate make steps of "
                f"{self.step_size} images, but there are {length} to train on; "
                "lower --batch-size or --accumulate"
            )

    @property
    def step_size(self) -> int:
        """Images per step, over all ranks."""
        return self.batch_size * self.world_size

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Iterate over `epoch` next, from its step `start_step` on."""
        self.epoch, self.start_step = epoch, start_step

    def __len__(self) -> int:
        """Steps per epoch. An incomplete last step is dropped, unless it is the only one."""
        return max(1, self.length // self.step_size)

    def __iter__(self) -> Iterator[list[SeededIndex]]:
        generator = torch.Generator().manual_seed(image_seed(self.seed, self.epoch))
        order = torch.randperm(self.length, generator=generator).tolist()
        for step in range(self.start_step, len(self)):
            start = step * self.step_size + self.rank * self.batch_size
            yield [
                SeededIndex(index, image_seed(self.seed, self.epoch, index))
                for index in order[start : start + self.batch_size]
            ]


class RankBatchSampler(Sampler[list[SeededIndex]]):
    """Validation batches of one rank, in order.

    Rank r takes images r, r + world_size, ...: every image is in exactly one rank, without padding.
    """

    def __init__(self, length: int, batch_size: int, *, rank: int = 0, world_size: int = 1):
        self.indices = range(rank, length, world_size)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[list[SeededIndex]]:
        for start in range(0, len(self.indices), self.batch_size):
            yield [SeededIndex(index, 0) for index in self.indices[start : start + self.batch_size]]


class SeededDataset(Dataset):
    """A dataset whose transforms draw from torch's default generator, seeded per image.

    It is indexed by a SeededIndex. Items are (item of the wrapped dataset, NUM_UNIFORMS numbers in
    [0,1)). The generator's state is restored after each item.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: SeededIndex) -> tuple:
        generator = torch.default_generator
        before = generator.get_state()
        generator.manual_seed(item.seed)
        try:
            uniforms = torch.rand(NUM_UNIFORMS)
            return self.dataset[item.index], uniforms
        finally:
            generator.set_state(before)


def image_seed(*numbers: int) -> int:
    """Hash non-negative integers to a 32-bit seed; similar inputs give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
