"""From a picture file to a network's input, and from a box in that input back to the picture."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, as the published recipes normalise
STD = (0.229, 0.224, 0.225)
RESIZE = 0.875  # pictures are resized by 1 / RESIZE and a square is cut out of the result
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class BadPictureError(Exception):
    """A file that is no readable picture; the message names it and the reason."""


def load_picture(path: str | Path) -> Image.Image:
    """Read a picture as 8-bit RGB, turned as its EXIF orientation says.

    Grey, palette, CMYK and 16-bit pictures are converted; transparency is laid over white.

    Raises BadPictureError for a missing, unreadable or truncated file.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error) or type(error).__name__
        if isinstance(error, FileNotFoundError):
            reason = "no such file"
        raise BadPictureError(f"{path}: not a readable picture: {reason}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        return Image.fromarray((values * (255 / top)).clip(0, 255).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def train_transform(image_size: int) -> v2.Transform:
    """PIL picture -> (3,image_size,image_size) float32: random crop, flip and colour jitter."""
    side = round(image_size / RESIZE)
    return v2.Compose(
        [
            v2.Resize((side, side), antialias=True),
            v2.RandomCrop(image_size),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(brightness=0.126, saturation=0.5),
            *_to_tensor(),
        ]
    )


def eval_transform(image_size: int, whole: bool = False) -> v2.Transform:
    """PIL picture -> (3,image_size,image_size) float32: its centre, or all of it with `whole`."""
    side = image_size if whole else round(image_size / RESIZE)
    return v2.Compose(
        [v2.Resize((side, side), antialias=True), v2.CenterCrop(image_size), *_to_tensor()]
    )


def synthetic_transform(train: bool) -> v2.Transform:
    """(3,H,W) uint8 -> float32; a picture seen from above may be flipped both ways."""
    flips = [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()] if train else []
    return v2.Compose([*flips, *_to_tensor()])


def box_in_picture(
    box: list[int], picture_size: tuple[int, int], image_size: int, whole: bool = False
) -> list[int]:
    """A box x1 y1 x2 y2 of the network's input as a box of the picture, in its pixels.

    picture_size: (width, height) of the picture; image_size, whole: as in `eval_transform`.
    """
    side = image_size if whole else round(image_size / RESIZE)
    margin = (side - image_size) // 2
    scales = [size / side for size in picture_size] * 2
    edges = [round((edge + margin) * scale) for edge, scale in zip(box, scales, strict=True)]
    limits = [*picture_size, *picture_size]
    return [min(max(edge, 0), limit) for edge, limit in zip(edges, limits, strict=True)]


def _to_tensor() -> list[v2.Transform]:
    return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
