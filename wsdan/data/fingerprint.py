"""The fingerprint of a split: which images it holds, with which labels, in which order."""

import os
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wsdan.data.samples import Sample
from wsdan.remote.addresses import place


def fingerprint(samples: list[Sample], root: str | Path) -> Tensor:
    """(n,2) int64: a hash of each image's name below `root`, and its label. 16 bytes an image.

    The same images in a folder elsewhere have the same fingerprint. No file is opened.
    """
    prefix = os.path.join(str(place(root)), "")
    names = [_hash(str(sample.source).removeprefix(prefix)) for sample in samples]
    labels = [sample.label for sample in samples]
    return torch.from_numpy(np.array([names, labels], dtype=np.int64).T.copy())


def _hash(name: str) -> int:
    digest = blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def difference(old: Tensor, new: Tensor) -> str | None:
    """What changed between two fingerprints, in words; None if they are equal."""
    if torch.equal(old, new):
        return None
    before, after = dict(old.tolist()), dict(new.tolist())
    kept = before.keys() & after.keys()
    counts = {
        "added": len(after) - len(kept),
        "removed": len(before) - len(kept),
        "of another class": sum(before[name] != after[name] for name in kept),
    }
    parts = [f"{count} {what}" for what, count in counts.items() if count]
    return ", ".join(parts) if parts else "listed in another order"
