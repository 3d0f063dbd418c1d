"""Reading image files, and the dataset of a list of samples."""

import io
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from wsdan.constants import MAX_PIXELS
from wsdan.data.cache import ImageCache
from wsdan.data.formats import formats, heif_hint
from wsdan.data.samples import Box, Encoded, Sample, Source, TarMember
from wsdan.data.transforms import Transform
from wsdan.remote.addresses import RemotePath
from wsdan.remote.errors import NotThereError, RemoteError
from wsdan.remote.files import read_object, read_part
from wsdan.validation import file_fault

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
_OPENING = threading.Lock()
STRIP = 1 << 20  # pixels that are converted at once where an image is converted in steps


class BadImageError(Exception):
    """A file that is not a readable image; the message names the file and the reason."""


class UnreachableError(BadImageError):
    """An image whose bytes could not be fetched: it is not bad, and no run goes on without it."""


class Item(NamedTuple):
    """One image as its transform gives it, with its label."""

    image: Tensor  # (C,H,W) float32; with a zoom, uint8 of at most so many times the input's side
    label: int
    name: str
    box: Box  # of the object, in the pixels of the input; NaN if unknown
    size: tuple[int, int]  # width and height of the original image, upright, in pixels
    index: int  # in the dataset


class ImageDataset(Dataset):
    """The images of `samples`, in their order.

    Items are an Item, or a BadImageError if the image cannot be read: the training loop decides
    whether to skip it. With a cache, an image is read and resized at its first access only.
    max_pixels: as in `load_image`.
    """

    def __init__(
        self,
        samples: list[Sample],
        transform: Transform,
        cache: ImageCache | None = None,
        max_pixels: int = MAX_PIXELS,
    ):
        self.samples = samples
        self.transform = transform
        self.cache = cache
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item | BadImageError:
        source, label, box = self.samples[index]
        try:
            resized, size = self._resized(index)
        except BadImageError as error:
            return error
        image = self.transform.finish(resized)
        box = self.transform.box(box, size)
        return Item(image, label, str(source), box, size, index)

    def original(self, index: int) -> Image.Image:
        """The image before it is resized. Raises BadImageError."""
        rgba = self.transform.channels == 4
        return load_image(self.samples[index].source, self.max_pixels, rgba=rgba)

    def _resized(self, index: int) -> tuple[Image.Image, tuple[int, int]]:
        """The resized image, and (width, height) of the original."""
        cached = self.cache.get(index) if self.cache is not None else None
        if cached is not None:
            return cached
        image = self.original(index)
        resized = self.transform.resize(image)
        if self.cache is not None:
            self.cache.put(index, resized, image.size)
        return resized, image.size


def load_image(
    source: str | Source | Encoded, max_pixels: int = MAX_PIXELS, *, rgba: bool = False
) -> Image.Image:
    """Read an image as 8-bit RGB, or RGBA with `rgba`, turned upright by its EXIF orientation.

    Grey, palette, CMYK, 16-bit and float images are converted. Floats are taken as [0, 1] if no
    value is above 1. In RGB, transparent images are composited over white; in RGBA an image without
    transparency is opaque.

    Raises BadImageError for a missing, unreadable or truncated file, a FIFO, socket or device, or
    an image of more than max_pixels, which its header tells before anything is decoded.
    """
    with open_image(source, max_pixels) as image:
        image.load()
        return upright(image, rgba=rgba)


def upright(image: Image.Image, *, rgba: bool = False) -> Image.Image:
    """An open image as `load_image` returns it: converted, and turned upright."""
    return (_to_rgba if rgba else _to_rgb)(_transposed(image))


@contextmanager
def open_image(source: str | Source | Encoded, max_pixels: int) -> Iterator[Image.Image]:
    """The image in a file, whose pixels are not decoded yet.

    Raises BadImageError like `load_image`, for errors of the block too.
    """
    try:
        in_memory = not isinstance(source, str | Path)
        file = io.BytesIO(read_bytes(source)) if in_memory else _checked(source)
        with _open(file, max_pixels) as image:
            yield image
    except MemoryError:
        raise
    except RemoteError as error:
        if isinstance(error, NotThereError) and isinstance(source, RemotePath):
            raise BadImageError(f"{source}: not a readable image: no such file") from None
        raise UnreachableError(str(error)) from None
    except Exception as error:  # on a damaged file, decoders raise errors of any kind
        reason = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = f"its content is of no format that Pillow reads{heif_hint(str(source))}"
        raise BadImageError(f"{source}: not a readable image: {reason}") from None


def read_bytes(source: str | Source | Encoded) -> bytes:
    """The encoded bytes of an image. Opens the file each time: workers share no file position."""
    if isinstance(source, Encoded):
        return source.content
    if isinstance(source, RemotePath):
        return read_object(source)
    if not isinstance(source, TarMember):
        return _checked(source).read_bytes()
    if isinstance(source.shard, RemotePath):
        return read_part(source.shard, source.offset, source.size)
    with open(_checked(source.shard), "rb") as file:
        file.seek(source.offset)
        return file.read(source.size)


def _checked(path: str | Path) -> Path:
    """`path`, if it is a regular file."""
    fault = file_fault(path)
    if fault is not None:
        raise OSError(fault)
    return Path(path)


def _open(file: Path | io.BytesIO, max_pixels: int) -> Image.Image:
    """PIL.Image.open with a limit of its own. Raises OSError for an image of more pixels.

    Pillow's limit and Python's filters of warnings belong to the process: threads take turns.
    """
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        usual = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow raises above twice as many, and else warns
        try:
            image = Image.open(file, formats=formats())
        except Image.DecompressionBombError:
            raise OSError(
                f"it has more than twice as many pixels as --max-pixels {max_pixels}"
            ) from None
        finally:
            Image.MAX_IMAGE_PIXELS = usual
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        raise OSError(f"its {width} x {height} pixels are more than --max-pixels {max_pixels}")
    return image


def _transposed(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation.

    PIL.ImageOps.exif_transpose also rewrites the EXIF data, and fails on malformed fields.
    """
    method = UPRIGHT.get(image.getexif().get(ORIENTATION))
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = (
            image if image.mode in ("I", "I;16", "F") else image.convert("I")
        )  # I;16B and others
        maximum = image.getextrema()[1]
        white = 65535.0 if maximum > 255 else 255.0
        if image.mode == "F" and maximum <= 1:
            white = 1.0
        return _in_strips(image, partial(_scaled, factor=255 / white))
    if "A" in image.getbands() or "transparency" in image.info:
        return _in_strips(image, _over_white)
    return image.convert("RGB")


def _to_rgba(image: Image.Image) -> Image.Image:
    if "A" in image.getbands() or "transparency" in image.info:
        return image.convert("RGBA")
    image = _to_rgb(image)
    image.putalpha(255)
    return image


def _in_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """The RGB image that `convert` makes of each pixel, a few rows at once: a conversion needs
    several times the memory of the image."""
    width, height = image.size
    rows = max(1, STRIP // width)
    result = Image.new("RGB", image.size)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        result.paste(convert(strip), (0, top))
    return result


def _scaled(image: Image.Image, factor: float) -> Image.Image:
    values = np.asarray(image, dtype=np.float64)
    pixels = (values * factor).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    background = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(background, image).convert("RGB")
