"""--sampler balanced and --class-weights: classes of unequal size."""

from collections import Counter

import pytest
import torch
from runs import SMALL, assert_same_end, ranks, refused
from torch.nn import functional as F
from trees import make_tree

from wsdan.cli import main
from wsdan.data.long_tail import balanced_order, class_weights
from wsdan.data.samplers import EpochBatchSampler
from wsdan.networks.model import WSDAN
from wsdan.training.objective import baseline_objective, weighted_cross_entropy, wsdan_objective

LABELS = [0] * 20 + [1] * 3 + [3] * 7  # class 2 has no image


def sampler(**options) -> EpochBatchSampler:
    return EpochBatchSampler(
        **{"length": 30, "batch_size": 5, "seed": 3, "balanced": LABELS} | options
    )


def epoch(batches: EpochBatchSampler, number: int = 0, start: int = 0) -> list[list[tuple]]:
    batches.set_epoch(number, start)
    return list(batches)


def test_an_epoch_has_as_many_images_of_each_class():
    order = balanced_order(LABELS, torch.Generator().manual_seed(0))
    assert Counter(LABELS[index] for index, _ in order) == {0: 10, 1: 10, 3: 10}
    uses = Counter(index for index, _ in order)
    assert all(uses[index] <= 1 for index in range(20))
    assert sorted(uses[index] for index in range(20, 23)) == [3, 3, 4]
    assert len(set(order)) == len(order)  # the rounds tell uses of one image apart
    assert {before for _, before in order} == {0, 1, 2, 3}


def test_a_rest_goes_to_random_classes():
    found = set()
    for seed in range(20):
        order = balanced_order([0, 0, 0, 1, 2], torch.Generator().manual_seed(seed))
        counts = Counter([0, 0, 0, 1, 2][index] for index, _ in order)
        assert sorted(counts.values()) == [1, 2, 2]
        found.add(min(counts, key=counts.get))
    assert found == {0, 1, 2}


def test_over_epochs_every_image_is_used():
    batches = sampler()
    used = {
        item.index for number in range(12) for batch in epoch(batches, number) for item in batch
    }
    assert used == set(range(30))


def test_the_order_is_that_of_the_seed_and_the_epoch():
    whole = epoch(sampler(), 1)
    assert epoch(sampler(), 1) == whole
    assert epoch(sampler(), 1, start=2) == whole[2:]
    assert epoch(sampler(), 0) != whole != epoch(sampler(seed=4), 1)


