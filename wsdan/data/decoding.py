"""Images decoded where the network runs (--decode gpu).

The loading processes only read the files. The main process then decodes a batch's JPEG files at
once and transforms each image on the device, with the random numbers that its loading process
had for it: the views are those of --decode cpu, but for the rounding of another decoder and resize.
"""

import io
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from wsdan.data.images import ORIENTATION, BadImageError, Item, load_image, read_bytes
from wsdan.data.samples import Sample
from wsdan.data.transforms import Transform


class RawItem(NamedTuple):
    """An image's file, or what became of a file that the device cannot decode."""

    data: bytes | Image.Image  # a JPEG file; or a decoded image, resized
    size: tuple[int, int]  # width and height of the image
    sample: Sample
    random: bytes  # the state of torch's generator for the random part of the transform


class RawImageDataset(Dataset):
    """As `ImageDataset`, but items are a RawItem, or a BadImageError.

    JPEG files that are grey or RGB and upright stay as they are; all others are decoded here.
    """

    def __init__(self, samples: list[Sample], transform: Transform):
        self.samples = samples
        self.transform = transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> RawItem | BadImageError:
        sample = self.samples[index]
        random = torch.get_rng_state().numpy().tobytes()
        try:
            data = read_bytes(sample.source)
            with Image.open(io.BytesIO(data)) as image:
                jpeg = image.format == "JPEG" and image.mode in ("L", "RGB")
                if jpeg and image.getexif().get(ORIENTATION, 1) == 1:
                    return RawItem(data, image.size, sample, random)
        except Exception:
            pass  # load_image below finds the same, and words it
        try:
            decoded = load_image(sample.source)
        except BadImageError as error:
            return error
        return RawItem(self.transform.resize(decoded), decoded.size, sample, random)


class DecodedBatches:
    """A loader's batches, decoded on the device as they are asked for.

    Args:
        loader: of lists of (RawItem | BadImageError, uniforms).
        collate: makes a batch of a list of (Item | BadImageError, uniforms).
    """

    def __init__(
        self, loader: DataLoader, transform: Transform, device: torch.device, collate: Callable
    ):
        self.loader, self.transform, self.device, self.collate = loader, transform, device, collate
        self.dataset, self.batch_sampler = loader.dataset, loader.batch_sampler

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator:
        for pairs in self.loader:
            items = decode_batch([item for item, _ in pairs], self.transform, self.device)
            uniforms = [uniforms for _, uniforms in pairs]
            yield self.collate(list(zip(items, uniforms, strict=True)))


def decode_batch(
    items: list[RawItem | BadImageError], transform: Transform, device: torch.device
) -> list[Item | BadImageError]:
    """The items with their images on the device, (3,image_size,image_size) float32."""
    images = _decode(items, transform, device)
    done: list[Item | BadImageError] = []
    with torch.random.fork_rng(devices=[]):
        for item, image in zip(items, images, strict=True):
            if isinstance(image, BadImageError):
                done.append(image)
                continue
            torch.set_rng_state(torch.frombuffer(bytearray(item.random), dtype=torch.uint8))
            source, label, box = item.sample
            box = transform.box(box, item.size)
            done.append(Item(transform.finish(image), label, str(source), box))
    return done


def _decode(items: list, transform: Transform, device: torch.device) -> list:
    """For each item its image (3,side,side) uint8 on the device, or a BadImageError."""
    files = [item for item in items if isinstance(item, RawItem) and isinstance(item.data, bytes)]
    decoded = iter(_decode_jpegs(files, transform, device))
    images = []
    for item in items:
        if isinstance(item, BadImageError):
            images.append(item)
        elif isinstance(item.data, bytes):
            images.append(next(decoded))
        else:
            images.append(v2.functional.pil_to_tensor(item.data).to(device))
    return images


def _decode_jpegs(
    files: list[RawItem], transform: Transform, device: torch.device
) -> list[Tensor | BadImageError]:
    # Imported at need: torchvision 0.29 announces that its decoders will go, for TorchCodec's.
    from torchvision.io import ImageReadMode, decode_jpeg

    if not files:
        return []
    data = [torch.frombuffer(bytearray(item.data), dtype=torch.uint8) for item in files]
    try:
        images = decode_jpeg(data, ImageReadMode.RGB, device)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if len(files) == 1:
            line = str(error).splitlines()[0]
            return [BadImageError(f"{files[0].sample.source}: not a readable image: {line}")]
        # One damaged file fails them all, unnamed: take each by itself.
        return [_decode_jpegs([item], transform, device)[0] for item in files]
    return [transform.resize(image) for image in images]
