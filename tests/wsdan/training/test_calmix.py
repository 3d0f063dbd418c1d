"""CALMix in training (arXiv:2605.18700): its pairs, its view and its loss as published."""

import pytest
import torch
from runs import SMALL, metrics_of, refused
from tape import NoWaiting
from torch.nn import functional as F
from training import batches, new_model, settings
from trees import make_tree

from wsdan.cli import main
from wsdan.config import Config
from wsdan.data import loaders
from wsdan.data.samplers import EpochBatchSampler
from wsdan.training.objective import (
    mixed_views,
    same_class_partners,
    training_views,
    wsdan_objective,
)
from wsdan.training.optim import build_optimizer
from wsdan.training.step import build_step
from wsdan_kernels import attention_boxes

LABELS = torch.tensor([0, 1, 1, 2, 0, 1])
PARTNERS = [4, 1, 5, 3, 0, 2]
UNIFORMS = torch.rand((6, 6), generator=torch.Generator().manual_seed(2))


def images(side: int = 48) -> torch.Tensor:
    return torch.randn((6, 3, side, side), generator=torch.Generator().manual_seed(1))


def test_partners_are_pairs_of_a_class_in_order():
    assert same_class_partners(LABELS).tolist() == PARTNERS
    assert same_class_partners(torch.tensor([3, 3, 3, 3, 3])).tolist() == [0, 2, 1, 4, 3]
    assert same_class_partners(torch.tensor([], dtype=torch.int64)).tolist() == []


def labels_of_two_epochs(labels: list[int], batch_size: int) -> list[list[int]]:
    sampler, epochs = EpochBatchSampler(len(labels), batch_size, seed=3, labels=labels), []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        epochs.append([item.index for batch in sampler for item in batch])
    return epochs


def test_an_epoch_shows_every_image_once_in_pairs():
    labels = [0] * 6 + [1] * 4 + [2] * 10
    first, second = labels_of_two_epochs(labels, 4)
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second and first != sorted(first)
    pairs = [{labels[first[i]], labels[first[i + 1]]} for i in range(0, 20, 2)]
    assert all(len(pair) == 1 for pair in pairs)
    assert [min(pair) for pair in pairs] != sorted(min(pair) for pair in pairs)


def test_images_left_over_come_before_the_pairs_and_an_odd_one_at_the_end():
    labels = [0] * 5 + [1] * 3 + [2] + [3] * 4 + [4] * 4
    last = set()
    for seed in range(8):
        sampler = EpochBatchSampler(len(labels), len(labels), seed=seed, labels=labels)
        (batch,) = sampler
        order = [item.index for item in batch]
        assert sorted(order) == list(range(17))
        first, *pairs = [[labels[i] for i in order[start : start + 2]] for start in range(0, 16, 2)]
        assert all(one == other for one, other in pairs)
        assert sorted([*first, labels[order[-1]]]) == [0, 1, 2]  # the classes of odd size
        last.add(labels[order[-1]])
    assert len(last) > 1  # not always the same class


def test_the_shares_of_a_batch_have_its_pairs():
    """Whatever classes are left over: of ranks and of micro-batches."""
    labels = torch.randint(6, (40,), generator=torch.Generator().manual_seed(7)).tolist()
    sampler = EpochBatchSampler(40, 8, seed=1, labels=labels)
    for batch in sampler:
        found = torch.tensor([labels[item.index] for item in batch])
        halves = [same_class_partners(half) for half in found.chunk(2)]
        assert torch.equal(same_class_partners(found), torch.cat([halves[0], halves[1] + 4]))
    assert len(set(labels)) == 6 and any(labels.count(label) % 2 for label in labels)


