"""`wsdan predict` from files, beside the network alone and loading alone: images a second.

python benchmarks/predict_bench.py [--backbone NAME] [--image-size S] [--batch B] [--workers N]
JPEG files of 500 x 375 pixels, made here. "network" passes the same batches, loaded before, through
both views; "loading" reads, decodes and resizes the files and does no more; "predict" is what the
command does, but for printing: its share of "network" is what files cost. All of a repeat run one
after the other; the figures are medians. The weights are random. With fewer free cores than the
network and --workers have threads, they take from each other.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from data_bench import make_tree

from wsdan.checkpoint import save_checkpoint
from wsdan.config import Config
from wsdan.data.sources import Listing
from wsdan.data.stream import rank_batches, stream_loader
from wsdan.data.transforms import eval_transform
from wsdan.inference.classifier import Classifier
from wsdan.inference.predict import predictions
from wsdan.networks.model import build_model, without_weights

CLASSES = 200


def classifier_of(options: argparse.Namespace, folder: Path) -> Classifier:
    """An untrained one, read from a checkpoint as the command does."""
    config = Config(
        data="folder", root=".", backbone=options.backbone, image_size=options.image_size
    ).resolved()
    names = [str(label) for label in range(CLASSES)]
    state = {"model": build_model(without_weights(config), CLASSES).state_dict()}
    save_checkpoint(folder / "a.pt", config, names, state)
    return Classifier(folder / "a.pt", options.device)


def works(
    classifier: Classifier, folder: Path, options: argparse.Namespace
) -> dict[str, Callable[[], int]]:
    """What is timed, by name; each returns the number of its images."""
    config = classifier.config

    def loader():
        transform = eval_transform(config.input_size, False, config.in_channels)
        batches = rank_batches(Listing([str(folder)]), options.batch)
        return stream_loader(
            batches, transform, config.max_pixels, options.workers, classifier.device
        )

    loaded = list(loader())

    def network() -> int:
        for batch in loaded:
            classifier.predict(batch.images)
        if classifier.device.type == "cuda":
            torch.cuda.synchronize()
        return sum(len(batch.sources) for batch in loaded)

    def predict() -> int:
        found = predictions(
            classifier,
            Listing([str(folder)]),
            batch_size=options.batch,
            workers=options.workers,
        )
        return sum(map(len, found))

    def loading() -> int:
        return sum(len(batch.sources) for batch in loader())

    return {"network": network, "loading": loading, "predict": predict}


def rates(timed: dict[str, Callable[[], int]], repeats: int) -> dict[str, float]:
    """Images a second of each, the median of the repeats."""
    found: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(repeats):
        for name, work in timed.items():
            start = time.perf_counter()
            images = work()
            found[name].append(images / (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in found.items()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--image-size", type=int, default=448)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        make_tree(Path(folder), options.images)
        classifier = classifier_of(options, Path(folder))
        found = rates(works(classifier, Path(folder), options), options.repeats)
    for name, rate in found.items():
        print(f"{name:<8} {rate:8.1f} images/s {rate / found['network']:6.2f} of the network")


if __name__ == "__main__":
    main()
