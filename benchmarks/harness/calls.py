"""What a call of pooling costs the host, with a launcher of Triton kernels that does nothing."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import torch
from harness.run import Work

import wsdan_kernels as wk
from wsdan_kernels import backends
from wsdan_kernels.ops import bilinear_attention_pool as op

OPTIONS = ("mean", True, "all", 1, 1e-12, 1.0)
SHAPE = (12, 32, 768, 4, 4)  # B M C h w; the host's time does not depend on it


@contextmanager
def standing_in() -> Iterator[None]:
    """Triton's kernels of pooling take tensors of the CPU, and no launch does anything."""
    from wsdan_kernels._triton import bilinear_attention_pool as launchers

    with (
        mock.patch.object(backends, "_triton_failure", _no_failure),
        mock.patch.dict(op.KERNELS, _anywhere(op.KERNELS)),
        mock.patch.dict(op.BACKWARD_KERNELS, _anywhere(op.BACKWARD_KERNELS)),
        mock.patch.object(type(launchers.pool_kernel), "__getitem__", _launcher),
    ):
        yield


def _anywhere(kernels: dict) -> dict:
    return {"triton": replace(kernels["triton"], devices=None)}


def _no_failure(interpreted: bool) -> None:
    """Triton can run here."""


def _launcher(kernel: object, grid: tuple[int, ...]) -> Callable[..., None]:
    return _nothing


def _nothing(*arguments: object, **options: object) -> None:
    """A launch."""


def call_works() -> Iterator[Work]:
    """The forward, and with gradients: by the public function, and by the registered operator.

    Inside `standing_in`, also where they are measured.
    """
    batch, maps, channels, height, width = SHAPE
    layout = {"dtype": torch.bfloat16, "memory_format": torch.channels_last}
    features = torch.empty((batch, channels, height, width), **layout)
    attentions = torch.empty((batch, maps, height, width), **layout)
    upstream = torch.empty((batch, maps, channels))
    done = torch.zeros(1)  # what the kernels would fill is not compared
    functions = {
        "registered": lambda *inputs: torch.ops.wsdan.bilinear_attention_pool(
            *inputs, *OPTIONS, "triton"
        )[0],
        "triton": lambda *inputs: wk.bilinear_attention_pool(*inputs, backend="triton"),
    }
    leaves = [value.detach().requires_grad_() for value in (features, attentions)]

    def forward(pool):
        pool(features, attentions)
        return done

    def both(pool):
        torch.autograd.grad(pool(*leaves), leaves, upstream)
        return done

    for name, step in (("forward", forward), ("forward+backward", both)):
        yield Work(
            f"call of mean pooling, {name}",
            f"B {batch} M {maps} C {channels}, no launch",
            {title: (lambda step=step, pool=pool: step(pool)) for title, pool in functions.items()},
            0.0,
            moved=float(upstream.nbytes),
        )


def works() -> Iterator[Work]:
    """`call_works` as a benchmark takes them; nothing where Triton is missing."""
    if importlib.util.find_spec("triton") is not None:
        with standing_in():
            yield from call_works()
