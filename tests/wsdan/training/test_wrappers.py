"""The objective on a model in torch's wrappers, in one process and in two ranks."""

import pytest
import torch
from ranks import run_ranks
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from wsdan.networks.backbones import Backbone
from wsdan.networks.model import WSDAN, unwrapped
from wsdan.training.objective import wsdan_objective

BATCH, STEPS = 4, 2
OPTIONS = {"counterfactual": 1.0, "joint_views": True}


def without_batch_norm() -> WSDAN:
    """In float64, so that rounding moves no box; the images of a batch do not affect each other."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2), nn.ReLU()]
    backbone = Backbone(nn.Sequential(*layers), channels=12, stride=4)
    return WSDAN(backbone, num_classes=3, num_attentions=4, attention="slice").double().train()


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, labels and uniforms of a step."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randn((BATCH, 3, 40, 40), generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (BATCH,), generator=generator)
    return images, labels, torch.rand((BATCH, 4), generator=generator)


def trained(model: nn.Module, rank: int = 0, world_size: int = 1, **options) -> nn.Module:
    """The model inside, after STEPS steps on this rank's share of the batches."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for step in range(STEPS):
        images, labels, uniforms = (x.chunk(world_size)[rank] for x in batch(step))
        losses = wsdan_objective(model, images, labels, uniforms=uniforms, **options)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    return unwrapped(model)


def assert_same(found: nn.Module, expected: dict[str, torch.Tensor]) -> None:
    for name, value in found.state_dict().items():
        value = value.full_tensor() if hasattr(value, "full_tensor") else value
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-11, msg=name)


WRAPPERS = {
    "DataParallel": DataParallel,
    "AveragedModel": AveragedModel,
    "compiled": lambda model: torch.compile(DataParallel(model), backend="eager"),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_model_trains_as_itself(name):
    expected = trained(without_batch_norm(), **OPTIONS)
    with torch.compiler.set_stance("force_eager"):  # the wrapper, without a minute of compiling
        found = trained(WRAPPERS[name](without_batch_norm()), **OPTIONS)
    assert type(found) is WSDAN and bool(found.centers.centers.any())
    torch.testing.assert_close(found.centers.centers, expected.centers.centers)
    if name == "compiled":
        assert_same(found, expected.state_dict())


def test_centers_move_in_training_only():
    """In evaluation mode and without gradients the objective only reads them."""
    model = without_batch_norm()
    images, labels, uniforms = batch(0)
    wsdan_objective(model.eval(), images, labels, uniforms=uniforms)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            wsdan_objective(model.train(), images, labels, uniforms=uniforms)
    assert not bool(model.centers.centers.any())
    wsdan_objective(model, images, labels, uniforms=uniforms)
    assert bool(model.centers.centers.any())


def train_in_ranks(rank: int, expected: dict[str, torch.Tensor]) -> None:
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo")
    mesh = torch.distributed.init_device_mesh("cpu", (2,))

    def sharded(model: nn.Module) -> nn.Module:
        for module in (model.backbone, model.classifier, model):
            fully_shard(module, mesh=mesh)
        return model

    for wrap in (DistributedDataParallel, sharded):
        assert_same(trained(wrap(without_batch_norm()), rank, 2), expected)
    # Batch norm: a broadcast of its buffers between the views would spoil the backward.
    model = WSDAN("tiny", num_classes=3, num_attentions=4)
    model = trained(DistributedDataParallel(model.double()), rank, 2)
    assert bool(model.centers.centers.any())
    model = WSDAN("tiny", num_classes=3, num_attentions=4).eval()
    fully_shard(model.attention, mesh=mesh)
    fully_shard(model, mesh=mesh)
    with torch.no_grad():
        assert model(torch.ones((2, 3, 32, 32))).logits.shape == (2, 3)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch has no distributed package"
)
def test_two_ranks_train_as_one_of_twice_the_batch():
    run_ranks(train_in_ranks, trained(without_batch_norm()).state_dict())
