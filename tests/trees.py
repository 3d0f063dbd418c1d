"""Small picture folders for the tests."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (30, 40, 200), "green": (40, 180, 60), "red": (200, 40, 30)}


def make_tree(root: Path, per_class: int = 4, val: str = "val", size: int = 40) -> Path:
    """root/train and root/VAL with three classes of noisy coloured pictures."""
    generator = np.random.default_rng(0)
    for split in ("train", val):
        for name, colour in COLOURS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(per_class):
                noise = generator.integers(-25, 25, (size, size, 3))
                pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return root
