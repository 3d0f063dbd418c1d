"""The autograd and torch.func formulas of an operator.

torch.library.register_autograd would make a Function that torch.func.grad refuses and whose
forward-mode derivative is zero, in silence. The one here is of a single level of transforms, as
torch's own operators are, and refuses forward mode by name.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.utils._pytree import tree_map_only


def register(
    library: torch.library.Library,
    name: str,
    setup_context: Callable | None,
    backward: Callable,
    execute: Callable,
) -> Callable:
    """Give `library`'s operator `name` its autograd formula, as register_autograd takes it.

    execute: the operator below autograd, for where the dispatcher is left out. Returns a function
    that runs the operator so, on arguments of which one requires a gradient.
    """
    operator = getattr(getattr(torch.ops, library.ns), name).default

    def below(keyset, arguments):
        with torch._C._AutoDispatchBelowAutograd():
            return operator.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)

    class Formula(torch.autograd.function._SingleLevelFunction):
        @staticmethod
        def forward(ctx, keyset, *arguments):
            results = execute(*arguments) if keyset is None else below(keyset, arguments)
            if setup_context is not None:
                setup_context(ctx, arguments, results)
            return results

        @staticmethod
        def backward(ctx, *grads):
            return None, *backward(ctx, *grads)

        @staticmethod
        def jvp(ctx, *tangents):
            raise NotImplementedError(f"{name}: has no forward-mode derivatives (jvp, jacfwd)")

    Formula.__name__ = f"{name}_autograd"

    def run(keyset, *arguments):
        differentiated = torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments)
        if not (differentiated or forward_ad._current_level >= 0):
            return below(keyset, arguments)
        with enable_single_level_autograd_function():
            return Formula.apply(keyset, *arguments)

    library.impl(name, run, "Autograd", with_keyset=True)
    return functools.partial(Formula.apply, None)


def register_batched(
    library: torch.library.Library, name: str, moved: Callable | None = None
) -> None:
    """torch.vmap of an operator whose tensors all have the batch as their first axis: one call.

    moved: called with the joined arguments and the number of batches, returns the arguments.
    """
    operator = getattr(getattr(torch.ops, library.ns), name).default

    def run(info, in_dims, *arguments):
        size = info.batch_size

        def folded(value, dim):
            if not isinstance(value, Tensor):
                return value
            value = value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)
            return value.reshape(-1, *value.shape[2:])

        joined = tuple(map(folded, arguments, in_dims))
        results = operator(*(moved(joined, size) if moved else joined))
        results = tree_map_only(
            Tensor, lambda value: value.unflatten(0, (size, value.shape[0] // size)), results
        )
        return results, tree_map_only(Tensor, lambda value: 0, results)

    torch.library.register_vmap(f"{library.ns}::{name}", run, lib=library)
