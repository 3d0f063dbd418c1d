"""A procedural fine-grained dataset: moths that differ only in small marks.

Every image is a pure function of (seed, index, image_size): a moth at random place, scale and
pose on a busy meadow. All classes share one body. A class is a pair: the colour of the fore wings
(told at a glance) and the two eyespots on the hind wings, a few pixels wide. Eyespots come in two
pairs, blue about gold and gold about blue, white about red and red about white, ring and pupil
of equal areas: at low resolution the two of a pair look alike, and only a zoom tells them apart.
Body tint, light and noise do not depend on the class. Petals in the fore wings' colours with
eyespots of their own are spread over the image, so its colour histogram does not give the class.
No file is read.

Random numbers are raw Philox words, whose stream numpy guarantees. Pixels use only + - * / and
square roots, which IEEE 754 rounds exactly, so images are the same on every machine up to the last
bit of a sine.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from wsdan.constants import SYNTHETIC_MIN_SIZE

_GOLD, _BLUE, _RED = (1.0, 0.74, 0.08), (0.16, 0.52, 1.0), (0.90, 0.10, 0.14)
_WHITE, _DARK = (1.0, 1.0, 1.0), (0.07, 0.06, 0.08)
_WINGS = {"goldwing": _GOLD, "bluewing": _BLUE, "redwing": _RED, "whitewing": _WHITE}
_EYES = {  # (ring, pupil)
    "gold-eyed": (_BLUE, _GOLD),
    "blue-eyed": (_GOLD, _BLUE),
    "red-eyed": (_WHITE, _RED),
    "white-eyed": (_RED, _WHITE),
}
_WING_COLOURS, _EYE_COLOURS = tuple(_WINGS.values()), tuple(_EYES.values())
_TINTS = ((0.50, 0.33, 0.20), (0.40, 0.42, 0.22), (0.30, 0.36, 0.44), (0.45, 0.31, 0.42))
CLASSES = tuple(f"{eye} {wing}" for wing in _WINGS for eye in _EYES)


class SyntheticSample(NamedTuple):
    """One image with its label and box."""

    image: np.ndarray  # (H, W, 3) uint8
    label: int  # 0 <= label < len(CLASSES)
    box: tuple[int, int, int, int]  # of the moth: x1, y1, x2, y2 in pixels, half-open


class SyntheticDataset(Dataset):
    """`length` images of moths; image i has label i modulo the number of classes.

    Items are (image (3, H, W) uint8, label int), the same at every access; `classes` names the
    labels. Use different seeds for training and validation.
    """

    def __init__(self, length: int, *, seed: int = 0, image_size: int = 128):
        self.classes = list(CLASSES)
        self.length = _whole("length", length, 1)
        self.seed = _whole("seed", seed, 0)
        self.image_size = _whole("image_size", image_size, SYNTHETIC_MIN_SIZE)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        index = _whole("index", index, -(2**63))
        if not -self.length <= index < self.length:
            raise IndexError(f"index must be in [-{self.length}, {self.length}); got {index}")
        image, label, _ = draw(self.seed, index % self.length, self.image_size)
        return torch.from_numpy(image).permute(2, 0, 1).contiguous(), label


def draw(seed: int, index: int, image_size: int = 128, label: int | None = None) -> SyntheticSample:
    """Draw image `index` of the dataset `seed`.

    `label` (default: index modulo the number of classes) sets the moth's colours and nothing
    else: two labels of one (seed, index) differ only inside the box.
    """
    seed, index = _whole("seed", seed, 0), _whole("index", index, 0)
    image_size = _whole("image_size", image_size, SYNTHETIC_MIN_SIZE)
    label = index % len(CLASSES) if label is None else _whole("label", label, 0)
    if label >= len(CLASSES):
        raise ValueError(f"label must be < {len(CLASSES)}, the number of classes; got {label}")
    stream = _Stream(seed, index)
    canvas = _draw_meadow(stream, image_size)
    box = _draw_moth(stream, canvas, *divmod(label, len(_EYES)))
    _expose(stream, canvas)
    image = np.ascontiguousarray((canvas * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0))
    return SyntheticSample(image, label, box)


def _whole(name: str, value: int, least: int) -> int:
    """`value` as an int in [least, 2**63), or a TypeError or ValueError that names it."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an int; got {type(value).__name__} {value!r}")
    if not least <= value < 2**63:
        raise ValueError(f"{name} must be >= {least} and < 2**63; got {value}")
    return int(value)


