"""The dispatcher operators `torch.ops.wsdan.*`, each declared once in a module of its own name."""

import importlib
import pkgutil

from wsdan_kernels.ops._declare import Kernel

# Each operator's kernels by backend. A module of this folder whose name has no leading underscore
# is an operator, and its KERNELS are listed here.
KERNELS: dict[str, dict[str, Kernel]] = {
    module.name: importlib.import_module(f"{__name__}.{module.name}").KERNELS
    for module in pkgutil.iter_modules(__path__)
    if not module.name.startswith("_")
}
