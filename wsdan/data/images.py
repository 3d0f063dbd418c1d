"""Reading image files, and the dataset of a list of samples."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from wsdan.data.cache import ImageCache
from wsdan.data.samples import Box, Sample, Source, TarMember
from wsdan.data.transforms import Transform

ORIENTATION = 0x0112  # EXIF tag; 1 is upright
UPRIGHT = {  # the transposition that turns each other orientation upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class BadImageError(Exception):
    """A file that is not a readable image; the message names the file and the reason."""


class Item(NamedTuple):
    """One input of the network, with its label."""

    image: Tensor  # (3,H,W) float32
    label: int
    name: str
    box: Box  # of the object, in the pixels of `image`; NaN if unknown


class ImageDataset(Dataset):
    """The images of `samples`, in their order.

    Items are an Item, or a BadImageError if the image cannot be read: the training loop decides
    whether to skip it. With a cache, an image is read and resized at its first access only.
    """

    def __init__(
        self, samples: list[Sample], transform: Transform, cache: ImageCache | None = None
    ):
        self.samples = samples
        self.transform = transform
        self.cache = cache

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item | BadImageError:
        source, label, box = self.samples[index]
        try:
            resized, size = self._resized(index)
        except BadImageError as error:
            return error
        image = self.transform.finish(resized)
        return Item(image, label, str(source), self.transform.box(box, size))

    def _resized(self, index: int) -> tuple[Image.Image, tuple[int, int]]:
        """The resized image, and (width, height) of the original."""
        cached = self.cache.get(index) if self.cache is not None else None
        if cached is not None:
            return cached
        image = load_image(self.samples[index].source)
        resized = self.transform.resize(image)
        if self.cache is not None:
            self.cache.put(index, resized, image.size)
        return resized, image.size


def load_image(source: str | Source) -> Image.Image:
    """Read an image as 8-bit RGB, turned upright by its EXIF orientation.

    Grey, palette, CMYK, 16-bit and float images are converted. Floats are taken as [0, 1] if no
    value is above 1. Transparent images are composited over white.

    Raises BadImageError for a missing, unreadable or truncated file.
    """
    try:
        file = io.BytesIO(read_bytes(source)) if isinstance(source, TarMember) else source
        with Image.open(file) as image:
            image.load()
            return _to_rgb(_upright(image))
    except MemoryError:
        raise
    except Exception as error:  # on a damaged file, decoders raise errors of any kind
        reason = str(error) or type(error).__name__
        if isinstance(error, FileNotFoundError):
            reason = "no such file"
        raise BadImageError(f"{source}: not a readable image: {reason}") from None


def read_bytes(source: str | Source) -> bytes:
    """The encoded bytes of an image. Opens the file each time: workers share no file position."""
    if not isinstance(source, TarMember):
        return Path(source).read_bytes()
    with open(source.shard, "rb") as file:
        file.seek(source.offset)
        return file.read(source.size)


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation.

    PIL.ImageOps.exif_transpose also rewrites the EXIF data, and fails on malformed fields.
    """
    method = UPRIGHT.get(image.getexif().get(ORIENTATION))
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        maximum = values.max(initial=0)
        white = 65535.0 if maximum > 255 else 255.0
        if image.mode == "F" and maximum <= 1:
            white = 1.0
        pixels = (values * (255 / white)).clip(0, 255).astype(np.uint8)
        return Image.fromarray(pixels).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(background, image)
    return image.convert("RGB")
