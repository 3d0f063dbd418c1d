"""How many programs share the positions of an image, on an H200's 132 multiprocessors."""

import pytest

from wsdan_kernels._triton import _tuning as tuning

MULTIPROCESSORS, STEPS = 132, 22  # steps: 676 positions in tiles of 32


@pytest.mark.parametrize(
    ("batch", "parts"), [(1, 8), (12, 8), (16, 8), (17, 4), (64, 2), (66, 2), (67, 1), (128, 1)]
)
def test_attend_is_split_where_all_parts_run_at_once(batch, parts):
    """A multiprocessor holds one program: a part that waits makes the others' saving its own."""
    enough = tuning.attend_enough(MULTIPROCESSORS)
    assert tuning.splits(batch, STEPS, enough) == parts
    assert parts == 1 or batch * parts <= MULTIPROCESSORS


@pytest.mark.parametrize(("batch", "parts"), [(12, 4), (44, 1), (128, 1)])
def test_pooling_is_split_until_the_gpu_is_filled_twice(batch, parts):
    programs = batch * 6  # blocks of 128 of 768 channels
    assert tuning.splits(programs, STEPS, tuning.FILL * MULTIPROCESSORS) == parts


def test_a_part_keeps_two_steps():
    assert tuning.splits(1, 7, 1000) == 2 and tuning.splits(1, 3, 1000) == 1