def test_pairs_do_not_depend_on_the_ranks_nor_on_where_an_epoch_is_resumed():
    labels = [index % 7 for index in range(50)]
    whole = EpochBatchSampler(50, 8, seed=3, labels=labels)
    halves = [
        EpochBatchSampler(50, 4, seed=3, rank=rank, world_size=2, labels=labels) for rank in (0, 1)
    ]
    for batches_ in (whole, *halves):
        batches_.set_epoch(1)
    steps = list(zip(*map(list, halves), strict=True))
    assert [one + two for one, two in steps] == list(whole)
    whole.set_epoch(1, start_step=4)
    assert list(whole) == [one + two for one, two in steps[4:]]
    plain = EpochBatchSampler(50, 8, seed=3)
    plain.set_epoch(1)
    seeds = {item.index: item.seed for batch in plain for item in batch}
    assert all(seeds.get(item.index, item.seed) == item.seed for batch in whole for item in batch)


def test_the_mixed_view_exchanges_the_boxes_of_a_third_map():
    inputs, maps = images(), torch.zeros((6, 4, 12, 12))
    for row in range(6):  # peaks with a flank of 0.7 in two maps of equal mass
        maps[row, 0, 2 + row, 3:7] = torch.tensor([0.3, 1.0, 0.7, 0.3])
        maps[row, 2, 3:7, 9 - row] = torch.tensor([0.3, 1.0, 0.7, 0.3])
    partners = torch.tensor(PARTNERS)
    views = mixed_views(inputs, maps, partners, UNIFORMS[:, 4:])
    thresholds = 0.6 + 0.2 * UNIFORMS[:, 5]
    picks = 2 * (UNIFORMS[:, 4] >= 0.5).long()
    drawn = maps[torch.arange(6), picks]
    boxes = attention_boxes(drawn, (48, 48), threshold=thresholds, padding=0.0).tolist()
    assert len(set(picks.tolist())) == 2 and len({tuple(box) for box in boxes}) > 2
    for row, partner in enumerate(PARTNERS):
        expected = inputs[row].clone()
        if partner != row:
            x1, y1, x2, y2 = boxes[row]
            left, top, right, bottom = boxes[partner]
            expected[:, y1:y2, x1:x2] = F.interpolate(
                inputs[partner, None, :, top:bottom, left:right],
                (y2 - y1, x2 - x1),
                mode="bilinear",
                align_corners=True,
            )[0]
        torch.testing.assert_close(views[row], expected, atol=1e-5, rtol=1e-5)


def published_loss(model, result, counterfactual: bool):
    """FGIR-Backbones' CALLoss: the raw view has weight 1/3, the other three views 3/3, the effects
    of all four 4/3."""
    views = torch.cat([result["crops"], result["mixes"], result["drops"]])
    raw, others = model(images(), True), model(views, True)
    centers = F.normalize(model.centers.centers[LABELS], dim=1)
    center = F.mse_loss(raw.pooled, centers, reduction="sum") / 6
    loss = F.cross_entropy(raw.logits, LABELS) / 3 + center
    loss = loss + F.cross_entropy(others.logits, LABELS.repeat(3)) * 3 / 3
    if counterfactual:
        effects = torch.cat([raw.effect, others.effect])
        loss = loss + F.cross_entropy(effects, LABELS.repeat(4)) * 4 / 3
    return loss


@pytest.mark.parametrize("joint_views", [False, True])
@pytest.mark.parametrize("counterfactual", [0.0, 1.0])
def test_the_loss_and_its_gradients_are_the_published_ones(counterfactual, joint_views):
    model = new_model().eval()  # maps of ones instead of random ones, fixed batch norm
    result = wsdan_objective(
        model, images(), LABELS, uniforms=UNIFORMS, calmix=1.0,
        counterfactual=counterfactual, joint_views=joint_views,
    )  # fmt: skip
    result["loss"].backward()
    found = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    loss = published_loss(model, result, counterfactual > 0)
    loss.backward()
    torch.testing.assert_close(result["loss"], loss)
    for gradient, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-5, rtol=1e-4)
    crops, drops = training_views(images(), model(images()).attentions, UNIFORMS[:, :4])
    assert torch.equal(result["crops"], crops) and torch.equal(result["drops"], drops)
    assert not torch.equal(result["mixes"], images())


