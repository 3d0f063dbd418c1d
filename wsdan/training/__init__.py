"""The training loop, its step and objective, and what a run keeps on disk."""
