"""Batch samplers, and the seed of each image's random transforms.

The order of the images and their seeds depend on (seed, epoch, index) only. So a run resumed in the
middle of an epoch, one with another number of workers, and one on more ranks with smaller batches
all see the same inputs.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from wsdan.data.long_tail import balanced_order
from wsdan.errors import UserError

# Random numbers per image, for the attention views of its training step; with --calmix, for its mix
# too.
NUM_UNIFORMS, NUM_MIX_UNIFORMS = 4, 6


class SeededIndex(NamedTuple):
    """The index of an image, and the seed of its random transforms."""

    index: int
    seed: int


class EpochBatchSampler(Sampler[list[SeededIndex]]):
    """Shuffled training batches of one rank.

    Step s takes images [s * batch_size * world_size, (s + 1) * batch_size * world_size) of the
    epoch's order; each rank takes its slice of them. Call `set_epoch` before each epoch.

    Args:
        length: number of images in the dataset.
        batch_size: images per batch of one rank.
        seed: of the permutation and the transforms.
        rank, world_size: of this process.
        labels: of the images, to have images of a class beside each other, see `in_pairs`.
        balanced: labels of the images, to take as many of each class in an epoch, see
            `balanced_order`; else each image is in it once.

    Raises:
        UserError: fewer images than one step of all ranks takes.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        labels: Sequence[int] | None = None,
        balanced: Sequence[int] | None = None,
    ):
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.labels, self.balanced = labels, balanced
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
        order = self._order()
        for step in range(self.start_step, len(self)):
            start = step * self.step_size + self.rank * self.batch_size
            yield order[start : start + self.batch_size]

    def _order(self) -> list[SeededIndex]:
        """The images of the epoch, in the order of all ranks."""
        generator = torch.Generator().manual_seed(image_seed(self.seed, self.epoch))
        if self.balanced is None:
            order = torch.randperm(self.length, generator=generator).tolist()
            drawn = [(index, 0) for index in order]
        else:
            drawn = balanced_order(self.balanced, generator)
        if self.labels is not None:
            labels = [self.labels[index] for index, _ in drawn]
            places = in_pairs(list(range(len(drawn))), labels, generator)
            drawn = [drawn[place] for place in places]
        keys = ((index, before) if before else (index,) for index, before in drawn)
        return [SeededIndex(key[0], image_seed(self.seed, self.epoch, *key)) for key in keys]


def in_pairs(order: list[int], labels: Sequence[int], generator: torch.Generator) -> list[int]:
    """The indices of `order`, rearranged so that positions 2i and 2i + 1 hold images of a class.

    The pairs are shuffled. Of a class with an odd number of images one is left over; these come
    first, so that within a class they stand before all pairs, but one of an odd number of them,
    which comes last of all. See `same_class_partners` of the objective.
    """
    classes: dict[int, list[int]] = {}
    for index in order:
        classes.setdefault(labels[index], []).append(index)
    pairs = [
        members[start : start + 2]
        for members in classes.values()
        for start in range(0, len(members) - 1, 2)
    ]
    left = [members[-1] for members in classes.values() if len(members) % 2 == 1]
    pairs = [pairs[i] for i in torch.randperm(len(pairs), generator=generator).tolist()]
    left = [left[i] for i in torch.randperm(len(left), generator=generator).tolist()]
    last = [left.pop()] if len(left) % 2 == 1 else []
    return left + [index for pair in pairs for index in pair] + last


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

    It is indexed by a SeededIndex. Items are (item of the wrapped dataset, num_uniforms numbers in
    [0,1)). The generator's state is restored after each item.
    """

    def __init__(self, dataset: Dataset, num_uniforms: int = NUM_UNIFORMS):
        self.dataset, self.num_uniforms = dataset, num_uniforms

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: SeededIndex) -> tuple:
        generator = torch.default_generator
        before = generator.get_state()
        generator.manual_seed(item.seed)
        try:
            uniforms = torch.rand(self.num_uniforms)
            return self.dataset[item.index], uniforms
        finally:
            generator.set_state(before)


def image_seed(*numbers: int) -> int:
    """Hash non-negative integers to a 32-bit seed; similar inputs give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
