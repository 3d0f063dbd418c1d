"""Calls the kernels of planted.cu with tensors on the CPU."""

import ctypes

from emulator import build


class LaunchError(RuntimeError):
    """The emulator refused or ended a launch; the message says why."""


class Planted:
    """planted.run("reverse", input, output, 2, 64, 1) launches the kernel of that name."""

    def __init__(self):
        self.library = ctypes.CDLL(str(build.planted()))

    def run(self, name: str, *arguments):
        """Tensors are passed by their address, None as no address, numbers as 32-bit integers."""
        function = getattr(self.library, f"planted_{name}")
        function.restype = ctypes.c_char_p
        error = function(*map(_passed, arguments))
        if error:
            raise LaunchError(error.decode())

    def seed(self, number: int):
        """The order of blocks and threads from now on."""
        self.library.emulator_seed(ctypes.c_uint64(number))


def _passed(value):
    if isinstance(value, int):
        return ctypes.c_int(value)
    return ctypes.c_void_p(None if value is None else value.data_ptr())
