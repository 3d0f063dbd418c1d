"""Reading image files, and the data set of a list of samples."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from wsdan.data.cache import ImageCache
from wsdan.data.samples import Box, Member, Sample, Source
from wsdan.data.transforms import Transform

ORIENTATION = 0x0112  # of EXIF; 1 is upright
UPRIGHT = {  # what turns an image of each other orientation
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
    """A file that is no readable image; the message names it and the reason."""


class Item(NamedTuple):
    """One image as the network takes it."""

    image: Tensor  # (3,H,W) float32
    label: int
    name: str
    box: Box  # of the object, in the pixels of `image`; NaN where it is not known


class ImageDataset(Dataset):
    """The images of `samples`, in their order.

    Items are an Item, or a BadImageError where an image cannot be read: the loader decides what
    becomes of it. With a cache, an image is read and resized at its first access only.
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
        """An image at the transform's side, and its size before that."""
        kept = self.cache.get(index) if self.cache is not None else None
        if kept is not None:
            return kept
        image = load_image(self.samples[index].source)
        resized = self.transform.resize(image)
        if self.cache is not None:
            self.cache.put(index, resized, image.size)
        return resized, image.size


def load_image(source: str | Source) -> Image.Image:
    """Read an image as 8-bit RGB, turned as its EXIF orientation says.

    Grey, palette, CMYK, 16-bit and float images are converted, floats from [0, 1] where none is
    above 1; transparency is laid over white.

    Raises BadImageError for a missing, unreadable or truncated file.
    """
    try:
        file = io.BytesIO(read_bytes(source)) if isinstance(source, Member) else source
        with Image.open(file) as image:
            image.load()
            return _to_rgb(_upright(image))
    except MemoryError:
        raise
    except Exception as error:  # a decoder lets out whatever it stumbles over in a damaged file
        reason = str(error) or type(error).__name__
        if isinstance(error, FileNotFoundError):
            reason = "no such file"
        raise BadImageError(f"{source}: not a readable image: {reason}") from None


def read_bytes(source: str | Source) -> bytes:
    """The bytes of an image's file. The file is opened anew: processes share no position in it."""
    if not isinstance(source, Member):
        return Path(source).read_bytes()
    with open(source.shard, "rb") as file:
        file.seek(source.offset)
        return file.read(source.size)


def _upright(image: Image.Image) -> Image.Image:
    """Turned by the orientation alone: Pillow's own function also writes the EXIF data anew, and
    fails where a camera's fields are odd."""
    turn = UPRIGHT.get(image.getexif().get(ORIENTATION))
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        brightest = values.max(initial=0)
        top = 65535.0 if brightest > 255 else 255.0
        if image.mode == "F" and brightest <= 1:
            top = 1.0
        return Image.fromarray((values * (255 / top)).clip(0, 255).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
