"""Shared by the launchers: the memory layout of tensors, the precision of products, the GPU."""

import functools
import math
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import triton
from torch import Tensor

# Whether Triton's interpreter runs the kernels, on the CPU (TRITON_INTERPRET=1): read at import, as
# the kernels do.
INTERPRETED = bool(triton.knobs.runtime.interpret)
LARGEST_STRIDE = 1 << 24  # within a tile, of at most 128 rows, offsets are 32 bits
VECTOR_BYTES = 16  # the widest load of a thread


class Rows(NamedTuple):
    """A tensor (B,R,h,w) read as (B,R,K) with K = h*w; strides in elements.

    last: the rows' stride is 1 (channels_last), else the positions' is.
    vector: the most elements that one aligned load may take, a power of two up to 16 bytes.
    """

    tensor: Tensor
    image: int
    row: int
    position: int
    last: bool
    vector: int

    @property
    def positions(self) -> int:
        """K."""
        return self.tensor.shape[2] * self.tensor.shape[3]


def as_rows(tensor: Tensor) -> Rows:
    """(B,R,h,w) as rows of positions, in place where its strides allow, else from a copy."""
    lies = _rows(tensor.shape, tensor.stride(), tensor.element_size())
    return as_rows(tensor.contiguous()) if lies is None else Rows(tensor, *lies)


@functools.lru_cache
def _rows(
    shape: tuple[int, ...], strides: tuple[int, ...], element_bytes: int
) -> tuple[int, int, int, bool, int] | None:
    """The fields of Rows after its tensor; None where the rows cannot be read in place."""
    _, count, height, width = shape
    image, row, down, across = strides
    merges = height == 1 or width == 1 or down == width * across
    position = 1 if height * width == 1 else across if width > 1 else down
    row = row if count > 1 else 1 if position != 1 else height * width
    if not merges or 1 not in (row, position) or max(row, position) > LARGEST_STRIDE:
        return None
    last = position != 1
    extent, other = (count, position) if last else (height * width, row)
    most = VECTOR_BYTES // element_bytes
    return image, row, position, last, math.gcd(most, extent, other, image)


def dot_precision(dtype: torch.dtype, other: torch.dtype | None = None) -> str:
    """How a product of tiles of this dtype is taken on the tensor cores.

    float32: as three tf32 products, near float32's own precision, or as one where
    torch.backends.cuda.matmul allows it. With an `other` of float32, 16 bits are widened and the
    product is one of tf32, which holds every float16 and bfloat16. The interpreter widens all: it
    has no bfloat16 product.
    """
    if INTERPRETED:
        return "wide"
    if dtype == torch.float32:
        return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3"
    return "tf32" if other == torch.float32 else "ieee"  # 16 bits: exact, summed in float32


class Gpu(NamedTuple):
    """Compute capability times ten, and the number of multiprocessors."""

    capability: int
    multiprocessors: int


# Of tensors that lie on no GPU: in the interpreter, and where kernels are compiled for another one.
assumed = Gpu(80, 108)


def gpu_of(tensor: Tensor) -> Gpu:
    """The GPU that the tensor lies on."""
    if not tensor.is_cuda:
        return assumed
    return _gpu(tensor.get_device())


@functools.cache
def _gpu(index: int) -> Gpu:
    properties = torch.cuda.get_device_properties(index)
    return Gpu(10 * properties.major + properties.minor, properties.multi_processor_count)


def cdiv(count: int, size: int) -> int:
    """How many blocks of `size` hold `count`; triton.cdiv takes long on the host."""
    return -(-count // size)


def device_of(tensor: Tensor) -> AbstractContextManager:
    """A context in which kernels are launched on the tensor's GPU and its current stream."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def up_to_power_of_two(count: int, least: int, most: int) -> int:
    """The smallest power of two that holds `count`, within [least, most]."""
    return min(max(1 << (count - 1).bit_length(), least), most)
