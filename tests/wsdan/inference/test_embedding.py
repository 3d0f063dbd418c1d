"""Features for retrieval, and their principal components."""

import numpy as np
import pytest
import torch
from exports import make_checkpoint

from wsdan import Classifier
from wsdan.inference.embedding import fit_pca, unit_norm


def classifier_of(path, method="wsdan") -> Classifier:
    options = {"image_size": 32, "num_attentions": 3, "method": method}
    return Classifier(make_checkpoint(path, ["a", "b"], **options))


@pytest.fixture(scope="module")
def images():
    generator = np.random.default_rng(0)
    return [generator.integers(256, size=(40, 40, 3), dtype=np.uint8) for _ in range(9)]


@pytest.mark.parametrize("method", ["wsdan", "baseline"])
def test_the_features_are_the_pooled_ones(method, images, tmp_path):
    classifier = classifier_of(tmp_path / "a.pt", method)
    found = classifier.embed(images, batch_size=4)
    inputs = classifier.inputs([classifier.read(image) for image in images])
    with torch.no_grad():
        expected = torch.nn.functional.normalize(classifier.model(inputs).pooled).numpy()
    assert found.shape == (9, classifier.model.classifier.in_features)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert np.array_equal(classifier.embed((image for image in images), batch_size=4), found)
    assert classifier.embed([]).shape == (0, found.shape[1])


def test_principal_components(images, tmp_path):
    classifier = classifier_of(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"^embed: dim must be .*none is fitted.*but got 4$"):
        classifier.embed(images, dim=4)
    pca = classifier.fit_embedding(images, dim=4)
    assert classifier.pca is pca
    found = classifier.embed(images, dim=4)
    assert found.shape == (9, 4) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    first = unit_norm((classifier.embed(images) - pca.mean) @ pca.components[:2].T)
    np.testing.assert_allclose(classifier.embed(images, dim=2), first, atol=1e-5)
    assert classifier.embed([], dim=2).shape == (0, 2)
    for dim in (0, 5):
        with pytest.raises(ValueError, match=r"\(4 are\), but got " + str(dim)):
            classifier.embed(images, dim=dim)
    with pytest.raises(TypeError, match="must be several images"):
        classifier.embed(images[0])


@pytest.mark.parametrize("shape", [(12, 30), (30, 12)])
def test_pca_is_that_of_the_singular_values(shape):
    features = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    features *= np.linspace(1, 3, shape[1], dtype=np.float32)
    pca = fit_pca(features, 5)
    centered = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    _, _, expected = np.linalg.svd(centered, full_matrices=False)
    cosines = (pca.components * expected[:5]).sum(axis=1)
    np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-5)
    assert (pca.components.max(axis=1) == np.abs(pca.components).max(axis=1)).all()
    assert all(map(np.array_equal, pca, fit_pca(features, 5)))


def test_dimensions_that_cannot_be_fitted():
    features = np.random.default_rng(0).normal(size=(6, 9)).astype(np.float32)
    for dim in (0, 6):
        with pytest.raises(ValueError, match=rf"in \[1, 5\] for 6 images .*but got {dim}$"):
            fit_pca(features, dim)
    with pytest.raises(ValueError, match="what varies"):
        fit_pca(np.repeat(features[:2], 3, axis=0), 3)
