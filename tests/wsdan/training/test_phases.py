"""Epochs that differ: --freeze, --views-after, and a cosine schedule that goes on."""

import pytest
import torch
from runs import SMALL, metrics_of, ranks
from torch.nn import functional as F
from training import new_model

from wsdan.checkpoint import load_checkpoint
from wsdan.cli import main
from wsdan.config import Config
from wsdan.data import loaders
from wsdan.training.objective import wsdan_objective


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 16)
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 8)


RUN = [*SMALL, "--log-images", "0", "--warmup", "0"]


def weights(folder) -> dict:
    return load_checkpoint(folder / "last.pt")["model"]


def changed(before: dict, after: dict, part: str) -> set[str]:
    return {
        name for name in before if name.startswith(part) and not before[name].equal(after[name])
    }


def test_a_frozen_backbone_stays_and_then_trains(tmp_path):
    """Weights, batch norm statistics and their counts; weight decay and momentum too."""
    options = ["--freeze", "2", "--optimizer", "sgd", "--weight-decay", "0.1"]
    ends = []
    for epochs in ("1", "2", "3"):
        command = [*RUN, *options, "--schedule", "step", "--epochs", epochs]
        resume = ["--resume"] if ends else []
        assert main([*command, *resume, "--out", str(tmp_path)]) == 0
        ends.append(weights(tmp_path))
    assert changed(ends[0], ends[1], "backbone.") == set()
    assert changed(ends[0], ends[1], "attention.")
    assert changed(ends[0], ends[1], "classifier.") == {"classifier.weight", "classifier.bias"}
    trained = changed(ends[1], ends[2], "backbone.")
    assert trained == {name for name in ends[0] if name.startswith("backbone.")}


def test_a_resumed_frozen_run_is_the_same_as_one_in_one_go(tmp_path):
    command = [*RUN, "--freeze", "1", "--views-after", "0", "--schedule", "step"]
    assert main([*command, "--epochs", "2", "--out", str(tmp_path / "a")]) == 0
    assert main([*command, "--epochs", "1", "--out", str(tmp_path / "b")]) == 0
    assert main([*command, "--epochs", "2", "--out", str(tmp_path / "b"), "--resume"]) == 0
    assert changed(weights(tmp_path / "a"), weights(tmp_path / "b"), "") == set()


@pytest.mark.slow
def test_two_ranks_freeze(tmp_path):
    """DistributedDataParallel waits for no gradient that never comes."""
    options = ["--freeze", "1", "--schedule", "step", "--epochs", "2", "--out", str(tmp_path)]
    result = ranks(*RUN, *options)
    assert result.returncode == 0, result.stderr
    state = weights(tmp_path)
    assert all(torch.isfinite(value).all() for value in state.values())


@pytest.mark.parametrize("views", [(), ("crop",), ("drop",), ("crop", "drop")], ids=str)
def test_the_views_of_a_step(views):
    """The loss is that of those asked for, which are those of all; nothing else is passed."""
    model = new_model().train()
    images, labels, uniforms = (
        torch.rand(4, 3, 48, 48),
        torch.tensor([0, 1, 2, 1]),
        torch.rand(4, 4),
    )
    options = {"center_weight": 0.5, "counterfactual": 2.0, "uniforms": uniforms}
    whole = wsdan_objective(model, images, labels, move_centers=False, **options)
    passes = []
    model.backbone.register_forward_hook(lambda *_: passes.append(1))
    found = wsdan_objective(model, images, labels, views=views, move_centers=False, **options)
    assert len(passes) == 1 + len(views)
    images = {f"{name}s" for name in views}
    assert set(found) == {
        "loss",
        "raw",
        "center",
        "counterfactual",
        "logits",
        "pooled",
    } | images | set(views)
    assert all(torch.equal(found[name], whole[name]) for name in images)
    torch.testing.assert_close(found["raw"], F.cross_entropy(found["logits"], labels))
    terms = [found[name] for name in ("raw", *views)]
    total = sum(terms) / len(terms) + 0.5 * found["center"] + 2 * found["counterfactual"]
    torch.testing.assert_close(found["loss"], total)
    found["loss"].backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_the_views_begin_after_a_share_of_the_epochs(tmp_path):
    command = [*RUN, "--views-after", "0.5", "--train-views", "crop+drop", "--schedule", "step"]
    assert main([*command, "--epochs", "3", "--plots", "--out", str(tmp_path / "a")]) == 0
    crops = [record.get("crop", 0) > 0 for record in metrics_of(tmp_path / "a")]
    assert crops == [False, True, True]  # int(0.5 * 3)
    assert (tmp_path / "a" / "curves.png").exists()
    half = [*command, "--epochs", "2", "--out", str(tmp_path / "b")]
    assert main(half) == 0
    assert [("crop" in record) for record in metrics_of(tmp_path / "b")] == [False, True]
    assert main([*command, "--epochs", "3", "--out", str(tmp_path / "b"), "--resume"]) == 0
    assert changed(weights(tmp_path / "a"), weights(tmp_path / "b"), "") == set()


def test_views_that_begin_leave_the_backbone_frozen(tmp_path):
    command = [*RUN, "--freeze", "2", "--views-after", "0.5", "--schedule", "step"]
    ends = []
    for epochs in ("2", "3"):
        resume = ["--resume"] if ends else []
        assert main([*command, "--epochs", epochs, *resume, "--out", str(tmp_path)]) == 0
        ends.append(weights(tmp_path))
    start = weights_at_start(tmp_path / "start")
    assert changed(start, ends[0], "backbone.") == set()
    assert changed(ends[0], ends[1], "backbone.")


def weights_at_start(folder) -> dict:
    """Of the backbone, which one epoch of --freeze leaves as it is."""
    command = [*RUN, "--freeze", "1", "--schedule", "step", "--epochs", "1"]
    assert main([*command, "--out", str(folder)]) == 0
    return weights(folder)


def test_a_baseline_has_the_passes_of_the_views(capsys):
    """Of the recipe's epochs, each with one pass before its views begin and three after."""
    recipe = Config().resolved()
    alone, views = int(recipe.views_after * recipe.epochs), len(recipe.train_view_names)
    plain = Config(method="baseline").resolved()
    assert plain.epochs == alone + (1 + views) * (recipe.epochs - alone)
    assert plain.views_after == 0 and plain.train_view_names == ()
    assert Config(data="folder", root=".", method="baseline").resolved().epochs == 240
    assert main([*SMALL, "--method", "baseline", "--views-after", "0.5"]) == 2
    assert "--views-after are for --method wsdan" in capsys.readouterr().err
    assert main([*SMALL, "--method", "baseline", "--train-views", "crop"]) == 2
    assert "--train-views" in capsys.readouterr().err
    assert main([*SMALL, "--views-after", "1.5"]) == 2
    assert "--views-after must be in [0, 1]" in capsys.readouterr().err


def test_more_epochs_on_a_cosine_say_that_the_rate_rises(tmp_path, capsys):
    cosine = [*RUN, "--schedule", "cosine", "--out", str(tmp_path)]
    assert main([*cosine, "--epochs", "1"]) == 0
    assert "rises" not in capsys.readouterr().err
    assert main([*cosine, "--epochs", "1", "--resume"]) == 0
    assert "rises" not in capsys.readouterr().err
    assert main([*cosine, "--epochs", "3", "--resume"]) == 0
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "learning rate rises from" in x]
    assert "the cosine schedule now ends after 3 epochs, not 1" in line
