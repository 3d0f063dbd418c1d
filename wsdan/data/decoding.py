"""JPEG decoding and transforms on the GPU (--decode gpu).

Workers only read the files. The main process then decodes all JPEG files of a batch at once and
transforms each image on the device, with the generator state that its worker had for it. So inputs
equal those of --decode cpu, up to the rounding of another decoder and resize.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from wsdan.constants import MAX_PIXELS
from wsdan.data.images import ORIENTATION, BadImageError, Item, load_image, open_image, read_bytes
from wsdan.data.samples import Sample
from wsdan.data.transforms import Transform


class RawItem(NamedTuple):
    """An image that is not transformed yet."""

    data: bytes | Image.Image  # a JPEG file; for other formats, the decoded and resized image
    size: tuple[int, int]  # width and height of the original image
    index: int  # in the dataset
    sample: Sample
    rng_state: bytes  # of torch's default generator, for the random part of the transform


class RawImageDataset(Dataset):
    """Like `ImageDataset`, but items are a RawItem or a BadImageError.

    Upright JPEG files in grey or RGB are returned encoded; all others are decoded and resized.
    max_pixels: as in `load_image`.
    """

    def __init__(self, samples: list[Sample], transform: Transform, max_pixels: int = MAX_PIXELS):
        self.samples = samples
        self.transform = transform
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> RawItem | BadImageError:
        sample = self.samples[index]
        rng_state = torch.get_rng_state().numpy().tobytes()
        try:
            with open_image(sample.source, self.max_pixels) as image:
                jpeg = image.format == "JPEG" and image.mode in ("L", "RGB")
                if jpeg and image.getexif().get(ORIENTATION, 1) == 1:
                    return RawItem(read_bytes(sample.source), image.size, index, sample, rng_state)
            decoded = load_image(sample.source, self.max_pixels)
        except BadImageError as error:
            return error
        resized = self.transform.resize(decoded)
        return RawItem(resized, decoded.size, index, sample, rng_state)

    def original(self, index: int) -> Image.Image:
        """The image before it is resized, RGB. Raises BadImageError."""
        return load_image(self.samples[index].source, self.max_pixels)


class DecodingLoader:
    """A data loader that decodes and transforms each batch on the device.

    Args:
        loader: yields lists of (RawItem | BadImageError, uniforms).
        collate: turns a list of (Item | BadImageError, uniforms) into a batch.
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
    """Decode and transform; images are (3,H,W) float32 on the device."""
    images = _decode(items, transform, device)
    decoded: list[Item | BadImageError] = []
    with torch.random.fork_rng(devices=[]):
        for item, image in zip(items, images, strict=True):
            if isinstance(image, BadImageError):
                decoded.append(image)
                continue
            torch.set_rng_state(torch.frombuffer(bytearray(item.rng_state), dtype=torch.uint8))
            source, label, box = item.sample
            box = transform.box(box, item.size)
            image = transform.finish(image)
            decoded.append(Item(image, label, str(source), box, item.size, item.index))
    return decoded


def _decode(items: list, transform: Transform, device: torch.device) -> list:
    """The resized image (3,h,w) uint8 on the device, or a BadImageError, of each item."""
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
    # Imported here because torchvision 0.29 warns that its decoders move to TorchCodec.
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
        # One damaged file fails the whole batch without being named: decode one by one.
        return [_decode_jpegs([item], transform, device)[0] for item in files]
    return [transform.resize(image) for image in images]
