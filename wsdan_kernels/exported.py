"""Runs what `wsdan export --format torch` and `--format aoti` wrote, with torch and this package
alone."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from wsdan_kernels import ops

METADATA = (
    "wsdan.json"  # what it is about: a file in torch.export's archive, a key in AOTInductor's
)
_COMPILED = "/data/aotinductor/"  # in the names of what AOTInductor compiled


class ExportedModel:
    """A classifier of a file, called with images; see `load_exported`.

    classes: N names. preprocessing: the size to which an original is resized ("resize", height and
    width) and what is cropped from its centre ("center_crop"), the dtype and range of images.
    metadata: all that the file says of itself.
    """

    def __init__(self, run: Callable[..., dict[str, Tensor]], metadata: dict[str, object]):
        self._run = run
        self.metadata = metadata
        self.classes: list[str] = metadata["classes"]
        self.preprocessing: dict = metadata["preprocessing"]

    @torch.no_grad()
    def __call__(self, images: Tensor, extents: Tensor | None = None) -> dict[str, Tensor]:
        """Probabilities and boxes of images, of any number.

        Args:
            images: (B,C,H,W), uint8 in 0..255 or float32 in [0,1] as `preprocessing` says, on the
                device that the file was exported for. extents: (B,2) int64, height and width of the
                image in the upper left corner of each, where `preprocessing` has a "canvas".

        Returns:
            raw, refined and mean (B,N) float32, probabilities; boxes (B,4) int32, x1 y1 x2 y2,
            half-open, in pixels of the network's input. Of a plain classifier raw alone.

        Raises:
            ValueError: images or extents of another dtype or shape.
        """
        wanted = getattr(torch, self.preprocessing["dtype"])
        canvas = self.preprocessing.get("canvas")
        size = (len(self.preprocessing["mode"]), *(canvas or self.preprocessing["center_crop"]))
        if images.dtype != wanted or images.dim() != 4 or images.shape[1:] != size:
            shape = ", ".join(map(str, size))
            raise ValueError(
                f"images must be (B, {shape}) of {wanted}, "
                f"but got {tuple(images.shape)} of {images.dtype}"
            )
        if canvas is None and extents is None:
            return self._run(images)
        if canvas is None or extents is None or extents.shape != (len(images), 2):
            wanted = "None" if canvas is None else f"({len(images)}, 2)"
            got = None if extents is None else tuple(extents.shape)
            raise ValueError(f"extents must be {wanted}, but got {got}")
        return self._run(images, extents)


def load_exported(path: str | Path) -> ExportedModel:
    """Load a .pt2 file of `wsdan export --format torch` or `--format aoti`.

    Load only files that you trust: one of AOTInductor holds machine code.

    Raises:
        FileNotFoundError: no such file. ValueError: a file that wsdan export did not write.
    """
    with open(path, "rb") as file:
        names = zipfile.ZipFile(file).namelist() if zipfile.is_zipfile(file) else []
    _ = ops  # registers the operators that the program calls
    if any(_COMPILED in f"/{name}" for name in names):
        run = torch._inductor.aoti_load_package(str(path))
        text = run.get_metadata().get(METADATA)
    elif any(name.endswith(METADATA) for name in names):
        extra = {METADATA: ""}
        run = torch.export.load(str(path), extra_files=extra).module()
        text = extra[METADATA]
    else:
        text = None
    if text is None:
        raise ValueError(f"{path}: was not written by wsdan export --format torch or aoti")
    return ExportedModel(run, json.loads(text))
