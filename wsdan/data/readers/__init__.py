"""Readers of dataset layouts, one module each: `--data NAME` is read by readers/NAME.py.

A module defines `read(root: Path, split: str) -> Listing`, where split is "train" or "val". A file
in this folder is all that a new choice of --data needs; files whose name begins with _ are helpers.
See docs/development/adding-a-dataset-layout.md.
"""
