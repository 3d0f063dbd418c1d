"""Classifying images with a checkpoint."""

import json
import math
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from wsdan.checkpoint import load_checkpoint
from wsdan.config import Config
from wsdan.data.images import BadImageError, load_image
from wsdan.data.transforms import box_in_original, eval_transform
from wsdan.errors import UserError, printable
from wsdan.files import written_whole
from wsdan.inference.evaluate import VIEWS, Prediction, predict_views
from wsdan.inference.figures import captioned, view_grid
from wsdan.networks.model import build_model, without_weights
from wsdan.precision import input_dtype


class Classifier:
    """A trained model with its classes and its preprocessing.

    `predict` takes an image file as it is, and does all of this itself: rotation by its EXIF
    orientation, conversion to RGB, resizing to a square of image_size / 0.875 pixels without
    keeping the aspect ratio, a center crop of image_size pixels (a model of the embedded dataset
    takes the whole image, resized to image_size), values in [0,1], ImageNet's mean and standard
    deviation. Its attribute `model`, a WSDAN, takes images (B,3,H,W) that are normalized so.

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

    @property
    def whole_image(self) -> bool:
        """Whether inputs are whole images, as in training on synthetic ones, or center crops."""
        return self.config.data == "synthetic"

    def predict(self, path: str | Path, top: int = 5) -> dict:
        """Classify one image.

        Returns a dict: "image"; "size" [width, height]; "top", a list of up to `top` dicts "class",
        "raw", "refined", "mean" and, in a run with --tta, "tta" (probabilities), best mean first;
        "box", of the refined view, x1 y1 x2 y2 in pixels of the original image, or None for a plain
        classifier.

        Raises UserError for an unreadable image.
        """
        original, inputs = self._read(path)
        prediction = predict_views(self.model, inputs, self.config)
        box, size = None, self.config.input_size
        if prediction.boxes is not None:
            box = box_in_original(
                prediction.boxes[0].tolist(), original.size, size, self.whole_image
            )
        return {
            "image": str(path),
            "size": list(original.size),
            "top": self._top(prediction, top),
            "box": box,
        }

    def save_figure(self, path: str | Path, figure: Path, result: dict) -> None:
        """Save the views of an image, captioned by its prediction; adds "figure" to the result.

        Raises UserError for an unreadable image, or if the figure cannot be written.
        """
        _, inputs = self._read(path)
        best = result["top"][:3]
        score = "mean" if "mean" in best[0] else "raw"
        text = ", ".join(
            f"{printable(entry['class'])} {100 * entry[score]:.1f} %" for entry in best
        )
        try:
            with written_whole(figure, "wb") as file:
                captioned(view_grid(self.model, inputs, self.config), text).save(file, "PNG")
        except OSError as error:
            raise UserError(f"--figure: cannot write {figure}: {error.strerror}") from None
        result["figure"] = str(figure)

    def _read(self, path: str | Path) -> tuple[Image.Image, Tensor]:
        """The original image, and the network's input (1,C,H,W). Raises UserError."""
        channels = self.config.in_channels
        try:
            original = load_image(path, self.config.max_pixels, rgba=channels == 4)
        except BadImageError as error:
            raise UserError(str(error)) from None
        inputs = eval_transform(self.config.input_size, self.whole_image, channels)(original)
        return original, inputs[None].to(self.device, input_dtype(self.model))

    def _top(self, prediction: Prediction, top: int) -> list[dict]:
        scores: dict[str, Tensor] = {
            view: values[0] for view in VIEWS if (values := getattr(prediction, view)) is not None
        }
        order = prediction.final[0].topk(min(top, len(self.classes))).indices.tolist()
        return [
            {"class": self.classes[label], **{view: float(s[label]) for view, s in scores.items()}}
            for label in order
        ]


def figure_paths(images: list[str], folder: str) -> list[Path]:
    """The path folder/NAME.png for each image NAME.*; creates the folder.

    Raises UserError for two images with the same name, a figure that would replace one of the
    images, or a folder that cannot be created.
    """
    names = [Path(image).stem for image in images]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"--figure: the images must have different names; got {twice!r} twice")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--figure: cannot make the folder {folder}: {error.strerror}") from None
    figures = [Path(folder) / f"{name}.png" for name in names]
    sources = {Path(image).resolve() for image in images}
    replaced = next((figure for figure in figures if figure.resolve() in sources), None)
    if replaced is not None:
        raise UserError(f"--figure: its {replaced} would replace an image; name another folder")
    return figures


def prediction_json(result: dict) -> str:
    """A prediction as a JSON object; scores that are not finite are null."""
    scores = [
        {key: None if key != "class" and not math.isfinite(value) else value
         for key, value in entry.items()}
        for entry in result["top"]
    ]  # fmt: skip
    return json.dumps({**result, "top": scores})


def prediction_text(result: dict) -> str:
    """A prediction as text for the terminal."""
    lines = [f"{printable(result['image'])} ({result['size'][0]} x {result['size'][1]})"]
    views = [view for view in VIEWS if view in result["top"][0]]
    names = [printable(entry["class"]) for entry in result["top"]]
    width = max(len(name) for name in names)
    lines.append("  " + " " * width + "".join(f"{view:>10}" for view in views))
    for name, entry in zip(names, result["top"], strict=True):
        row = "".join(f"{100 * entry[view]:8.1f} %" for view in views)
        lines.append(f"  {name:<{width}}{row}")
    if result["box"] is not None:
        x1, y1, x2, y2 = result["box"]
        lines.append(f"  object: x {x1} to {x2}, y {y1} to {y2}")
    if "figure" in result:
        lines.append(f"  figure: {printable(result['figure'])}")
    return "\n".join(lines)
