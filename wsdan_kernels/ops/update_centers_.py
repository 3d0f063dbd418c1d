"""update_centers_: schema, kernels and fake kernel.

Apart from center_loss, because an op that writes to its argument cannot carry an autograd formula.
"""

from wsdan_kernels import _native
from wsdan_kernels.ops._declare import Kernel, declare, triton_kernel
from wsdan_kernels.reference import center_loss as reference

_FORWARD = (
    "update_centers_(Tensor(a!) centers, Tensor features, Tensor labels, float beta, "
    "str duplicates)"
)


def _allocate(*arguments):
    return ()  # the centers are written in place


KERNELS = {
    "reference": Kernel(reference.update),
    "cpu": Kernel(_native.kernel(_FORWARD, 0, _allocate), devices=("cpu",)),
    "triton": triton_kernel("center_loss", "update", _allocate),
}
forward = declare(f"{_FORWARD} -> ()", KERNELS, lambda *arguments: None, backward=None)
