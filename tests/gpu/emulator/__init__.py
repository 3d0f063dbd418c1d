"""Runs the CUDA kernels' own source on the CPU: blocks in turn, each thread on a stack of its own.

It finds races, barriers and warp functions that not all threads reach, accesses out of bounds.
"""
