"""The prediction of both views, or of one, as a module from pixels to probabilities, and its
traced program."""

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from wsdan.config import Config
from wsdan.constants import NORMALIZATION
from wsdan.data.zoom import Inputs, Large, canvas_size, crop
from wsdan.inference.refinement import object_maps
from wsdan_kernels import attention_boxes

INPUTS = {"uint8": torch.uint8, "float": torch.float32}  # the choices of --input


class TwoViews(nn.Module):
    """Normalization, raw view, boxes, crop, refined view and their mean.

    forward: images (B,C,H,W), uint8 in 0..255 or float32 in [0,1] -> a dict of the probabilities
    raw, refined and mean (B,N) float32 and of boxes (B,4) int32, x1 y1 x2 y2, half-open, in pixels
    of the network's input. Where config.views is "raw", of raw and boxes; of a plain classifier,
    of raw. It computes in float32, as wsdan.inference.evaluate.predict_views without autocast.

    Of a model with a zoom the images are canvases (B,C,H',W'), with extents (B,2) int64; see
    wsdan.data.zoom.Large. The input is made of them; floats are first rounded to 8 bits.
    """

    def __init__(self, model: nn.Module, config: Config):
        super().__init__()
        self.model = model
        self.config = config
        device = next(model.parameters()).device
        mean, std = (
            torch.tensor(values, device=device)[:, None, None]
            for values in NORMALIZATION[config.in_channels]
        )
        self.register_buffer("pixel_mean", mean)
        self.register_buffer("pixel_std", std)

    def forward(self, images: Tensor, extents: Tensor | None = None) -> dict[str, Tensor]:
        inputs, large = self._inputs(images, extents)
        first = self.model(inputs)
        raw = F.softmax(first.logits, dim=1)
        if first.attentions is None:
            return {"raw": raw}
        maps, threshold = object_maps(first.attentions, self.config)
        how = {"threshold": threshold, "padding": self.config.refine_padding}
        if self.config.views == "raw":
            return {"raw": raw, "boxes": attention_boxes(maps, inputs.shape[2:], **how)}
        views, boxes = crop(inputs, maps, **how, large=large)
        second = self.model(views)
        refined = F.softmax(second.logits, dim=1)
        if self.config.final == "logits":
            mean = F.softmax((first.logits + second.logits) / 2, dim=1)
        else:
            mean = (raw + refined) / 2
        return {"raw": raw, "refined": refined, "mean": mean, "boxes": boxes}

    def _inputs(self, images: Tensor, extents: Tensor | None) -> Inputs:
        """The network's inputs (B,C,H,W), normalized."""
        if extents is not None:
            if images.dtype != torch.uint8:
                images = (images * 255).round().to(torch.uint8)
            large = Large(images, extents)
            return Inputs(large.reduced(self.config.input_size, torch.float32), large)
        if images.dtype == torch.uint8:
            images = images.to(torch.float32) / 255
        return Inputs((images - self.pixel_mean) / self.pixel_std)


def outputs_of(config: Config) -> tuple[str, ...]:
    """The names of the outputs of TwoViews, in their order."""
    if config.method == "baseline":
        return ("raw",)
    return ("raw", "boxes") if config.views == "raw" else ("raw", "refined", "mean", "boxes")


def traced(views: TwoViews, config: Config, dtype: torch.dtype) -> ExportedProgram:
    """The program of images of `dtype`, for any number of them."""
    device = views.pixel_mean.device
    canvas = canvas_size(config.image_size, config.zoom)
    images = torch.zeros((2, config.in_channels, *canvas), dtype=dtype, device=device)
    inputs = {"images": images}
    if config.zoom > 1:
        inputs["extents"] = torch.tensor([canvas] * 2, device=device)
    batch = Dim("batch", min=1)
    with torch.no_grad():
        return torch.export.export(
            views.eval(),
            tuple(inputs.values()),
            dynamic_shapes={name: {0: batch} for name in inputs},
        )


def given(inputs: Inputs, dtype: torch.dtype) -> dict[str, Tensor]:
    """Inputs of a Classifier as what the program takes, by name."""
    if inputs.large is None:
        return {"images": to_pixels(inputs.images, dtype)}
    pixels, extents = inputs.large
    pixels = pixels if dtype == torch.uint8 else pixels.to(dtype) / 255
    return {"images": pixels, "extents": extents}


def to_pixels(inputs: Tensor, dtype: torch.dtype) -> Tensor:
    """Normalized inputs (B,C,H,W) of a Classifier as the images that TwoViews takes.

    Exact for uint8 but for grey images, which are rounded to 256 levels.
    """
    mean, std = (
        torch.tensor(values, device=inputs.device)[:, None, None]
        for values in NORMALIZATION[inputs.shape[1]]
    )
    images = inputs * std + mean
    return (images * 255).round().to(torch.uint8) if dtype == torch.uint8 else images
