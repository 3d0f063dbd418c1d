"""Triton kernels and their launchers, imported on first use. Autograd is declared in ops/."""
