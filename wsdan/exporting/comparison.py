"""An exported model beside the one it was made of: differences, and accuracy."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

from wsdan.config import Config
from wsdan.constants import NORMALIZATION
from wsdan.data.loaders import Batch
from wsdan.exporting.graph import to_pixels
from wsdan.inference.classifier import Classifier
from wsdan.inference.evaluate import NoImagesError, count_bad, predict_views

Run = Callable[[Tensor], dict[str, Tensor]]  # images -> outputs by name, as TwoViews
SIZES = (1, 3)  # of the batches to compare; none is the one that was traced
LARGEST = 1e-3  # of a difference in probabilities, beyond which a file is not written
PROBABILITIES = ("raw", "refined", "mean")


@dataclasses.dataclass
class Difference:
    """How an exported model differs on some images.

    probability: the largest, of images with the same box. boxes: images whose box differs, by
    edges at most `edge` pixels apart. images: of all.
    """

    images: int = 0
    probability: float = 0.0
    boxes: int = 0
    edge: int = 0

    def add(self, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
        """Add a batch of outputs, on the CPU."""
        same = torch.ones(len(expected["raw"]), dtype=torch.bool)
        if "boxes" in expected:
            edges = (found["boxes"] - expected["boxes"]).abs().amax(dim=1)
            same = edges == 0
            self.boxes += int((~same).sum())
            self.edge = max(self.edge, int(edges.max()))
        self.images += len(same)
        for view in PROBABILITIES:
            if view in expected:
                rows = slice(None) if view == "raw" else same
                gap = (found[view] - expected[view])[rows].abs().nan_to_num(torch.inf)
                self.probability = max(self.probability, *gap.flatten().tolist(), 0.0)


def ours(classifier: Classifier, inputs: Tensor) -> dict[str, Tensor]:
    """The classifier's own outputs of normalized inputs, in float32, on the CPU."""
    config = dataclasses.replace(classifier.config, precision="fp32", tta=False)
    prediction = predict_views(classifier.model, inputs.to(classifier.device), config)
    values = {name: getattr(prediction, name) for name in (*PROBABILITIES, "boxes")}
    return {name: value.cpu() for name, value in values.items() if value is not None}


def on_cpu(run: Run, images: Tensor, classifier: Classifier) -> dict[str, Tensor]:
    """The outputs of an exported model, of images from the CPU, there again."""
    return {name: value.cpu() for name, value in run(images.to(classifier.device)).items()}


def compare(classifier: Classifier, run: Run, dtype: torch.dtype) -> Difference:
    """The difference on random images without sharp edges, in batches of SIZES."""
    config, difference = classifier.config, Difference()
    generator = torch.Generator().manual_seed(0)
    for size in SIZES:
        coarse = torch.randn((size, config.in_channels, 9, 9), generator=generator)
        smooth = F.interpolate(coarse, config.input_size, mode="bilinear", align_corners=True)
        images = to_pixels(smooth, dtype)
        inputs = transforms.to_dtype(images, torch.float32, scale=True)
        inputs = transforms.normalize(inputs, *NORMALIZATION[config.in_channels])
        difference.add(on_cpu(run, images, classifier), ours(classifier, inputs))
    return difference


def accuracies(
    runs: dict[str, Run], batches: Iterable[Batch], config: Config
) -> dict[str, dict[str, float]]:
    """Top-1 accuracy in percent of each view of several models, whose outputs are on the CPU.

    runs: by name, of normalized inputs. Raises UserError for an unreadable image, or for none.
    """
    right, total = {name: Counter() for name in runs}, 0
    for batch in batches:
        count_bad(batch, config)
        total += len(batch.labels)
        for name, run in runs.items():
            for view, values in run(batch.images).items() if len(batch.labels) else ():
                if view in PROBABILITIES:
                    right[name][view] += int((values.argmax(1) == batch.labels).sum())
    if total == 0:
        raise NoImagesError("no readable image to evaluate on")
    return {
        name: {view: 100 * count / total for view, count in views.items()}
        for name, views in right.items()
    }