def test_the_weight_multiplies_the_terms_of_the_view():
    model, losses = new_model().eval(), {}
    for weight in (0.0, 0.5, 1.0):
        losses[weight] = wsdan_objective(
            model, images(), LABELS, uniforms=UNIFORMS, calmix=weight, counterfactual=0.3,
            label_smoothing=0.1,
        )  # fmt: skip
    assert "mix" not in losses[0.0] and "mixes" not in losses[0.0]
    steps = [losses[0.5]["loss"] - losses[0.0]["loss"], losses[1.0]["loss"] - losses[0.5]["loss"]]
    torch.testing.assert_close(*steps)
    effect = losses[1.0]["counterfactual"] - losses[0.0]["counterfactual"]
    assert effect > 0
    torch.testing.assert_close(2 * steps[0], losses[1.0]["mix"] / 3 + 0.3 * effect)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_waits_for_nothing_and_reaches_every_weight(dtype):
    """In float32 and under autocast; random numbers drawn from a generator, too."""
    model = new_model().train()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32), NoWaiting():
        result = wsdan_objective(
            model, images(), LABELS, calmix=1.0, counterfactual=1.0,
            generator=torch.Generator().manual_seed(5),
        )  # fmt: skip
    assert result["mix"].dtype == torch.float32
    result["mix"].backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


def test_micro_batches_have_the_pairs_of_the_batch():
    """Four views a step, of the pairs inside each micro-batch."""
    sizes = []
    inputs = batches()[0][0]
    config = settings(calmix=1.0, accumulate=2, joint_views=True)
    model = new_model().train()
    model.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    step = build_step(model, build_optimizer(model, config), config)
    results = step(inputs, torch.tensor([0, 0, 1, 1]), UNIFORMS[:4])
    assert sizes == [2, 6, 2, 6] and results["finite"] == 1 and results["mix"] > 0


def test_a_run_with_calmix(tmp_path, monkeypatch):
    """The log has the term, config.yaml the weight."""
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 22)
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 8)
    out = tmp_path / "out"
    assert main([*SMALL, "--calmix", "1", "--epochs", "1", "--out", str(out)]) == 0
    (record,) = metrics_of(out)
    assert record["mix"] > 0 and record["skipped"] == 0
    assert "calmix: 1.0" in (out / "config.yaml").read_text()


def test_unreadable_images_leave_their_partners_alone(tmp_path):
    """Twelve images of three classes, one of them broken, in one step."""
    root = make_tree(tmp_path / "images")
    (root / "train" / "red" / "0.png").write_bytes(b"no image")
    command = [*SMALL, "--backbone", "tiny", "--no-pretrained", "--batch-size", "12"]
    command += ["--epochs", "1", "--workers", "0", "--skip-bad-images", "--calmix", "1"]
    assert main([*command, "--root", str(root), "--out", str(tmp_path / "out")]) == 0
    (record,) = metrics_of(tmp_path / "out")
    assert record["bad"] == 1 and record["skipped"] == 0 and record["mix"] > 0


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_batches_hold_pairs_and_their_numbers(weight, monkeypatch):
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 32)
    config = Config(image_size=32, batch_size=8, calmix=weight, device="cpu").resolved()
    loader, _ = loaders.train_loader(config)
    paired = 0
    for batch in loader:
        assert batch.uniforms.shape == (8, 6 if weight else 4)
        paired += int((same_class_partners(batch.labels) != torch.arange(8)).sum())
    counts = torch.tensor(loader.dataset.dataset.labels).bincount()
    most = int((counts // 2 * 2).sum())
    assert paired == most if weight else paired < most


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch-size", "7"], "--calmix needs an even --batch-size"),
        (["--method", "baseline"], "--views-after are for --method wsdan"),
    ],
)
def test_what_calmix_needs(options, message, capsys):
    assert message in refused(capsys, "train", "--calmix", "1", *options)
