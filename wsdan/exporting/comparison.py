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
from wsdan.data.zoom import Inputs, Large, canvas_size
from wsdan.exporting.graph import given, to_pixels
from wsdan.inference.classifier import Classifier
from wsdan.inference.evaluate import NoImagesError, count_bad, predict_views

Run = Callable[..., dict[str, Tensor]]  # images and extents -> outputs by name, as TwoViews
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


def ours(classifier: Classifier, inputs: Inputs) -> dict[str, Tensor]:
    """The classifier's own outputs, in float32, on the CPU."""
    config = dataclasses.replace(classifier.config, precision="fp32", tta=False)
    images, large = inputs.images.to(classifier.device), inputs.large
    large = None if large is None else large.to(classifier.device)
    prediction = predict_views(classifier.model, images, config, large)
    values = {name: getattr(prediction, name) for name in (*PROBABILITIES, "boxes")}
    return {name: value.cpu() for name, value in values.items() if value is not None}


def on_cpu(run: Run, inputs: dict[str, Tensor], classifier: Classifier) -> dict[str, Tensor]:
    """The outputs of an exported model, of inputs from the CPU, there again."""
    found = run(*(value.to(classifier.device) for value in inputs.values()))
    return {name: value.cpu() for name, value in found.items()}


def compare(classifier: Classifier, run: Run, dtype: torch.dtype) -> Difference:
    """The difference on random images without sharp edges, in batches of SIZES."""
    config, difference = classifier.config, Difference()
    generator = torch.Generator().manual_seed(0)
    for size in SIZES:
        inputs = _smooth(config, size, dtype, generator)
        difference.add(on_cpu(run, given(inputs, dtype), classifier), ours(classifier, inputs))
    return difference


def _smooth(config: Config, count: int, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    """Random images without sharp edges; with a zoom, of several sizes."""
    coarse = torch.randn((count, config.in_channels, 9, 9), generator=generator)
    canvas = canvas_size(config.image_size, config.zoom)
    smooth = F.interpolate(coarse, canvas, mode="bilinear", align_corners=True)
    if config.zoom > 1:
        height, width = config.input_size
        rows = [(canvas[0], canvas[1]), (height, canvas[1]), (height, width)][:count]
        large = Large(to_pixels(smooth, torch.uint8), torch.tensor(rows))
        return Inputs(large.reduced(config.input_size, torch.float32), large)
    images = to_pixels(smooth, dtype)
    inputs = transforms.to_dtype(images, torch.float32, scale=True)
    return Inputs(transforms.normalize(inputs, *NORMALIZATION[config.in_channels]))


def accuracies(
    runs: dict[str, Callable[[Inputs], dict[str, Tensor]]], batches: Iterable[Batch], config: Config
) -> dict[str, dict[str, float]]:
    """Top-1 accuracy in percent of each view of several models, whose outputs are on the CPU.

    runs: by name, of the network's inputs. Raises UserError for an unreadable image, or for none.
    """
    right, total = {name: Counter() for name in runs}, 0
    for batch in batches:
        count_bad(batch, config)
        total += len(batch.labels)
        for name, run in runs.items():
            found = run(batch.inputs(config, torch.device("cpu"))) if len(batch.labels) else {}
            for view, values in found.items():
                if view in PROBABILITIES:
                    right[name][view] += int((values.argmax(1) == batch.labels).sum())
    if total == 0:
        raise NoImagesError("no readable image to evaluate on")
    return {
        name: {view: 100 * count / total for view, count in views.items()}
        for name, views in right.items()
    }
