"""A trained model with its classes and its preprocessing."""

import dataclasses
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, overload

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from wsdan.config import Config
from wsdan.data.transforms import Transform, box_in_original, eval_transform
from wsdan.data.zoom import Inputs, Large, network_inputs, packed
from wsdan.errors import UserError, shown
from wsdan.inference.embedding import PCA, Features, fit_pca, unit_norm
from wsdan.inference.evaluate import Prediction, pooled_features, predict_views
from wsdan.inference.inputs import ImageLike, is_single, named_images, read_image
from wsdan.inference.pretrained import (
    load_parts,
    pretrained_folder,
    save_parts,
    signature,
    upload_folder,
)
from wsdan.inference.results import Result, results_of
from wsdan.networks.folding import fold_batch_norms
from wsdan.networks.model import build_model, without_weights
from wsdan.precision import inference_precision, input_dtype

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Classifier:
    """A trained model with its classes and its preprocessing: `Classifier("best.pt")("bird.jpg")`.

    It takes images as they are, and does all of this itself: rotation by the EXIF orientation,
    conversion to RGB, resizing to a square of image_size / 0.875 pixels without keeping the
    aspect ratio, a center crop of image_size pixels (a model of the embedded dataset takes the
    whole image, resized to image_size), values in [0,1], ImageNet's mean and standard deviation.
    Its attribute `model`, a WSDAN, takes images (B,3,H,W) that are normalized so.

    `model` may be cast, as by `model.bfloat16()`: images are then read in its dtype.

    Args:
        checkpoint: last.pt or best.pt of a run, a folder of `save_pretrained`, or "hf:ID" or
            "hf:ID@REVISION" of Hugging Face's hub.
        device: a torch device; "auto" is the GPU where one can be used, else the CPU.
        raw_weights: load the trained weights even if the checkpoint has averaged ones (--ema).
        fold: fold the batch norms into the convolutions, see
            wsdan.networks.folding.fold_batch_norms: equal up to rounding, and faster. With
            fold=False `model` has the checkpoint's weights, under their names, and can be trained.

    Raises:
        UserError: a checkpoint that is missing, truncated or not from wsdan.
        ValueError: a device that torch does not know or that is not there.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        device: torch.device | str = "auto",
        *,
        raw_weights: bool = False,
        fold: bool = True,
    ) -> None:
        self.device = _device(device)
        parts = load_parts(checkpoint, raw_weights=raw_weights)
        precision = inference_precision(parts.config.precision, self.device)
        self.config: Config = dataclasses.replace(parts.config, precision=precision)
        self.classes: list[str] = parts.classes
        # All weights are in the checkpoint: nothing is downloaded.
        self.model = build_model(without_weights(self.config), len(self.classes))
        try:
            self.model.load_state_dict(parts.weights)
        except RuntimeError:
            raise UserError(f"checkpoint {checkpoint}: its weights do not fit its model") from None
        if fold:
            fold_batch_norms(self.model)
        self._source, self._raw_weights = parts.path, raw_weights
        self._signature = signature(parts.path)
        self.pca: PCA | None = None  # of `fit_embedding`
        self.model.to(self.device, memory_format=torch.channels_last).eval()

    @overload
    def __call__(
        self,
        images: str | Path | Image.Image | npt.NDArray[Any],
        *,
        top: int = ...,
        threshold: float = ...,
        batch_size: int = ...,
    ) -> Result: ...

    @overload
    def __call__(
        self, images: Tensor, *, top: int = ..., threshold: float = ..., batch_size: int = ...
    ) -> Result | list[Result]: ...

    @overload
    def __call__(
        self,
        images: Sequence[ImageLike],
        *,
        top: int = ...,
        threshold: float = ...,
        batch_size: int = ...,
    ) -> list[Result]: ...

    def __call__(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        top: int = 5,
        threshold: float = 0.0,
        batch_size: int = 16,
    ) -> Result | list[Result]:
        """Classify one image, or each of several.

        Args:
            images: one of these, in its own size, or a list that may mix them: a path; a PIL
                image; an array (H,W), (H,W,3) or (H,W,4); a tensor (3,H,W), (1,H,W) or (4,H,W).
                Arrays and tensors are uint8, or floats in [0,1]. A batch tensor (B,C,H,W) is a
                list of B.
            top: classes of each result, at least 1. threshold: in [0,1]; see Result.
            batch_size: images that pass the network at once.

        Returns a Result of one image, or a list of one for each.

        Raises:
            UserError: a file that is not a readable image.
            TypeError, ValueError: another kind, dtype or shape of image, floats out of [0,1], or
                a number out of its range.
        """
        if not is_single(images):
            several: Any = images
            return list(self.stream(several, top=top, threshold=threshold, batch_size=batch_size))
        _check_numbers(top, threshold, batch_size)
        return self._classify([(images, "images")], top, threshold)[0]

    def stream(
        self,
        images: Iterable[ImageLike],
        *,
        top: int = 5,
        threshold: float = 0.0,
        batch_size: int = 16,
    ) -> Iterator[Result]:
        """Like a call with a list, for images that do not fit in memory: takes any iterable, such
        as a generator, draws batch_size images at a time and yields their results."""
        _check_numbers(top, threshold, batch_size)
        return self._stream(named_images(images), top, threshold, batch_size)

    def _stream(
        self, named: Iterator[tuple[object, str]], top: int, threshold: float, batch_size: int
    ) -> Iterator[Result]:
        while batch := list(islice(named, batch_size)):
            yield from self._classify(batch, top, threshold)

    def _classify(
        self, batch: list[tuple[object, str]], top: int, threshold: float
    ) -> list[Result]:
        """The results of a batch of images with their names in messages."""
        originals = [self.read(image, name) for image, name in batch]
        prediction = self.predict(*self.prepared(originals))
        paths = [os.fspath(image) if _is_path(image) else None for image, _ in batch]
        sizes = [original.size for original in originals]
        results = self.results(prediction, paths, sizes, top=top, threshold=threshold)
        return [
            dataclasses.replace(result, _figure=partial(self._figure, image))
            for result, (image, _) in zip(results, batch, strict=True)
        ]

    def _figure(self, image: object, truth: str | None) -> "Figure":
        """The figure of `wsdan explain` for an image as it was given."""
        from wsdan.inference.explaining.explain import draw, explain  # which loads matplotlib

        return draw(explain(self, image, truth))

    def embed(
        self, images: Iterable[ImageLike], dim: int | None = None, *, batch_size: int = 16
    ) -> Features:
        """Features for retrieval: of similar images the dot product is near 1.

        Args:
            images: several, of the kinds that a call takes; a generator too.
            dim: None for the pooled features of the raw view, or the number of principal
                components that `fit_embedding` has found.
            batch_size: images that pass the network at once.

        Returns:
            (N,M*C) float32, (N,C) of a plain classifier, or (N,dim); rows have unit norm.

        Raises:
            As a call does; ValueError for a dim that was not fitted.
        """
        _check_numbers(1, 0.0, batch_size)
        if dim is not None and (self.pca is None or not 1 <= dim <= len(self.pca.components)):
            fitted = "none is fitted" if self.pca is None else f"{len(self.pca.components)} are"
            rule = f"at most the components of fit_embedding ({fitted})"
            raise ValueError(f"embed: dim must be {rule}, but got {dim}")
        pca = None if dim is None or self.pca is None else self.pca.first(dim)
        parts = []
        named = named_images(images)
        while batch := list(islice(named, batch_size)):
            inputs = self.inputs([self.read(image, name) for image, name in batch])
            pooled = pooled_features(self.model, self._on_device(inputs), self.config)
            features = unit_norm(pooled.cpu().numpy())
            parts.append(features if pca is None else pca.transform(features))
        width = self.model.classifier.in_features if dim is None else dim
        return np.concatenate([np.empty((0, width), np.float32), *parts])

    def fit_embedding(
        self, images: Iterable[ImageLike], dim: int = 512, *, batch_size: int = 16
    ) -> PCA:
        """Find the principal components of the features of these images, for `embed(..., dim)`.

        All features (N,M*C) are held in memory. The result is also the attribute `pca`, by which
        it can be set again; `save_pretrained` does not write it.

        Raises ValueError for a dim above N - 1 or M*C.
        """
        self.pca = fit_pca(self.embed(images, batch_size=batch_size), dim)
        return self.pca

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path,
        device: torch.device | str = "auto",
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
    ) -> "Classifier":
        """A classifier from a folder of `save_pretrained`, or from Hugging Face's hub.

        Args:
            path_or_hub_id: the folder, or a repository of the hub such as "user/birds".
            device: as of Classifier.
            revision, token, cache_dir: as huggingface_hub takes them; for the hub only.

        Raises:
            UserError: no such folder or repository, a hub that cannot be reached, files that are
                damaged or not from wsdan, or a missing extra (`pip install 'wsdan[hub]'`).
        """
        folder = pretrained_folder(
            path_or_hub_id, revision=revision, token=token, cache_dir=cache_dir
        )
        return cls(folder, device)

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write the classifier as a folder in the Hugging Face convention: config.json,
        model.safetensors, preprocessor_config.json and a model card, README.md.

        The weights are those it was loaded with, read again; so are the figures on the card, which
        the run measured with these weights. The settings are those of its `config` now. A
        classifier of the folder gives equal predictions, bit for bit.

        Raises:
            UserError: a checkpoint that changed since, a folder that holds such files already
                without `overwrite`, or that cannot be written; without safetensors.
        """
        if signature(self._source) != self._signature:
            raise UserError(f"{self._source} has changed since it was loaded; load it again")
        parts = load_parts(self._source, raw_weights=self._raw_weights)
        save_parts(parts, self.config, folder, overwrite)

    def push_to_hub(
        self,
        hub_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str = "wsdan classifier",
    ) -> str:
        """Upload what `save_pretrained` writes to a repository of Hugging Face's hub, which is made
        where there is none. Returns its address. Raises UserError."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload_folder(hub_id, folder, private, token, commit_message)

    @property
    def whole_image(self) -> bool:
        """Whether inputs are whole images, as in training on synthetic ones, or center crops."""
        return self.config.data == "synthetic"

    def read(self, image: object, name: str = "images") -> Image.Image:
        """The original image, upright, RGB or, for a model of four channels, RGBA. It takes what a
        call takes, and raises what it raises; `name` names the argument in messages."""
        rgba = self.config.in_channels == 4
        return read_image(image, self.config.max_pixels, rgba=rgba, name=name)

    def inputs(self, originals: list[Image.Image]) -> Tensor:
        """The network's inputs (B,C,H,W) of images from `read`, normalized, on the CPU, float32."""
        return self.prepared(originals).images

    def prepared(self, originals: list[Image.Image]) -> Inputs:
        """The network's inputs of images from `read`, on the CPU, and with --zoom what their views
        are cut from: the arguments of `predict`."""
        transform = self.transform()
        images = [transform(original) for original in originals]
        if transform.canvas is None:
            return Inputs(torch.stack(images))
        large = packed(images, transform.canvas)
        return Inputs(large.reduced(self.config.input_size, torch.float32), large)

    def transform(self) -> Transform:
        """From an image of `read` to the network's input; with --zoom to a larger image."""
        config = self.config
        return eval_transform(config.input_size, self.whole_image, config.in_channels, config.zoom)

    def predict(self, inputs: Tensor, large: Large | None = None) -> Prediction:
        """Probabilities, boxes and attention maps of inputs (B,C,H,W), on the model's device.

        large: what the refined views are cut from; without it, the inputs.
        """
        large = None if large is None else large.to(self.device)
        return predict_views(self.model, self._on_device(inputs), self.config, large)

    def predict_batch(self, images: Tensor, extents: Tensor | None) -> Prediction:
        """The same of a batch as a loader with `transform` gives it."""
        size, dtype = self.config.input_size, input_dtype(self.model)
        inputs = network_inputs(images, extents, size, self.device, dtype)
        return predict_views(self.model, inputs.images, self.config, inputs.large)

    def _on_device(self, inputs: Tensor) -> Tensor:
        return inputs.to(
            self.device,
            input_dtype(self.model),
            memory_format=torch.channels_last,
            non_blocking=True,
        )

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
        given = {"top": top, "threshold": threshold}
        return results_of(prediction, names, sizes, self.classes, self.config, **given)

    def box_in_original(self, box: list[int] | None, size: tuple[int, int]) -> list[int] | None:
        """A box x1 y1 x2 y2 of the network's input, in pixels of an original of `size` (width,
        height)."""
        if box is None:
            return None
        return box_in_original(box, size, self.config.input_size, self.whole_image)


def _device(device: torch.device | str) -> torch.device:
    """Raises ValueError."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        rule = 'must be "auto" or a torch device'
        raise ValueError(f"Classifier: device {rule}, but got {shown(device)}") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"Classifier: device must be there (`wsdan info`), but got {device}")
    return found


def _is_path(image: object) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(image, (str, os.PathLike))


def _check_numbers(top: int, threshold: float, batch_size: int) -> None:
    """Raises ValueError."""
    for name, value in (("top", top), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"Classifier: {name} must be at least 1, but got {value}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"Classifier: threshold must be in [0, 1], but got {threshold}")
