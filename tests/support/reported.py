"""Checkpoints of untrained networks, and images whose classes and files have hostile names."""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from wsdan.checkpoint import save_checkpoint
from wsdan.config import Config
from wsdan.networks.model import build_model

HOSTILE = [  # class folders
    "<script>document.title='taken'<script>",
    "\"'><img src=x onerror=document.title='taken'>{{ 7 * 7 }}",
    "\u0642\u0637\u0629 \u202e\u0661\u0662",
    "x" * 250,
    os.fsdecode(b"caf\xe9"),
]
NO_FOLDERS = ["</script></style><script>document.title='taken'</script>", "y" * 500]
CLASSES = HOSTILE + NO_FOLDERS  # those of the checkpoint
PER_CLASS = 6


def make_checkpoint(folder: Path, classes: list[str], **settings) -> Path:
    """best.pt of an untrained network, and a metrics.jsonl with a broken line."""
    values = {"image_size": 32, "num_attentions": 4, "batch_size": 8, "backbone": "tiny"}
    config = Config(**{**values, "device": "cpu", "workers": 0, **settings}).resolved()
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    model = build_model(config, len(classes))
    save_checkpoint(folder / "best.pt", config, classes, {"model": model.state_dict()})
    lines = [
        f'{{"epoch": {i}, "loss": {3 - i}, "accuracy": {10 + i}, "val_raw": {i}, "lr": 0.1}}'
        for i in range(3)
    ]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"epoch": 3, "lo', ""]))
    return folder / "best.pt"


def make_hostile_tree(root: Path) -> Path:
    """root/val with PER_CLASS images of each class of HOSTILE, of several aspects."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(HOSTILE):
        folder = root / "val" / name
        folder.mkdir(parents=True)
        for i in range(PER_CLASS):
            size = [(40, 30), (24, 60), (400, 8), (32, 32)][i % 4]
            pixels = generator.integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
            file = folder / os.fsdecode(b"<i>%d '\xff.png" % i if label else b"%d.png" % i)
            Image.fromarray(pixels // (label + 1)).save(file)
    return root
