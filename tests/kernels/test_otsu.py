"""Otsu's threshold of attention maps, against every cut counted out."""

import pytest
import torch

from wsdan_kernels import attention_refine, otsu_thresholds

NAN, INF = float("nan"), float("inf")


def maps(*shape: int, dtype=torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) ** 3


def counted(values: list[float]) -> float:
    """The threshold of one map, as a share of its peak: the best of all its cuts."""
    values = sorted(values, reverse=True)
    best, share = -1.0, 0.0
    for n in range(1, len(values)):
        above, below = values[:n], values[n:]
        gap = sum(above) / n - sum(below) / len(below)
        variance = n * len(below) * gap**2
        if variance > best * (1 + 1e-12):
            best, share = variance, (above[-1] + below[0]) / 2 / values[0]
    return share


@pytest.mark.parametrize("shape", [(5, 7, 7), (3, 4, 9), (2, 1, 2), (0, 3, 3)])
def test_the_best_of_all_cuts(shape):
    given = maps(*shape)
    expected = [counted(values) for values in given.flatten(1).tolist()]
    found = otsu_thresholds(given)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_two_levels_are_parted_half_way():
    given = torch.full((1, 8, 8), 0.2)
    given[:, 2:5, 3:6] = 1.0
    assert otsu_thresholds(given).tolist() == pytest.approx([0.6])
    images = torch.zeros(1, 3, 8, 8)
    _, boxes = attention_refine(images, given[None], threshold=otsu_thresholds(given), padding=0)
    assert boxes.tolist() == [[3, 2, 5, 4]]  # half-open, the last row and column outside


@pytest.mark.parametrize("scale", [1e-30, 0.25, 1e30])
def test_the_scale_of_a_map_does_not_matter(scale):
    given = maps(4, 6, 6, dtype=torch.float32)
    torch.testing.assert_close(otsu_thresholds(given * scale), otsu_thresholds(given))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_computed_in_float32(dtype):
    given = maps(4, 26, 26).to(dtype)
    found = otsu_thresholds(given)
    assert found.dtype == torch.float32
    assert torch.equal(found, otsu_thresholds(given.float()))


def test_a_map_without_two_parts_gives_the_whole_image():
    given = maps(7, 5, 5, dtype=torch.float32)
    given[0], given[1], given[2] = 0, 0.3, -given[2]
    given[3, 1, 2], given[4, 0, 0], given[5, 0, 0] = NAN, INF, -INF
    thresholds = otsu_thresholds(given)
    assert thresholds[:6].tolist() == [0.0] * 6
    assert 0 < thresholds[6] < 1
    images = torch.zeros(7, 3, 20, 30)
    _, boxes = attention_refine(images, given[:, None], threshold=thresholds, padding=0.05)
    assert boxes[[0, 1, 3]].tolist() == [[0, 0, 30, 20]] * 3
    assert otsu_thresholds(torch.rand(2, 1, 1)).tolist() == [0.0, 0.0]


def test_wrong_maps_are_refused():
    with pytest.raises(ValueError, match=r"otsu_thresholds: maps must be of shape \(B, h, w\)"):
        otsu_thresholds(torch.rand(2, 3, 4, 5))
    with pytest.raises(TypeError, match="otsu_thresholds: maps must be"):
        otsu_thresholds(torch.ones(2, 3, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="otsu_thresholds: maps must"):
        otsu_thresholds(torch.rand(2, 0, 4))


def test_no_gradient_and_no_wait_for_the_device():
    given = maps(2, 4, 4).requires_grad_()
    assert not otsu_thresholds(given).requires_grad
    with torch.device("meta"):  # whatever reads a value fails there
        assert otsu_thresholds(torch.rand(3, 4, 4)).shape == (3,)
