"""Classifying pictures with a checkpoint."""

from pathlib import Path

import torch
from torch import Tensor

from wsdan.checkpoint import load_checkpoint
from wsdan.config import Config
from wsdan.data.pictures import BadPictureError, load_picture
from wsdan.data.transforms import box_in_picture, eval_transform
from wsdan.errors import UserError
from wsdan.evaluate import VIEWS, Prediction, predict_views
from wsdan.model import build_model, without_weights


class Classifier:
    """A trained model with its classes and its preprocessing.

    Args:
        checkpoint: last.pt or best.pt of a run. device: a torch device.

    Raises:
        UserError: a checkpoint that is missing, truncated or not ours.
    """

    def __init__(self, checkpoint: str | Path, device: torch.device | str = "cpu"):
        state = load_checkpoint(checkpoint)
        self.device = torch.device(device)
        self.config: Config = state["config"]
        self.classes: list[str] = state["classes"]
        # The weights come from the checkpoint, none are fetched.
        self.model = build_model(without_weights(self.config), len(self.classes))
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError:
            raise UserError(f"checkpoint {checkpoint}: its weights do not fit its model") from None
        self.model.to(self.device, memory_format=torch.channels_last).eval()

    @property
    def sees_whole(self) -> bool:
        """Whether pictures are shown whole, as the embedded ones, or by their centre."""
        return self.config.data == "synthetic"

    def predict(self, path: str | Path, top: int = 5) -> dict:
        """Classify one picture.

        Returns a dict: "image"; "size" [width, height]; "top", a list of up to `top` dicts "class",
        "raw", "refined", "mean" (probabilities), best mean first; "box", where the model looked
        again, x1 y1 x2 y2 in the picture's pixels, or None for a plain classifier.

        Raises UserError for an unreadable picture.
        """
        try:
            picture = load_picture(path)
        except BadPictureError as error:
            raise UserError(str(error)) from None
        size = self.config.image_size
        image = eval_transform(size, self.sees_whole)(picture)[None].to(self.device)
        prediction = predict_views(self.model, image, self.config)
        box = None
        if prediction.boxes is not None:
            box = box_in_picture(prediction.boxes[0].tolist(), picture.size, size, self.sees_whole)
        return {
            "image": str(path),
            "size": list(picture.size),
            "top": self._best(prediction, top),
            "box": box,
        }

    def _best(self, prediction: Prediction, top: int) -> list[dict]:
        scores: dict[str, Tensor] = {
            view: values[0] for view in VIEWS if (values := getattr(prediction, view)) is not None
        }
        final = scores.get("mean", scores["raw"])
        order = final.topk(min(top, len(self.classes))).indices.tolist()
        return [
            {"class": self.classes[label], **{view: float(s[label]) for view, s in scores.items()}}
            for label in order
        ]


def prediction_text(result: dict) -> str:
    """A prediction for the terminal."""
    lines = [f"{result['image']} ({result['size'][0]} x {result['size'][1]})"]
    views = [view for view in VIEWS if view in result["top"][0]]
    width = max(len(entry["class"]) for entry in result["top"])
    lines.append("  " + " " * width + "".join(f"{view:>10}" for view in views))
    for entry in result["top"]:
        row = "".join(f"{100 * entry[view]:8.1f} %" for view in views)
        lines.append(f"  {entry['class']:<{width}}{row}")
    if result["box"] is not None:
        x1, y1, x2, y2 = result["box"]
        lines.append(f"  object: x {x1} to {x2}, y {y1} to {y2}")
    return "\n".join(lines)
