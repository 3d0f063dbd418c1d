"""The batches of a run: training and validation pictures, and the names of the classes."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from wsdan.config import Config
from wsdan.data.cache import open_cache
from wsdan.data.pictures import BadPictureError, Item, Pictures
from wsdan.data.splits import open_split
from wsdan.data.synthetic import SyntheticDataset
from wsdan.data.transforms import (
    NO_BOX,
    eval_transform,
    synthetic_transform,
    train_transform,
)

SYNTHETIC_TRAIN = 1536
SYNTHETIC_VAL = 800


@dataclass
class Batch:
    """images (B,3,H,W) float32, labels (B,) int64, and a line for each picture that is missing."""

    images: Tensor
    labels: Tensor
    bad: list[str]

    def pin_memory(self) -> "Batch":
        """The batch in pinned memory, from where a copy to the GPU need not wait."""
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), self.bad)


class InMemory(Dataset):
    """A data set of uint8 pictures, drawn once and then transformed at every access."""

    def __init__(self, source: SyntheticDataset, transform):
        self.transform = transform
        indices = tqdm(range(len(source)), desc="drawing pictures", leave=False, disable=None)
        items = [source[index] for index in indices]
        self.images = torch.stack([image for image, _ in items])
        self.labels = [label for _, label in items]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Item:
        image = self.transform(self.images[index])
        return Item(image, self.labels[index], f"picture {index}", NO_BOX)


def train_loader(config: Config) -> tuple[DataLoader, list[str]]:
    """Shuffled training batches of a resolved configuration, and the class names."""
    if config.data == "synthetic":
        # Even seeds train and odd ones validate, so that no run sees another's validation.
        source = SyntheticDataset(
            SYNTHETIC_TRAIN, seed=2 * config.seed, image_size=config.image_size
        )
        dataset, classes = InMemory(source, synthetic_transform(train=True)), source.classes
    else:
        samples, classes = open_split(config, "train")
        transform = train_transform(config.image_size)
        dataset = Pictures(samples, transform, open_cache(config, samples, transform.side))
    # Batch norm cannot train on a single picture, which a last short batch may be.
    drop_last = len(dataset) > config.batch_size
    return _loader(dataset, config, shuffle=True, drop_last=drop_last), classes


def val_loader(config: Config, classes: list[str]) -> DataLoader:
    """Validation batches in order; `classes` are the names the model was trained on."""
    if config.data == "synthetic":
        source = SyntheticDataset(
            SYNTHETIC_VAL, seed=2 * config.seed + 1, image_size=config.image_size
        )
        dataset = InMemory(source, synthetic_transform(train=False))
    else:
        samples, _ = open_split(config, "val", classes)
        transform = eval_transform(config.image_size)
        dataset = Pictures(samples, transform, open_cache(config, samples, transform.side))
    return _loader(dataset, config, shuffle=False, drop_last=False)


def _loader(dataset: Dataset, config: Config, shuffle: bool, drop_last: bool) -> DataLoader:
    return DataLoader(
        dataset,
        config.batch_size,
        shuffle=shuffle,
        drop_last=drop_last,
        num_workers=config.workers,
        collate_fn=_collate,
        persistent_workers=config.workers > 0,
        pin_memory=config.device != "cpu" and torch.cuda.is_available(),
    )


def _collate(items: list) -> Batch:
    bad = [str(item) for item in items if isinstance(item, BadPictureError)]
    good = [item for item in items if not isinstance(item, BadPictureError)]
    images = torch.stack([item.image for item in good]) if good else torch.empty(0)
    return Batch(images, torch.tensor([item.label for item in good], dtype=torch.int64), bad)
