"""Small checkpoints to export, and their files."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from wsdan.checkpoint import save_checkpoint
from wsdan.cli import main
from wsdan.config import Config
from wsdan.networks.model import build_model

CLASSES = ["a", "b", "c"]
SIDE = 48


def make_checkpoint(path: Path, classes: list[str] = CLASSES, **options) -> Path:
    """A checkpoint of random weights, whose boxes are no whole images."""
    defaults = {
        "data": "folder", "root": ".", "image_size": SIDE, "backbone": "tiny",
        "num_attentions": 4, "refine_threshold": 0.6, "precision": "fp32",
    }  # fmt: skip
    config = Config(**(defaults | options), pretrained=False).resolved()
    torch.manual_seed(0)
    state = build_model(config, len(classes)).state_dict()
    save_checkpoint(path, config, classes, {"model": state})
    return path


def export(checkpoint: Path, kind: str, out: Path, *options: str) -> Path:
    """Run `wsdan export`, which must succeed."""
    arguments = ["export", "--checkpoint", str(checkpoint), "--format", kind, "--out", str(out)]
    assert main([*arguments, *options]) == 0
    return out


def make_photographs(folder: Path, count: int, size: tuple[int, int] = (70, 50)) -> list[Path]:
    """Smooth images of random colours, `size` width and height."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    paths = [folder / f"{index}.png" for index in range(count)]
    for path in paths:
        coarse = Image.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(path)
    return paths
