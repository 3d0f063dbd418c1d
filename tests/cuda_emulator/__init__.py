"""Runs the CUDA kernels' own source on the CPU: blocks one by one, each thread on a stack of its own.

It finds races, barriers and warp functions that not all threads reach, and accesses out of bounds.
"""
