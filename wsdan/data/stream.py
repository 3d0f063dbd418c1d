"""Batches of images without labels, loaded by worker processes while the next ones are listed."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wsdan.data.images import BadImageError, load_image
from wsdan.data.samples import TarMember
from wsdan.data.sources import Source, Unreadable
from wsdan.data.transforms import Transform
from wsdan.data.workers import ending, leave_signals_to_the_parent
from wsdan.data.zoom import packed
from wsdan.distributed import call_on_main, rank, world_size

Numbered = tuple[int, Source]  # a source and its place in the order of all
MOST_WORKERS = 8


@dataclass
class StreamBatch:
    """The readable images of a batch, and an Unreadable for each other one.

    images, extents: as in wsdan.data.loaders.Batch. indices: their places in the order of all.
    sources: of the images. sizes: (width, height) of the originals, upright, in pixels.
    unreadable: with their places.
    """

    images: Tensor
    indices: list[int]
    sources: list[str | TarMember]
    sizes: list[tuple[int, int]]
    unreadable: list[tuple[int, Unreadable]]
    extents: Tensor | None = None

    def pin_memory(self) -> "StreamBatch":
        """The batch in pinned memory, for asynchronous copies to the GPU."""
        extents = None if self.extents is None else self.extents.pin_memory()
        return replace(self, images=self.images.pin_memory(), extents=extents)


class SourceDataset(Dataset):
    """Indexed by a numbered source: (index, source, size, input) or (index, Unreadable).

    max_pixels: as in `load_image`.
    """

    def __init__(self, transform: Transform, max_pixels: int):
        self.transform, self.max_pixels = transform, max_pixels

    def __getitem__(self, item: Numbered) -> tuple:
        index, source = item
        if isinstance(source, Unreadable):
            return index, source
        try:
            image = load_image(source, self.max_pixels, rgba=self.transform.channels == 4)
            return index, source, image.size, self.transform(image)
        except BadImageError as error:
            return index, unreadable(source, error)
        except MemoryError:
            return index, Unreadable(str(source), "not a readable image: too little memory for it")


def unreadable(source: str | TarMember, error: BadImageError) -> Unreadable:
    """The error without the name before it."""
    return Unreadable(str(source), str(error).removeprefix(f"{source}: "))


def rank_batches(sources: Iterable[Source], batch_size: int) -> Iterator[list[Numbered]]:
    """This rank's batches of the sources, as rank 0 lists them: of each `world_size` batches in
    their order, rank r takes the r-th. All ranks get the same number, perhaps empty ones."""
    numbered = enumerate(iter(sources))
    while True:
        batches = call_on_main(
            lambda: [list(islice(numbered, batch_size)) for _ in range(world_size())]
        )
        if not batches[0]:
            return
        yield batches[rank()]


def stream_loader(
    batches: Iterable[list[Numbered]],
    transform: Transform,
    max_pixels: int,
    workers: int,
    device: torch.device,
) -> DataLoader:
    """A loader of StreamBatch, in the order of `batches`, which is read as far ahead as the workers
    load. device: on which the images are used."""
    return DataLoader(
        SourceDataset(transform, max_pixels),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=partial(_collate, canvas=transform.canvas),
        pin_memory=device.type == "cuda",
        worker_init_fn=partial(leave_signals_to_the_parent, ending()),
        generator=torch.Generator(),
    )


def default_workers() -> int:
    """One process for each core of this process, and at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(MOST_WORKERS, max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def _collate(items: list[tuple], canvas: tuple[int, int] | None) -> StreamBatch:
    good = [item for item in items if len(item) == 4]
    images, extents = torch.empty(0), None
    if good and canvas is not None:
        images, extents = packed([item[3] for item in good], canvas)
    elif good:
        images = torch.stack([item[3] for item in good])
    return StreamBatch(
        images=images,
        indices=[item[0] for item in good],
        sources=[item[1] for item in good],
        sizes=[item[2] for item in good],
        unreadable=[item for item in items if len(item) == 2],
        extents=extents,
    )
