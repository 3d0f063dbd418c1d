"""The prediction of both views, or of one, as a module from pixels to probabilities, and its
traced program."""

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from wsdan.config import Config
from wsdan.constants import NORMALIZATION
from wsdan.inference.refinement import object_maps
from wsdan_kernels import attention_boxes, attention_crop

INPUTS = {"uint8": torch.uint8, "float": torch.float32}  # the choices of --input


class TwoViews(nn.Module):
    """Normalization, raw view, boxes, crop, refined view and their mean.

    forward: images (B,C,H,W), uint8 in 0..255 or float32 in [0,1] -> a dict of the probabilities
    raw, refined and mean (B,N) float32 and of boxes (B,4) int32, x1 y1 x2 y2, half-open, in pixels
    of the images. Where config.views is "raw", of raw and boxes; of a plain classifier, of raw.
    It computes in float32, as wsdan.inference.evaluate.predict_views without autocast.
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

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        if images.dtype == torch.uint8:
            images = images.to(torch.float32) / 255
        inputs = (images - self.pixel_mean) / self.pixel_std
        first = self.model(inputs)
        raw = F.softmax(first.logits, dim=1)
        if first.attentions is None:
            return {"raw": raw}
        maps, threshold = object_maps(first.attentions, self.config)
        how = {"threshold": threshold, "padding": self.config.refine_padding}
        if self.config.views == "raw":
            return {"raw": raw, "boxes": attention_boxes(maps, inputs.shape[2:], **how)}
        views, boxes = attention_crop(inputs, maps, **how)
        second = self.model(views)
        refined = F.softmax(second.logits, dim=1)
        if self.config.final == "logits":
            mean = F.softmax((first.logits + second.logits) / 2, dim=1)
        else:
            mean = (raw + refined) / 2
        return {"raw": raw, "refined": refined, "mean": mean, "boxes": boxes}


def outputs_of(config: Config) -> tuple[str, ...]:
    """The names of the outputs of TwoViews, in their order."""
    if config.method == "baseline":
        return ("raw",)
    return ("raw", "boxes") if config.views == "raw" else ("raw", "refined", "mean", "boxes")


def traced(views: TwoViews, shape: tuple[int, int, int], dtype: torch.dtype) -> ExportedProgram:
    """The program of images (B,*shape) of `dtype`, for any B >= 1."""
    device = views.pixel_mean.device
    example = torch.zeros((2, *shape), dtype=dtype, device=device)
    with torch.no_grad():
        return torch.export.export(
            views.eval(), (example,), dynamic_shapes={"images": {0: Dim("batch", min=1)}}
        )


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
