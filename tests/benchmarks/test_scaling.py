"""What benchmarks/scaling.py says of memory and traffic is what a step holds and makes."""

import pytest
import scaling
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wsdan.config import Config
from wsdan.training.ema import ModelEma
from wsdan.training.optim import build_optimizer
from wsdan.training.step import build_step

CLASSES, DIM = 5000, 4 * 64


class Large(TorchDispatchMode):
    """Names the operators that return a new tensor of N*D elements or more."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        given = {item.data_ptr() for item in tree_leaves(args) if isinstance(item, torch.Tensor)}
        for item in tree_leaves(found):
            large = isinstance(item, torch.Tensor) and item.numel() >= CLASSES * DIM
            if large and item.data_ptr() not in given:
                self.names.append(func._schema.name.removeprefix("aten::"))
        return found


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_holds_what_the_formula_says(optimizer):
    found = scaling.held_bytes(300, optimizer)
    parts = scaling.head_bytes(300, DIM, optimizer)
    assert found == {name: parts[name] for name in found}


def test_only_the_classifiers_gradient_grows_with_the_classes():
    """Centers, their rollback and the average cost B*D a step, or what the classifier costs."""
    torch.manual_seed(0)
    model = scaling.small_model(CLASSES)
    config = Config("folder", ".", lr=1e-3).resolved()
    optimizer = build_optimizer(model, config)
    step, ema = build_step(model, optimizer, config), ModelEma(model, 0.5)
    batch = torch.rand(4, 3, 16, 16), torch.arange(4), torch.rand(4, 4)
    step(*batch)  # the first one makes the optimizer's state
    with Large() as mode:
        results = step(*batch)
    products = [name for name in mode.names if name == "mm"]
    assert len(products) == 3 and set(mode.names) <= {"mm", "add"}  # of three views, added up
    with Large() as mode:
        ema.update(results["finite"])
    assert mode.names == ["_foreach_sub"]  # of the classifier's weight, not of the centers


def test_bytes_that_ranks_exchange():
    """Ring algorithms: all but its own share of what is gathered, twice that of what is summed."""
    found = scaling.exchanged_bytes(200, 24_576, 16, 2)
    assert found["gather"] == 16 * (4 * 24_576 + 8)
    assert found["reduce"] == 4 * (scaling.BACKBONE + 200 * 24_576 + 200)
    many = scaling.exchanged_bytes(200, 24_576, 16, 1024)
    assert many["gather"] == 1023 * found["gather"] and many["reduce"] < 2 * found["reduce"]


def test_loading_follows_from_the_recorded_rates():
    slow, fast = scaling.loading_rows()[0], scaling.loading_rows()[2]
    assert fast["cores_jpeg"] == pytest.approx(10 * slow["cores_jpeg"])
    assert slow["cores_cached"] < slow["cores_jpeg"]