class _Stream:
    """Uniform random numbers of one image, from the raw words of Philox keyed (seed, index)."""

    def __init__(self, seed: int, index: int):
        self._bits = np.random.Philox(key=np.array([seed, index], dtype=np.uint64))

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * (int(self._bits.random_raw()) >> 11) * 2.0**-53

    def pick(self, items: tuple):
        return items[int(self.uniform(0, len(items)))]

    def colour(self, *ranges: tuple[float, float]) -> list[float]:
        return [self.uniform(low, high) for low, high in ranges]

    def bytes(self, *shape: int) -> np.ndarray:
        """An array of `shape`, float32, uniform over k/255, k = 0..255."""
        count = math.prod(shape)
        words = self._bits.random_raw((count + 7) // 8).astype("<u8")
        return words.view(np.uint8)[:count].reshape(shape).astype(np.float32) / 255


class _Patch:
    """The pixels of a canvas (3, S, S) around a centre, in a turned frame.

    u (h, w) and v (h, w) are the coordinates of pixel centres along and across the direction
    `angle`, in units of `scale`, a fraction of the side S. The patch is the smallest upright
    window about |u| <= half_u, |v| <= half_v.
    """

    def __init__(self, canvas, x, y, angle, scale, half_u, half_v):
        size = canvas.shape[-1]
        cos, sin = math.cos(angle), math.sin(angle)
        half_x = scale * (half_u * abs(cos) + half_v * abs(sin))
        half_y = scale * (half_u * abs(sin) + half_v * abs(cos))
        left, top = max(0, math.floor((x - half_x) * size)), max(0, math.floor((y - half_y) * size))
        right, bottom = math.ceil((x + half_x) * size), math.ceil((y + half_y) * size)
        self.pixels = canvas[:, top:bottom, left:right]
        self.origin = left, top
        height, width = self.pixels.shape[1:]
        self._sharpness = scale * size  # pixels per unit of u and v
        dx = (np.arange(width, dtype=np.float32) + (left + 0.5 - x * size)) / (scale * size)
        dy = (np.arange(height, dtype=np.float32) + (top + 0.5 - y * size)) / (scale * size)
        self.u = dx * cos + (dy * sin)[:, None]
        self.v = (dy * cos)[:, None] - dx * sin

    def cover(self, distance: np.ndarray, blur: float = 0.0) -> np.ndarray:
        """Coverage in [0, 1] of the shape distance <= 0, its edge one pixel (or `blur`) wide."""
        slope = min(self._sharpness, 1 / blur) if blur else self._sharpness
        cover = 0.5 - distance * slope
        return np.minimum(np.maximum(cover, 0, out=cover), 1, out=cover)

    def paint(self, colour, cover: np.ndarray, light: np.ndarray | None = None) -> None:
        """Blend a colour (3), lit by `light` (h, w), over the pixels, as far as `cover` (h, w)."""
        colour = np.asarray(colour, np.float32)[:, None, None]
        change = (colour if light is None else colour * light) - self.pixels
        change *= cover
        self.pixels += change


def _disc(u, v, centre_u: float, centre_v: float, radius: float) -> np.ndarray:
    """Signed distance to a disc."""
    du, dv = u - centre_u, v - centre_v
    return np.sqrt(du * du + dv * dv) - radius


def _ellipse(u, v, half_u: float, half_v: float) -> np.ndarray:
    """Signed distance, to first order, to the ellipse about the origin."""
    pu, pv = u / half_u, v / half_v
    level = np.sqrt(pu * pu + pv * pv)
    pu, pv = pu / half_u, pv / half_v
    return level * (level - 1) / (np.sqrt(pu * pu + pv * pv) + 1e-6)


def _capsule(u, v, start: tuple[float, float], end: tuple[float, float], radius: float):
    """Signed distance to a segment with round ends."""
    du, dv = end[0] - start[0], end[1] - start[1]
    su, sv = u - start[0], v - start[1]
    along = np.clip((su * du + sv * dv) / (du * du + dv * dv), 0, 1)
    su, sv = su - along * du, sv - along * dv
    return np.sqrt(su * su + sv * sv) - radius


def _draw_meadow(stream: _Stream, size: int) -> np.ndarray:
    """A canvas (3, size, size) float32: mottled ground, grass, and petals and berries with eyes."""
    ground = [stream.colour((0.22, 0.50), (0.28, 0.52), (0.12, 0.34)) for _ in range(2)]
    mix = _value_noise(stream, size, (5, 11, 23, 47))
    canvas = np.stack([a + (1.5 * b - a) * mix for a, b in zip(*ground, strict=True)])
    for _ in range(6):
        length, width = stream.uniform(0.12, 0.3), stream.uniform(0.006, 0.018)
        patch = _somewhere(stream, canvas, 1.0, length + 0.01, width + 0.02)
        blade = _ellipse(patch.u, patch.v, length, width)
        patch.paint(stream.colour((0.20, 0.62), (0.36, 0.72), (0.10, 0.36)), patch.cover(blade))
    for _ in range(6):
        _draw_petal(stream, canvas)
        patch = _somewhere(stream, canvas, stream.uniform(0.012, 0.026))
        _draw_eye(patch, _disc(patch.u, patch.v, 0, 0, 0), 1.0, stream.pick(_EYE_COLOURS), 1.0)
    return canvas


def _draw_petal(stream: _Stream, canvas: np.ndarray) -> None:
    """A petal in the shape of a wing, most often of a wing's colour, with an eyespot on it."""
    patch = _somewhere(stream, canvas, stream.uniform(0.05, 0.11))
    outline = _ellipse(patch.u, patch.v, 1.0, stream.uniform(0.45, 0.75))
    patch.paint(_DARK, 0.4 * patch.cover(outline - 0.1, blur=0.5))
    cover = patch.cover(outline)
    base = stream.pick(_WING_COLOURS) if stream.uniform(0, 1) < 0.6 else _tint(stream)
    patch.paint(base, cover, 1.0 + 0.35 * outline)
    _draw_eye(patch, _disc(patch.u, patch.v, 0.2, 0, 0), 0.35, stream.pick(_EYE_COLOURS), cover)


def _draw_eye(patch: _Patch, distance, radius: float, colours, cover) -> None:
    """An eyespot: ring and pupil of equal areas; `distance` (h, w) is from its centre."""
    ring, pupil = colours
    patch.paint(ring, cover * patch.cover(distance - radius))
    patch.paint(pupil, cover * patch.cover(distance - math.sqrt(0.5) * radius))


def _somewhere(stream: _Stream, canvas, scale: float, half_u=1.4, half_v=1.2) -> _Patch:
    """A patch at a random place and angle."""
    x, y, angle = stream.uniform(0, 1), stream.uniform(0, 1), stream.uniform(0, math.tau)
    return _Patch(canvas, x, y, angle, scale, half_u, half_v)


def _tint(stream: _Stream) -> tuple[float, ...]:
    """A random body colour: brown, olive, slate or mauve, dark enough for all eyespots to show."""
    gain = stream.uniform(0.8, 1.2)
    return tuple(c * gain + stream.uniform(-0.05, 0.05) for c in stream.pick(_TINTS))


def _value_noise(stream: _Stream, size: int, cells: tuple[int, ...]) -> np.ndarray:
    """Smooth noise (size, size) in [0, 1]: random grids of decreasing amplitude."""
    total = stream.bytes(cells[0], cells[0])
    for step, count in enumerate(cells[1:], start=1):
        total = _enlarge(total, count) + 0.5**step * stream.bytes(count, count)
    return _enlarge(total, size) * (1 / (2 - 0.5 ** (len(cells) - 1)))


def _enlarge(grid: np.ndarray, size: int) -> np.ndarray:
    """The grid (n, n) resized to (size, size), with smooth steps between its points."""
    position = (np.arange(size) * ((len(grid) - 1) / max(size - 1, 1))).astype(np.float32)
    low = np.minimum(position.astype(np.int64), len(grid) - 2)
    part = position - low.astype(np.float32)
    part = part * part * (3 - 2 * part)
    for _ in range(2):  # rows, then columns
        grid = grid[low] + part[:, None] * (grid[low + 1] - grid[low])
        grid = np.ascontiguousarray(grid.T)
    return grid


def _draw_moth(stream: _Stream, canvas: np.ndarray, wing: int, eye: int):
    """Draw a moth at a random place; return its box. No random number depends on the class."""
    scale = 0.13 * 2 ** stream.uniform(0, 1)
    x, y = (stream.uniform(1.05 * scale, 1 - 1.05 * scale) for _ in range(2))
    patch = _Patch(canvas, x, y, stream.uniform(0, math.tau), scale, 1.1, 1.1)
    tint = _tint(stream)
    u, v = patch.u, np.abs(patch.v) / stream.uniform(0.75, 1.0)
    fore = _wing_frame(u, v, 0.14, stream.uniform(0.15, 0.65))
    hind = _wing_frame(u, v, -0.05, stream.uniform(-0.95, -0.65))
    fore_wing = _ellipse(fore[0] - 0.48, fore[1], 0.48, 0.25)
    hind_wing = _ellipse(hind[0] - 0.36, hind[1], 0.36, 0.26)
    body = _capsule(u, v, (-0.5, 0), (0.22, 0), 0.085)
    head = _disc(u, v, 0.34, 0, 0.085)
    feelers = _capsule(u, v, (0.38, 0.03), (0.72, 0.22), 0.012)
    outline = np.minimum(np.minimum(fore_wing, hind_wing), np.minimum(body, head))
    patch.paint(_DARK, 0.5 * patch.cover(outline - 0.08, blur=0.3))
    hind_cover, fore_cover = patch.cover(hind_wing), patch.cover(fore_wing)
    patch.paint(tint, hind_cover, 0.95 + 0.9 * np.maximum(hind_wing, -0.2))
    _draw_eye(patch, _disc(*hind, 0.42, 0, 0), 0.19, _EYE_COLOURS[eye], hind_cover)
    patch.paint(_WING_COLOURS[wing], fore_cover, 1.0 + 1.2 * np.maximum(fore_wing, -0.25))
    patch.paint(tint, fore_cover * patch.cover(fore[0] - 0.3, blur=0.5))
    patch.paint(_DARK, 0.8 * fore_cover * patch.cover(np.abs(fore_wing + 0.02) - 0.02))
    patch.paint(_DARK, patch.cover(feelers))
    fur, light = [0.55 * channel + 0.06 for channel in tint], 0.8 - 4.0 * np.minimum(body, 0)
    patch.paint(fur, patch.cover(np.minimum(body, head)), light)
    return _tight_box(patch.cover(np.minimum(outline, feelers)), *patch.origin)


def _wing_frame(u, v, root: float, sweep: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along and across a wing that starts at (root, 0.04), swept forward by `sweep`."""
    cos, sin, du, dv = math.cos(sweep), math.sin(sweep), u - root, v - 0.04
    return du * sin + dv * cos, du * cos - dv * sin


def _tight_box(cover: np.ndarray, left: int, top: int) -> tuple[int, int, int, int]:
    """The box x1, y1, x2, y2 of the covered pixels."""
    rows, columns = np.nonzero(cover)
    x1, x2 = left + int(columns.min()), left + int(columns.max()) + 1
    return x1, top + int(rows.min()), x2, top + int(rows.max()) + 1


def _expose(stream: _Stream, canvas: np.ndarray) -> None:
    """Light that falls off across the image, a colour cast and noise; clips to [0, 1]."""
    size = canvas.shape[-1]
    steps = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    slope_x, slope_y = stream.uniform(-0.3, 0.3), stream.uniform(-0.3, 0.3)
    canvas *= stream.uniform(0.85, 1.15) + slope_x * steps + slope_y * steps[:, None]
    canvas *= np.array(stream.colour(*((0.92, 1.08),) * 3), np.float32)[:, None, None]
    canvas += 0.08 * (stream.bytes(*canvas.shape) - 0.5)
    np.clip(canvas, 0, 1, out=canvas)
