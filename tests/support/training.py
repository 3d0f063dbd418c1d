"""A short training run, eager or as a CUDA graph, and the state it ends with."""

import torch
from torch import nn

from wsdan.config import Config
from wsdan.networks.backbones import build_backbone
from wsdan.networks.model import WSDAN, PlainClassifier
from wsdan.training.optim import build_lr_scheduler, build_optimizer
from wsdan.training.step import build_step

WHOLE = 4  # images of a full batch
SIZES = [4, 4, 2, 4, 4, 4, 3, 4, 4, 3]  # of batches; smaller ones before and after the capture


def settings(optimizer: str = "sgd", method: str = "wsdan", **options) -> Config:
    return Config(
        optimizer=optimizer, method=method, lr=3e-3, weight_decay=1e-2, schedule="cosine",
        warmup=0.3, batch_size=WHOLE, epochs=1,
        **{"train_views": "crop+drop", "views_after": 0.0, **options},
    ).resolved()  # fmt: skip


def new_model(method: str = "wsdan", backbone: str = "tiny") -> nn.Module:
    torch.manual_seed(0)
    if method == "baseline":
        model = PlainClassifier(build_backbone(backbone), 3)
    else:
        model = WSDAN(backbone, num_classes=3, num_attentions=4)
    return model.to(memory_format=torch.channels_last)


def batches(
    side: int = 48, numbers: int = 4
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Batches of images, labels and uniforms, so many numbers an image."""
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn((size, 3, side, side), generator=generator) for size in SIZES]
    labels = [torch.randint(3, (size,), generator=generator) for size in SIZES]
    images = [item.contiguous(memory_format=torch.channels_last) for item in images]
    uniforms = [torch.rand((size, numbers), generator=generator) for size in SIZES]
    return list(zip(images, labels, uniforms, strict=True))


def random_state(device: str) -> torch.Tensor:
    """The state of the device's default generator."""
    return torch.get_rng_state() if device == "cpu" else torch.cuda.get_rng_state()


def run(config: Config, before=lambda optimizer: None, device: str = "cpu"):
    """Train on the batches. Returns the results of each step and the final state.

    before: called with the optimizer before each step.
    """
    model = new_model(config.method).to(device).train()
    optimizer = build_optimizer(model, config)
    lr_scheduler = build_lr_scheduler(optimizer, config, len(SIZES))
    step = build_step(model, optimizer, config)
    results = []
    for batch in batches(numbers=6 if config.calmix > 0 else 4):
        before(optimizer)
        found = step(*(tensor.to(device) for tensor in batch))
        results.append({name: value.clone() for name, value in found.items()})
        lr_scheduler.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    state["lr_scheduler"] = lr_scheduler.state_dict()
    return results, {**state, "random": random_state(device)}


def float32_lrs(optimizer: torch.optim.Optimizer) -> None:
    """Round the learning rates to float32, in which a graph reads them."""
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"]).item()


def assert_same(found, expected, path: str = "") -> None:
    """Equal bit for bit: tensors, numbers, and dicts and lists of them."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), path
    elif isinstance(expected, (dict, list)):
        keys = expected if isinstance(expected, dict) else range(len(expected))
        assert len(found) == len(expected), path
        for key in keys:
            assert_same(found[key], expected[key], f"{path}/{key}")
    else:
        assert found == expected, path


def assert_same_run(found: tuple[list[dict], dict], expected: tuple[list[dict], dict]) -> None:
    """Results and state equal bit for bit, except for the learning rates, rounded in `expected`."""
    for (_, state), exact in ((found, True), (expected, False)):
        lrs = [group.pop("lr") for group in state["optimizer"]["param_groups"]]
        assert not exact or all(type(lr) is float for lr in lrs)
    assert_same(found[0], expected[0])
    assert_same(found[1], expected[1])
