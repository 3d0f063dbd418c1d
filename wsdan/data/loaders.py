"""Data loaders for training and validation."""

from dataclasses import dataclass, replace
from functools import partial

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate
from tqdm import tqdm

from wsdan.config import Config
from wsdan.data.cache import open_cache
from wsdan.data.decoding import DecodingLoader, RawImageDataset
from wsdan.data.fingerprint import fingerprint
from wsdan.data.images import BadImageError, ImageDataset, Item, UnreachableError
from wsdan.data.samplers import (
    NUM_MIX_UNIFORMS,
    NUM_UNIFORMS,
    EpochBatchSampler,
    RankBatchSampler,
    SeededDataset,
)
from wsdan.data.samples import Sample, TarMember
from wsdan.data.splits import open_split
from wsdan.data.synthetic import SyntheticDataset, draw
from wsdan.data.transforms import (
    Transform,
    eval_transform,
    synthetic_transform,
    train_transform,
)
from wsdan.data.workers import ending, leave_signals_to_the_parent
from wsdan.data.zoom import Inputs, canvas_size, network_inputs, packed
from wsdan.distributed import rank, warn_main, world_size
from wsdan.errors import UserError
from wsdan.remote.addresses import RemotePath

SYNTHETIC_TRAIN = 1536
SYNTHETIC_VAL = 800
DECODER = torch.device("cuda")  # of --decode gpu: the process's current GPU
TENSORS = ("images", "labels", "uniforms", "boxes", "extents")


