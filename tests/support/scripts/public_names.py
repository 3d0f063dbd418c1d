"""A user's script with every public name, which mypy checks under --strict: it is not run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

import wsdan_kernels
from wsdan import WSDAN, Classifier, Config, Result, evaluate, train, wsdan_objective
from wsdan_kernels import (
    BackendUnavailableError,
    BilinearAttentionPool,
    ExportedModel,
    FeatureCenters,
    attend_and_pool,
    attention_boxes,
    attention_crop,
    attention_crop_drop,
    attention_drop,
    attention_refine,
    attention_swap,
    available,
    bilinear_attention_pool,
    center_loss,
    crop_resize,
    explain,
    load_exported,
    otsu_thresholds,
    sample_attention,
    update_centers_,
)


def classify(classifier: Classifier) -> None:
    one: Result = classifier("bird.jpg")
    also: Result = classifier(Path("bird.jpg"), top=3, threshold=0.5)
    image: Result = classifier(Image.new("RGB", (4, 4)))
    array: Result = classifier(np.zeros((4, 4, 3), np.uint8))
    several: list[Result] = classifier(["bird.jpg", Image.new("RGB", (4, 4))], batch_size=2)
    either: Result | list[Result] = classifier(torch.zeros(3, 4, 4))
    stream: Iterator[Result] = classifier.stream(Path().glob("*.jpg"))
    label: str = one.label
    score: float = also.score
    top: list[dict[str, Any]] = image.top
    box: list[int] | None = array.box
    attention: npt.NDArray[np.float32] | None = several[0].attention
    as_json: dict[str, Any] = next(stream).to_dict()
    size: tuple[int, int] = one.size
    one.plot().savefig("bird.png")
    print(either, label, score, top, box, attention, as_json, size)


def keep(classifier: Classifier) -> None:
    classifier.save_pretrained("saved", overwrite=True)
    address: str = classifier.push_to_hub("user/birds", private=True)
    loaded: Classifier = Classifier.from_pretrained("user/birds", "cpu", revision="main")
    features: npt.NDArray[np.float32] = loaded.embed(["bird.jpg"])
    classifier.fit_embedding(Path().glob("*.jpg"), dim=16)
    small: npt.NDArray[np.float32] = classifier.embed(["bird.jpg"], dim=16)
    print(address, features, small)


def learn(images: torch.Tensor, labels: torch.Tensor) -> None:
    model = WSDAN("resnet50", num_classes=200, num_attentions=32)
    losses: dict[str, torch.Tensor] = wsdan_objective(model, images, labels)
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    config: Config = Config(data="folder", root="birds").resolved()
    folder, metrics = train(config)
    best: Path = folder / "best.pt"
    accuracy: float = metrics["mean"]
    print(best, accuracy, evaluate(model, [], config, torch.device("cpu")).metrics["mean"])


def operators(features: torch.Tensor, attentions: torch.Tensor, images: torch.Tensor) -> None:
    pooled: torch.Tensor = bilinear_attention_pool(features, attentions)
    thresholds: torch.Tensor = otsu_thresholds(attentions.mean(1))
    views, boxes = attention_refine(images, attentions, threshold=thresholds)
    sizes: tuple[torch.Size, torch.Size] = views.shape, boxes.shape
    layer = BilinearAttentionPool()
    centers = FeatureCenters(200, 64)
    print(pooled.shape, sizes, layer, centers, available(), wsdan_kernels.__version__)
    print(explain("bilinear_attention_pool"), BackendUnavailableError)
    print(attend_and_pool, attention_boxes, attention_crop, attention_crop_drop, attention_drop)
    exported: ExportedModel = load_exported("birds.pt2")
    swapped: torch.Tensor = attention_swap(images, boxes, torch.tensor([1, 0]))
    print(swapped, exported, center_loss, crop_resize, sample_attention, update_centers_)
