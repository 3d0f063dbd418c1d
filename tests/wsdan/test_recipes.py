"""--recipe: its tables, that an option wins, what is recorded, and what older checkpoints mean."""

import dataclasses
import os
import signal
from functools import partial

import pytest
import torch
from runs import SMALL, acting_at, assert_same_end, refused
from trees import make_tree

import wsdan.training.run
from wsdan.checkpoint import load_checkpoint
from wsdan.checkpoint_content import check_content
from wsdan.cli import main
from wsdan.config import Config
from wsdan.recipes import NAMES, PLAIN, RECIPES, table
from wsdan.yaml_files import load_yaml

PHOTOGRAPHS = {"data": "folder", "root": ".", "pretrained": False}


def test_all_recipes_have_the_same_settings():
    """Each of them has no default of its own in Config."""
    defaults = {item.name: item.default for item in dataclasses.fields(Config)}
    for name, recipe in RECIPES.items():
        assert recipe.keys() == RECIPES["paper"].keys(), name
        assert {defaults[setting] for setting in recipe} == {None}
        assert None not in recipe.values()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["wsdan", "baseline"])
def test_a_recipe_resolves_and_resolved_it_stays(name, method):
    config = Config(**PHOTOGRAPHS, recipe=name, method=method).resolved()
    assert config.resolved() == config
    assert config.recipe == name
    assert config.optimizer == RECIPES[name]["optimizer"]
    if method == "baseline":
        assert not config.counterfactual
        assert config.epochs == 3 * RECIPES[name]["epochs"]


def test_the_defaults_of_photographs_are_the_papers():
    assert Config(**PHOTOGRAPHS).resolved() == Config(**PHOTOGRAPHS, recipe="paper").resolved()
    assert table("folder", "paper") == RECIPES["paper"]


def test_an_explicit_value_wins_even_where_it_is_off():
    config = Config(**PHOTOGRAPHS, recipe="cal", counterfactual=0.0, joint_views=False, tta=False)
    config = config.resolved()
    assert not (config.counterfactual or config.joint_views or config.tta)
    assert config.pool_eps == 1e-6


def test_cal_is_as_published():
    """Its config_distributed.py, train_distributed.py, models/cal.py and infer.py."""
    config = Config(**PHOTOGRAPHS, recipe="cal").resolved()
    published = {
        "optimizer": "sgd", "lr": 1e-3, "weight_decay": 1e-5, "epochs": 160, "batch_size": 16,
        "image_size": 448, "num_attentions": 32, "beta": 0.05, "pool_eps": 1e-6,
        "counterfactual": 1.0, "joint_views": True, "refine_threshold": 0.1,
        "refine_padding": 0.05, "final": "logits", "tta": True, "schedule": "exponential",
        "backbone": "resnet101:layer4:16",
    }  # fmt: skip
    assert {name: getattr(config, name) for name in published} == published


def test_the_embedded_dataset_has_its_own(capsys):
    assert table("synthetic", "paper")["backbone"] == "tiny"
    for name in ("cal", "modern"):
        error = refused(capsys, "train", "--recipe", name)
        assert f"--recipe {name} is for photographs" in error
    assert "--recipe" in refused(capsys, "train", "--recipe", "none")


def test_the_help_has_the_default_of_each_recipe(capsys):
    assert main(["train", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "sgd (momentum 0.9) or adamw (default: sgd; modern: adamw; embedded dataset: adamw)" in (
        text
    )
    assert "0: none (default: 0.0; cal: 1.0)" in text
    assert "x0.9 every 2 epochs" in text


def test_an_older_checkpoint_means_what_was_done_before():
    """Its configuration has neither --recipe nor what has become a setting of a recipe."""
    config = dataclasses.asdict(Config(**PHOTOGRAPHS).resolved())
    old = {name: value for name, value in config.items() if name not in {*PLAIN, "recipe"}}
    content = {"classes": ["a", "b"], "config": old, "model": {"weight": torch.zeros(1)}}
    check_content(content, "old.pt")
    assert content["config"] == Config(**PHOTOGRAPHS, precision="fp32").resolved()


@pytest.fixture
def modern(tmp_path):
    """The options of a small run of --recipe modern, less its folder."""
    root = make_tree(tmp_path / "images", per_class=4)
    options = ["--recipe", "modern", "--backbone", "tiny", "--log-images", "0", "--no-plots"]
    return [*SMALL, "--root", str(root), *options, "--workers", "0", "--batch-size", "4"]


def test_a_stopped_modern_run_resumes_bit_for_bit(modern, tmp_path, monkeypatch):
    run = [*modern, "--epochs", "2", "--layer-decay", "0.7", "--freeze", "1", "--ema", "0.9"]
    assert main([*run, "--out", str(tmp_path / "a")]) == 0
    stop = partial(os.kill, os.getpid(), signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(wsdan.training.run, "build_step", acting_at(2, stop))
        assert main([*run, "--out", str(tmp_path / "b")]) == 128 + signal.SIGTERM
    assert main(["train", "--resume", "--out", str(tmp_path / "b")]) == 0
    assert_same_end(tmp_path / "b", tmp_path / "a")


def test_a_run_records_its_recipe_and_cannot_change_it(modern, tmp_path, capsys):
    run = [*modern, "--epochs", "1", "--out", str(tmp_path / "a")]
    assert main(run) == 0
    saved = load_yaml(tmp_path / "a" / "config.yaml")
    assert (saved["recipe"], saved["optimizer"], saved["image_size"]) == ("modern", "adamw", 32)
    assert load_checkpoint(tmp_path / "a" / "last.pt")["config"].recipe == "modern"
    capsys.readouterr()
    error = refused(capsys, "train", "--resume", "--out", tmp_path / "a", "--recipe", "paper")
    assert "--recipe was modern there and is paper now" in error
