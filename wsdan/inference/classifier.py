"""A trained model with its classes and its preprocessing."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wsdan.checkpoint import load_checkpoint
from wsdan.config import Config
from wsdan.data.images import BadImageError, load_image
from wsdan.data.transforms import box_in_original, eval_transform
from wsdan.errors import UserError
from wsdan.inference.evaluate import VIEWS, Prediction, predict_views
from wsdan.inference.results import Result
from wsdan.networks.model import build_model, without_weights
from wsdan.precision import input_dtype

ImageLike: TypeAlias = str | Path | Image.Image


class Classifier:
    """A trained model with its classes and its preprocessing: `Classifier("best.pt")("bird.jpg")`.

    It takes images as they are, and does all of this itself: rotation by the EXIF orientation of a
    file, conversion to RGB, resizing to a square of image_size / 0.875 pixels without keeping the
    aspect ratio, a center crop of image_size pixels (a model of the embedded dataset takes the
    whole image, resized to image_size), values in [0,1], ImageNet's mean and standard deviation.
    Its attribute `model`, a WSDAN, takes images (B,3,H,W) that are normalized so.

    `model` may be cast, as by `model.bfloat16()`: images are then read in its dtype.

    Args:
        checkpoint: last.pt or best.pt of a run. device: a torch device.
        raw_weights: load the trained weights even if the checkpoint has averaged ones (--ema).

    Raises:
        UserError: a checkpoint that is missing, truncated or not from wsdan.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        device: torch.device | str = "cpu",
        *,
        raw_weights: bool = False,
    ):
        state = load_checkpoint(checkpoint)
        self.device = torch.device(device)
        self.config: Config = state["config"]
        self.classes: list[str] = state["classes"]
        # All weights are in the checkpoint: nothing is downloaded.
        self.model = build_model(without_weights(self.config), len(self.classes))
        averaged = state.get("ema")
        try:
            self.model.load_state_dict(state["model"] if raw_weights or not averaged else averaged)
        except RuntimeError:
            raise UserError(f"checkpoint {checkpoint}: its weights do not fit its model") from None
        self.model.to(self.device, memory_format=torch.channels_last).eval()

    @overload
    def __call__(
        self, images: ImageLike, *, top: int = ..., threshold: float = ..., batch_size: int = ...
    ) -> Result: ...

    @overload
    def __call__(
        self,
        images: Sequence[ImageLike],
        *,
        top: int = ...,
        threshold: float = ...,
        batch_size: int = ...,
    ) -> list[Result]: ...

    def __call__(self, images, *, top=5, threshold=0.0, batch_size=16):
        """Classify one image, or each of a list.

        Args:
            images: a path, a PIL image, or a list of them.
            top: classes of each result. threshold: in [0,1]; see Result. batch_size: images that
                pass the network at once.

        Raises UserError for an unreadable image.
        """
        if isinstance(images, (str, Path, Image.Image)):
            return self([images], top=top, threshold=threshold)[0]
        results = []
        for start in range(0, len(images), batch_size):
            given = images[start : start + batch_size]
            originals = [self.read(image) for image in given]
            prediction = self.predict(self.inputs(originals))
            names = [str(image) if isinstance(image, (str, Path)) else None for image in given]
            sizes = [original.size for original in originals]
            results += self.results(prediction, names, sizes, top=top, threshold=threshold)
        return results

    @property
    def whole_image(self) -> bool:
        """Whether inputs are whole images, as in training on synthetic ones, or center crops."""
        return self.config.data == "synthetic"

    def read(self, image: ImageLike) -> Image.Image:
        """The original image, upright, RGB or, for a model of four channels, RGBA.

        Raises UserError for a file that is not a readable image.
        """
        if isinstance(image, Image.Image):
            return image.convert("RGBA" if self.config.in_channels == 4 else "RGB")
        try:
            return load_image(image, self.config.max_pixels, rgba=self.config.in_channels == 4)
        except BadImageError as error:
            raise UserError(str(error)) from None

    def inputs(self, originals: list[Image.Image]) -> Tensor:
        """The network's inputs (B,C,H,W) of images from `read`, normalized, on the CPU, float32."""
        transform = eval_transform(
            self.config.input_size, self.whole_image, self.config.in_channels
        )
        return torch.stack([transform(original) for original in originals])

    def predict(self, inputs: Tensor) -> Prediction:
        """Probabilities, boxes and attention maps of inputs (B,C,H,W), on the model's device."""
        inputs = inputs.to(
            self.device,
            input_dtype(self.model),
            memory_format=torch.channels_last,
            non_blocking=True,
        )
        return predict_views(self.model, inputs, self.config)

    def results(
        self,
        prediction: Prediction,
        names: list[str | None],
        sizes: list[tuple[int, int]],
        *,
        top: int = 5,
        threshold: float = 0.0,
    ) -> list[Result]:
        """The results of a batch, of images whose originals have these names and sizes (width,
        height): one transfer from the device for each part of the prediction."""
        order = prediction.final.topk(min(top, len(self.classes)), dim=1).indices
        scores = {
            view: values.gather(1, order).float().tolist()
            for view in VIEWS
            if (values := getattr(prediction, view)) is not None
        }
        labels = order.tolist()
        boxes, attentions = prediction.boxes, prediction.attentions
        boxes = [None] * len(names) if boxes is None else boxes.tolist()
        maps: list[np.ndarray | None] = [None] * len(names)
        if attentions is not None:
            maps = list(attentions.float().mean(dim=1).cpu().numpy())
        return [
            Result(
                image=names[i],
                size=sizes[i],
                top=[
                    {"class": self.classes[label], **{v: scores[v][i][k] for v in scores}}
                    for k, label in enumerate(labels[i])
                ],
                box=self.box_in_original(boxes[i], sizes[i]),
                attention=maps[i],
                threshold=threshold,
            )
            for i in range(len(names))
        ]

    def box_in_original(self, box: list[int] | None, size: tuple[int, int]) -> list[int] | None:
        """A box x1 y1 x2 y2 of the network's input, in pixels of an original of `size` (width,
        height)."""
        if box is None:
            return None
        return box_in_original(box, size, self.config.input_size, self.whole_image)
