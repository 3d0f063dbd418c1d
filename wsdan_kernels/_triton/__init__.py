"""Triton kernels and their launchers. Imported on first use only; they know no autograd."""
