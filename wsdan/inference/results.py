"""What a classifier says of one image."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsdan.config import Config
from wsdan.data.transforms import box_in_original
from wsdan.errors import printable
from wsdan.inference.evaluate import VIEWS, Prediction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNKNOWN = "unknown"  # the label of an image whose best score is below the threshold


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The prediction for one image.

    Its repr is short: `<Result bird.jpg: Laysan_Albatross 0.934, box 12 30 200 180>`.

    Args:
        image: its path, or None of an image that was given as data.
        size: width and height in pixels of the original image, upright.
        top: the best classes, best final score first: dicts of "class" and of the probability in
            each view, "raw" and, where there are more, "refined", "mean" and "tta".
        box: of the object, from which the refined view is cut, x1 y1 x2 y2 in pixels of the
            original image, half-open; None for a plain classifier.
        attention: (h,w) float32, the mean attention map of the network's input, at the resolution
            of its features; None for a plain classifier.
        threshold: a best score below it has the label "unknown".
    """

    image: str | None
    size: tuple[int, int]
    top: list[dict[str, Any]]
    box: list[int] | None
    attention: npt.NDArray[np.float32] | None
    threshold: float = 0.0
    _figure: Callable[[str | None], "Figure"] | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        name = "image" if self.image is None else self.image
        box = "" if self.box is None else ", box " + " ".join(map(str, self.box))
        return f"<Result {printable(f'{name}: {self.label}')} {self.score:.3f}{box}>"

    def __getstate__(self) -> dict[str, Any]:
        """A pickled result comes without its classifier, so it cannot be plotted."""
        return {**self.__dict__, "_figure": None}

    @property
    def label(self) -> str:
        """The best class, or "unknown" if its score is below the threshold or not finite."""
        best: str = self.top[0]["class"]
        return best if self.score >= self.threshold else UNKNOWN

    @property
    def score(self) -> float:
        """The final score in [0,1] of the best class: of the mean, or of the raw view where it is
        the only one. NaN where the network gave no finite number."""
        score: float = self.top[0].get("mean", self.top[0]["raw"])
        return score

    def plot(self, truth: str | None = None) -> "Figure":
        """A matplotlib figure of what the model looked at, that of `wsdan explain`.

        The image is read and classified again, by the classifier as it is now: a file must still be
        there. truth: the true class, which the title then says.

        Raises:
            UserError: a plain classifier, which has no attention; an image that is not there any
                more; a truth that is no class.
            ValueError: a result that did not come from calling a Classifier.
        """
        if self._figure is None:
            raise ValueError("Result.plot: only a result of a Classifier's call has its image")
        return self._figure(truth)

    def to_dict(self) -> dict[str, Any]:
        """A dict of JSON's types; scores that are not finite are None. Without the attention."""
        return {
            "image": self.image,
            "size": list(self.size),
            "label": self.label,
            "score": _finite(self.score),
            "top": [{key: _finite(value) for key, value in entry.items()} for entry in self.top],
            "box": self.box,
        }


def results_of(
    prediction: Prediction,
    names: list[str | None],
    sizes: list[tuple[int, int]],
    classes: list[str],
    config: Config,
    *,
    top: int = 5,
    threshold: float = 0.0,
) -> list[Result]:
    """The results of a batch of images whose originals have these names and sizes (width, height),
    with one transfer from the device for each part of the prediction.

    config: of the model and of how its inputs were made of the originals.
    """
    order = prediction.final.topk(min(top, len(classes)), dim=1).indices
    scores = {
        view: values.gather(1, order).float().tolist()
        for view in VIEWS
        if (values := getattr(prediction, view)) is not None
    }
    labels = order.tolist()
    boxes: list[list[int] | None] = [None] * len(names)
    maps: list[npt.NDArray[np.float32] | None] = [None] * len(names)
    if prediction.boxes is not None and prediction.attentions is not None:
        whole = config.data == "synthetic"
        maps = list(prediction.attentions.float().mean(dim=1).cpu().numpy())
        boxes = [
            box_in_original(box, size, config.input_size, whole)
            for box, size in zip(prediction.boxes.tolist(), sizes, strict=True)
        ]
    return [
        Result(
            image=names[i],
            size=sizes[i],
            top=[
                {"class": classes[label], **{view: scores[view][i][k] for view in scores}}
                for k, label in enumerate(labels[i])
            ],
            box=boxes[i],
            attention=maps[i],
            threshold=threshold,
        )
        for i in range(len(names))
    ]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