@dataclass
class Batch:
    """The readable images of a batch, and an error message for each unreadable one.

    images: (B,C,H,W) float32; with a zoom canvases, (B,C,H',W') uint8. labels: (B,) int64.
    uniforms: (B,4) float32 in [0,1), or (B,6) with --calmix, the random numbers of the attention
    views. boxes: (B,4) float32, boxes of the objects in the pixels of the network's input, NaN if
    unknown. names: of the files. sizes: (width, height) of the original images, upright, in pixels.
    indices: in the dataset. bad: the error messages. extents: (B,2) int64, height and width of the
    image on each canvas, or None; see wsdan.data.zoom.Large. failure: why images, which are not
    bad, could not be fetched from a remote address, or None.
    """

    images: Tensor
    labels: Tensor
    uniforms: Tensor
    boxes: Tensor
    names: list[str]
    sizes: list[tuple[int, int]]
    indices: list[int]
    bad: list[str]
    extents: Tensor | None = None
    failure: str | None = None

    def pin_memory(self) -> "Batch":
        """The batch in pinned memory, for asynchronous copies to the GPU."""
        tensors = {name: getattr(self, name) for name in TENSORS}
        return replace(self, **{n: x.pin_memory() for n, x in tensors.items() if x is not None})

    def first(self, count: int) -> "Batch":
        """The images alone of the first `count`; the rest is as it was."""
        extents = None if self.extents is None else self.extents[:count]
        return replace(self, images=self.images[:count], extents=extents)

    def inputs(
        self, config: Config, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> Inputs:
        """What the network takes, on the device."""
        return network_inputs(self.images, self.extents, config.input_size, device, dtype)


class InMemoryDataset(Dataset):
    """The synthetic images, drawn once and transformed at every access.

    zoom: the side at which they are drawn, in sides of the network's input.
    """

    def __init__(self, source: SyntheticDataset, transform, zoom: float = 1.0):
        self.transform = transform
        indices = tqdm(range(len(source)), desc="drawing images", leave=False, disable=None)
        samples = [draw(source.seed, index, source.image_size) for index in indices]
        images = [torch.from_numpy(sample.image).permute(2, 0, 1) for sample in samples]
        self.images = torch.stack(images)
        self.labels = [sample.label for sample in samples]
        self.boxes = [tuple(edge / zoom for edge in sample.box) for sample in samples]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Item:
        image = self.transform(self.images[index])
        label, box, size = self.labels[index], self.boxes[index], self.images.shape[:1:-1]
        return Item(image, label, f"image {index}", box, tuple(size), index)

    def original(self, index: int) -> Image.Image:
        """The image, RGB."""
        return Image.fromarray(self.images[index].permute(1, 2, 0).contiguous().numpy())


def train_loader(config: Config) -> tuple[DataLoader | DecodingLoader, list[str]]:
    """The shuffled training batches of a resolved configuration, and the class names.

    Call `loader.batch_sampler.set_epoch(epoch)` before each epoch.
    """
    if config.data == "synthetic":
        # Even seeds are for training, odd ones for validation: no run trains on validation images.
        source = _synthetic(config, SYNTHETIC_TRAIN, seed=2 * config.seed)
        dataset, classes = _in_memory(config, source, train=True), source.classes
    else:
        samples, classes = open_split(config, "train")
        transform = train_transform(config.input_size, config.in_channels, config.zoom)
        dataset = _image_dataset(config, samples, transform)
    labels = labels_of(dataset)
    size = config.batch_size * config.accumulate
    if len(dataset) < size and world_size() == 1:
        warn_main(
            f"there are {len(dataset)} images to train on, fewer than a step takes ({size}), so an "
            "epoch is one step; lower --batch-size or --accumulate for more"
        )
    sampler = EpochBatchSampler(
        len(dataset),
        size,
        seed=config.seed,
        rank=rank(),
        world_size=world_size(),
        labels=labels if config.calmix > 0 else None,
        balanced=labels if config.sampler == "balanced" else None,
    )
    return _loader(dataset, sampler, config), classes


def labels_of(dataset: Dataset) -> list[int]:
    """The labels of a dataset's images."""
    if isinstance(dataset, InMemoryDataset):
        return dataset.labels
    return [sample.label for sample in dataset.samples]


def fetches(loader: DataLoader | DecodingLoader) -> bool:
    """Whether the images come from remote addresses; those of a split all do, or none."""
    dataset = loader.dataset.dataset
    if isinstance(dataset, InMemoryDataset):
        return False
    source = dataset.samples[0].source
    return isinstance(source.shard if isinstance(source, TarMember) else source, RemotePath)


def val_loader(config: Config, classes: list[str]) -> DataLoader | DecodingLoader:
    """The validation batches of this rank, in order.

    classes: the class names the model was trained on. Raises UserError for images of other classes.
    """
    if config.data == "synthetic":
        source = _synthetic(config, SYNTHETIC_VAL, seed=2 * config.seed + 1)
        if classes != source.classes:
            raise UserError("--data synthetic: the model was trained on other classes")
        dataset = _in_memory(config, source, train=False)
    else:
        samples, _ = open_split(config, "val", classes)
        transform = eval_transform(config.input_size, channels=config.in_channels, zoom=config.zoom)
        dataset = _image_dataset(config, samples, transform)
    sampler = RankBatchSampler(
        len(dataset), config.batch_size, rank=rank(), world_size=world_size()
    )
    return _loader(dataset, sampler, config)


def fingerprints(config: Config, **loaders: DataLoader | DecodingLoader) -> dict[str, Tensor]:
    """The fingerprint of each split of which a loader is given; none of synthetic images."""
    if config.data == "synthetic":
        return {}
    datasets = {name: loader.dataset.dataset for name, loader in loaders.items()}
    return {name: fingerprint(item.samples, config.root) for name, item in datasets.items()}


def _synthetic(config: Config, length: int, seed: int) -> SyntheticDataset:
    """The embedded images, drawn as large as the views are cut from."""
    side, _ = canvas_size(config.image_size, config.zoom)
    return SyntheticDataset(length, seed=seed, image_size=side)


def _in_memory(config: Config, source: SyntheticDataset, train: bool) -> InMemoryDataset:
    transform = synthetic_transform(train, config.in_channels, config.zoom)
    return InMemoryDataset(source, transform, source.image_size / config.image_size)


def _image_dataset(config: Config, samples: list[Sample], transform: Transform) -> Dataset:
    if config.decode == "gpu":
        return RawImageDataset(samples, transform, config.max_pixels)
    cache = open_cache(config, samples, transform.side)
    return ImageDataset(samples, transform, cache, config.max_pixels)


def _loader(
    dataset: Dataset, batch_sampler: Sampler, config: Config
) -> DataLoader | DecodingLoader:
    raw = isinstance(dataset, RawImageDataset)
    canvas = canvas_size(config.image_size, config.zoom) if config.zoom > 1 else None
    collate = partial(_collate, canvas=canvas)
    loader = DataLoader(
        SeededDataset(dataset, NUM_MIX_UNIFORMS if config.calmix > 0 else NUM_UNIFORMS),
        batch_sampler=batch_sampler,
        num_workers=config.workers,
        collate_fn=list if raw else collate,
        persistent_workers=config.workers > 0,
        pin_memory=config.device != "cpu" and torch.cuda.is_available() and not raw,
        worker_init_fn=partial(leave_signals_to_the_parent, ending()),
        generator=torch.Generator(),  # its own, so that it does not advance the run's generator
    )
    return DecodingLoader(loader, dataset.transform, DECODER, collate) if raw else loader


def _collate(
    items: list[tuple[Item | BadImageError, Tensor]], canvas: tuple[int, int] | None = None
) -> Batch:
    """canvas: the size (H',W') of those that images larger than the input are put on."""
    errors = [item for item, _ in items if isinstance(item, BadImageError)]
    bad = [str(error) for error in errors if not isinstance(error, UnreachableError)]
    failure = next((str(error) for error in errors if isinstance(error, UnreachableError)), None)
    good = [pair for pair in items if not isinstance(pair[0], BadImageError)]
    images, extents = torch.empty(0), None
    if good and canvas is not None:
        images, extents = packed([item.image for item, _ in good], canvas)
    elif good:
        images = default_collate([item.image for item, _ in good])
    return Batch(
        images=images,
        labels=torch.tensor([item.label for item, _ in good], dtype=torch.int64),
        uniforms=torch.stack([uniforms for _, uniforms in good]) if good else torch.empty(0, 4),
        boxes=torch.tensor([item.box for item, _ in good], dtype=torch.float32).view(-1, 4),
        names=[item.name for item, _ in good],
        sizes=[item.size for item, _ in good],
        indices=[item.index for item, _ in good],
        bad=bad,
        extents=extents,
        failure=failure,
    )
