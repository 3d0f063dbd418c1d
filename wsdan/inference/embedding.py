"""Features for retrieval: pooled features of unit norm, and their principal components."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.float32]


class PCA(NamedTuple):
    """Principal components of features, strongest first: arrays that numpy can save.

    mean: (D,) float32. components: (dim,D) float32, orthonormal.
    """

    mean: Features
    components: Features

    def first(self, dim: int) -> "PCA":
        """The first components alone."""
        return PCA(self.mean, self.components[:dim])

    def transform(self, features: npt.NDArray[Any]) -> Features:
        """features (N,D) -> (N,dim) float32, of unit norm."""
        return unit_norm((np.asarray(features) - self.mean) @ self.components.T)


def unit_norm(features: npt.NDArray[Any]) -> Features:
    """features (N,D) divided by their norms; rows of zeros stay."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.where(norms > 0, norms, 1), dtype=np.float32)


def fit_pca(features: npt.NDArray[Any], dim: int) -> PCA:
    """The first `dim` principal components of features (N,D), exactly and without randomness.

    From the eigenvectors of the N x N or the D x D products, whichever are fewer, in float64. The
    largest entry of a component is positive, so that its sign is determined.

    Raises ValueError for a dim that is not in [1, min(N - 1, D)], or where the features vary in
    fewer directions.
    """
    count, width = features.shape
    most = min(count - 1, width)
    if not 1 <= dim <= most:
        rule = f"in [1, {most}] for {count} images of {width} features"
        raise ValueError(f"fit_embedding: dim must be {rule}, but got {dim}")
    mean = features.mean(axis=0, dtype=np.float64)
    centered = features - mean
    wide = width > count
    values, vectors = np.linalg.eigh(centered @ centered.T if wide else centered.T @ centered)
    if not values[-dim] > values[-1] * count * np.finfo(np.float64).eps:
        raise ValueError(f"fit_embedding: dim must be at most what varies, but got {dim}")
    strongest = vectors[:, ::-1][:, :dim].T
    components = strongest @ centered if wide else strongest
    components /= np.linalg.norm(components, axis=1, keepdims=True)
    largest = np.abs(components).argmax(axis=1)
    components *= np.sign(components[np.arange(dim), largest])[:, None]
    return PCA(mean.astype(np.float32), components.astype(np.float32))
