"""One module for each layout of a data set on disk: `--data NAME` is read by readers/NAME.py.

A module has `read(root: Path, split: str) -> Listing`, split "train" or "val".
"""