def test_two_ranks_take_the_halves_of_each_batch():
    whole = epoch(sampler(batch_size=6))
    halves = [epoch(sampler(batch_size=3, rank=rank, world_size=2)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole


def test_pairs_of_a_class_are_drawn_equally_too():
    """With --calmix."""
    items = [item for batch in epoch(sampler(labels=LABELS, batch_size=30)) for item in batch]
    assert Counter(LABELS[item.index] for item in items) == {0: 10, 1: 10, 3: 10}
    pairs = zip(items[::2], items[1::2], strict=True)
    assert all(LABELS[a.index] == LABELS[b.index] for a, b in pairs)


def test_a_repeated_image_has_other_transforms():
    items = [item for batch in epoch(sampler()) for item in batch]
    assert len({item.seed for item in items}) == len(items) == 30
    assert len({item.index for item in items}) < 30


def test_without_labels_the_order_and_the_seeds_are_those_of_older_versions():
    batches = EpochBatchSampler(5, 5, seed=3)
    (batch,) = epoch(batches, 2)
    assert batch == [
        (4, 866142642), (2, 4279062613), (3, 2799881139), (0, 960329833), (1, 1760858510),
    ]  # fmt: skip


def test_weights_are_of_the_effective_number():
    """Equations 2 and 4 of the paper: E_n = (1 - beta^n) / (1 - beta), weights as 1 / E_n."""
    beta = 0.9
    effective = torch.tensor([sum(beta**i for i in range(n)) for n in (20, 3, 1, 7)])
    found = class_weights(LABELS, 4, beta)
    torch.testing.assert_close(found * effective, (found * effective)[:1].expand(4))
    assert found.dtype == torch.float32
    assert found[LABELS].mean() == pytest.approx(1)


def test_the_ends_of_beta():
    assert torch.equal(class_weights(LABELS, 4, 0.0), torch.ones(4))
    inverse = class_weights(LABELS, 4, 1 - 1e-13) * torch.tensor([20.0, 3, 1, 7])
    torch.testing.assert_close(inverse, inverse[:1].expand(4))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_weighted_cross_entropy_is_torchs(smoothing):
    """Torch's weighted mean is over the labels' weights, ours over the images."""
    scores = torch.randn((6, 4), generator=torch.Generator().manual_seed(0))
    labels, weights = torch.tensor([0, 1, 3, 0, 0, 1]), class_weights(LABELS, 4, 0.9)
    torchs = F.cross_entropy(scores, labels, weights, label_smoothing=smoothing)
    found = weighted_cross_entropy(scores, labels, smoothing, weights)
    torch.testing.assert_close(found, torchs * weights[labels].sum() / 6)
    halves = [
        weighted_cross_entropy(scores[i::2], labels[i::2], smoothing, weights) for i in (0, 1)
    ]
    torch.testing.assert_close(found, sum(halves) / 2)
    plain = weighted_cross_entropy(scores, labels, smoothing, None)
    assert torch.equal(plain, F.cross_entropy(scores, labels, label_smoothing=smoothing))
    torch.testing.assert_close(
        weighted_cross_entropy(scores, labels, smoothing, torch.ones(4)), plain
    )


def test_every_cross_entropy_is_weighted():
    """With all weights 2 the terms double, the counterfactual one too; the center loss does not."""
    torch.manual_seed(0)
    model = WSDAN("tiny", num_classes=3, num_attentions=4).eval()
    images, labels = torch.randn(4, 3, 48, 48), torch.tensor([0, 1, 2, 0])
    uniforms = torch.rand(4, 4)
    options = {"uniforms": uniforms, "counterfactual": 0.5, "center_weight": 2.0}
    plain = wsdan_objective(model, images, labels, **options)
    twice = wsdan_objective(model, images, labels, **options, class_weights=torch.full((3,), 2.0))
    for name in ("raw", "crop", "drop", "counterfactual"):
        torch.testing.assert_close(twice[name], 2 * plain[name])
    torch.testing.assert_close(twice["center"], plain["center"])
    rest = 2 * plain["center"]
    torch.testing.assert_close(twice["loss"] - rest, 2 * (plain["loss"] - rest))
    found = baseline_objective(model, images, labels, class_weights=torch.tensor([0.0, 1, 1]))
    expected = F.cross_entropy(found["logits"][1:3], labels[1:3], reduction="sum") / 4
    torch.testing.assert_close(found["loss"], expected)


@pytest.fixture
def run(tmp_path) -> list[str]:
    """A run on classes of 6, 2 and 6 images, less its folder."""
    root = make_tree(tmp_path / "images", per_class=6)
    for number in range(2, 6):
        (root / "train" / "green" / f"{number}.png").unlink()
    options = ["--backbone", "tiny", "--no-pretrained", "--log-images", "0", "--workers", "0"]
    return [*SMALL, "--root", str(root), *options, "--batch-size", "4", "--lr", "1e-3"]


def test_a_resumed_balanced_run_is_the_same_as_one_in_one_go(run, tmp_path):
    command = [*run, "--sampler", "balanced", "--eval-every", "2"]
    assert main([*command, "--epochs", "2", "--out", str(tmp_path / "a")]) == 0
    assert main([*command, "--epochs", "1", "--out", str(tmp_path / "b")]) == 0
    again = ["train", "--resume", "--epochs", "2", "--out", str(tmp_path / "b")]
    assert main([*again, "--eval-every", "2"]) == 0
    a, b = tmp_path / "a", tmp_path / "b"
    (b / "metrics.jsonl").write_text((a / "metrics.jsonl").read_text())  # b was evaluated once more
    assert_same_end(b, a)


def test_class_weights_change_a_run(run, tmp_path):
    losses = []
    for weights in ("0", "0.99"):
        out = tmp_path / weights
        command = [*run, "--epochs", "1", "--class-weights", weights, "--freeze", "1"]
        assert main([*command, "--out", str(out)]) == 0
        losses.append((out / "metrics.jsonl").read_text().split('"raw": ')[1].split(",")[0])
    assert losses[0] != losses[1]


def test_refusals(capsys):
    for value in ("1", "-0.1", "nan"):
        assert "--class-weights must be" in refused(capsys, "train", f"--class-weights={value}")
    error = refused(capsys, "train", "--sampler", "balanced", "--class-weights", "0.9")
    assert "exclude each other" in error
    assert "--sampler" in refused(capsys, "train", "--sampler", "x")


@pytest.mark.slow
def test_two_ranks_train_with_balanced_classes(tmp_path):
    options = ["--sampler", "balanced", "--epochs", "1", "--log-images", "0"]
    result = ranks(*SMALL, *options, "--out", str(tmp_path))
    assert result.returncode == 0, result.stderr
