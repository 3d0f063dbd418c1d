"""The parts of gpu_check: its processes, what they found, and the table made of it."""
