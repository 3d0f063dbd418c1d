"""A call of an operator leaves torch's dispatcher out only where nothing sees the difference."""

from typing import ClassVar

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

import wsdan_kernels as wk

NAME = "wsdan::bilinear_attention_pool"
FEATURES, ATTENTIONS = torch.rand(2, 3, 4, 4), torch.rand(2, 5, 4, 4)


def pool(features=FEATURES, attentions=ATTENTIONS):
    return wk.bilinear_attention_pool(features, attentions, backend="reference")


class Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.names.append(function.name())
        return function(*arguments, **(options or {}))


class Sub(torch.Tensor):
    """Counts the operators that meet it."""

    names: ClassVar[list[str]] = []

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), options=None):
        cls.names.append(str(function))
        return super().__torch_function__(function, types, arguments, options or {})


def test_modes_and_subclasses_see_the_operator():
    with Seen() as seen:
        pool()
    assert NAME in seen.names
    pool(FEATURES.as_subclass(Sub), ATTENTIONS.as_subclass(Sub))
    assert any("wsdan" in name for name in Sub.names)


def test_a_profiler_sees_the_operator():
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as trace:
        pool()
    assert NAME in {event.key for event in trace.key_averages()}


def test_traces_hold_the_operator():
    def both(features, attentions):
        return pool(features, attentions)

    assert NAME.replace("::", ".") in make_fx(both)(FEATURES, ATTENTIONS).code
    traced = torch.jit.trace(both, (FEATURES, ATTENTIONS), check_trace=False)
    assert NAME in str(traced.inlined_graph)


def test_tensors_that_the_dispatcher_prepares():
    """A negative bit is a promise that a kernel cannot know of; meta tensors have no memory."""
    negated = torch.complex(FEATURES, FEATURES).conj().imag
    assert negated.is_neg() and torch.equal(pool(negated), pool(-FEATURES))
    assert pool(FEATURES.to("meta"), ATTENTIONS.to("meta")).shape == (2, 5, 3)
    with torch.inference_mode():
        assert torch.equal(pool(FEATURES.clone(), ATTENTIONS), pool())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pool(), pool(*(value.clone() for value in (FEATURES, ATTENTIONS))))


@pytest.mark.parametrize("gradients", [False, True], ids=["forward", "with gradients"])
def test_a_plain_call_leaves_the_dispatcher_out(gradients, monkeypatch):
    """Forward and backward: what the dispatcher does around a kernel takes as long as the rest."""
    called = []
    for kind in (torch._ops.OpOverload, torch._ops.OpOverloadPacket):
        original = kind.__call__

        def record(it, /, *arguments, original=original, **options):
            called.append(str(it))
            return original(it, *arguments, **options)

        monkeypatch.setattr(kind, "__call__", record)
    leaves = [value.clone().requires_grad_(gradients) for value in (FEATURES, ATTENTIONS)]
    output = pool(*leaves)
    if gradients:
        torch.autograd.grad(output.sum(), leaves)
    assert not [name for name in called if "wsdan" in name]
    with Seen():
        pool(*leaves)
    assert [name for name in called if "wsdan" in name]
