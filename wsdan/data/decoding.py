"""Pictures decoded where the network runs (--decode gpu).

The loading processes only read the files. The main process then decodes a batch's JPEG files at
once and transforms each picture on the device, with the random numbers that its loading process
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

from wsdan.data.pictures import ORIENTATION, BadPictureError, Item, load_picture, read_bytes
from wsdan.data.samples import Sample
from wsdan.data.transforms import Transform


class RawItem(NamedTuple):
    """A picture's file, or what became of a file that the device cannot decode."""

    data: bytes | Image.Image  # a JPEG file; or a decoded picture, resized
    size: tuple[int, int]  # width and height of the picture
    sample: Sample
    random: bytes  # the state of torch's generator for the random part of the transform


class RawPictures(Dataset):
    """As `Pictures`, but items are a RawItem, or a BadPictureError.

    JPEG files that are grey or RGB and upright stay as they are; all others are decoded here.
    """

    def __init__(self, samples: list[Sample], transform: Transform):
        self.samples = samples
        self.transform = transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> RawItem | BadPictureError:
        sample = self.samples[index]
        random = torch.get_rng_state().numpy().tobytes()
        try:
            data = read_bytes(sample.source)
            with Image.open(io.BytesIO(data)) as image:
                jpeg = image.format == "JPEG" and image.mode in ("L", "RGB")
                if jpeg and image.getexif().get(ORIENTATION, 1) == 1:
                    return RawItem(data, image.size, sample, random)
        except Exception:
            pass  # load_picture below finds the same, and words it
        try:
            picture = load_picture(sample.source)
        except BadPictureError as error:
            return error
        return RawItem(self.transform.resize(picture), picture.size, sample, random)


class DecodedBatches:
    """A loader's batches, decoded on the device as they are asked for.

    Args:
        loader: of lists of (RawItem | BadPictureError, uniforms).
        collate: makes a batch of a list of (Item | BadPictureError, uniforms).
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
    items: list[RawItem | BadPictureError], transform: Transform, device: torch.device
) -> list[Item | BadPictureError]:
    """The items with their images on the device, (3,image_size,image_size) float32."""
    pictures = _decode(items, transform, device)
    done: list[Item | BadPictureError] = []
    with torch.random.fork_rng(devices=[]):
        for item, picture in zip(items, pictures, strict=True):
            if isinstance(picture, BadPictureError):
                done.append(picture)
                continue
            torch.set_rng_state(torch.frombuffer(bytearray(item.random), dtype=torch.uint8))
            source, label, box = item.sample
            box = transform.box(box, item.size)
            done.append(Item(transform.finish(picture), label, str(source), box))
    return done


def _decode(items: list, transform: Transform, device: torch.device) -> list:
    """For each item its picture (3,side,side) uint8 on the device, or a BadPictureError."""
    files = [item for item in items if isinstance(item, RawItem) and isinstance(item.data, bytes)]
    decoded = iter(_decode_jpegs(files, transform, device))
    pictures = []
    for item in items:
        if isinstance(item, BadPictureError):
            pictures.append(item)
        elif isinstance(item.data, bytes):
            pictures.append(next(decoded))
        else:
            pictures.append(v2.functional.pil_to_tensor(item.data).to(device))
    return pictures


def _decode_jpegs(
    files: list[RawItem], transform: Transform, device: torch.device
) -> list[Tensor | BadPictureError]:
    # Imported at need: torchvision 0.29 announces that its decoders will go, for TorchCodec's.
    from torchvision.io import ImageReadMode, decode_jpeg

    if not files:
        return []
    data = [torch.frombuffer(bytearray(item.data), dtype=torch.uint8) for item in files]
    try:
        pictures = decode_jpeg(data, ImageReadMode.RGB, device)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if len(files) == 1:
            line = str(error).splitlines()[0]
            return [BadPictureError(f"{files[0].sample.source}: not a readable picture: {line}")]
        # One damaged file fails them all, unnamed: take each by itself.
        return [_decode_jpegs([item], transform, device)[0] for item in files]
    return [transform.resize(picture) for picture in pictures]
