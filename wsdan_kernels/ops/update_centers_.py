"""update_centers_: schema, kernels and fake kernel.

Apart from center_loss, because an op that writes to its argument cannot carry an autograd formula.
"""

import torch

from wsdan_kernels import _checks, _native
from wsdan_kernels.ops._declare import Kernel, declare, triton_kernel
from wsdan_kernels.ops.center_loss import check_centers
from wsdan_kernels.reference import center_loss as reference

_FORWARD = (
    "update_centers_(Tensor(a!) centers, Tensor features, Tensor labels, float beta, "
    "str duplicates)"
)


def _allocate(*arguments):
    return ()  # the centers are written in place


def _check(centers, features, labels, beta, duplicates, backend):
    op = "update_centers_"
    check_centers(op, features, centers, labels, backend)
    _checks.choice(op, "duplicates", duplicates, ("accumulate", "mean"))
    # What is read would change while it is written.
    for name, value in (("features", features), ("labels", labels)):
        if torch._C._is_alias_of(centers, value):
            raise _checks.wrong_value(op, name, "in memory of its own", "a view of that of centers")
    if torch._debug_has_internal_overlap(centers) == 1:
        raise _checks.wrong_value(op, "centers", "without elements that share memory", "some")


KERNELS = {
    "reference": Kernel(reference.update),
    "cpu": Kernel(_native.kernel(_FORWARD, 0, _allocate), devices=("cpu",)),
    "triton": triton_kernel("center_loss", "update", _allocate),
}
forward = declare(
    f"{_FORWARD} -> ()",
    KERNELS,
    lambda *arguments: None,
    check=_check,
    backward=None,
    batched=False,
)
