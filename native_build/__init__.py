"""Builds the native libraries of wsdan_kernels, for setup.py; imports no torch."""
