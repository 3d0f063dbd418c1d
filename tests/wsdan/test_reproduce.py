"""The published settings, and `wsdan reproduce`, which runs one beside its published figure."""

import json
import os
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import trees
from paths import ROOT
from runs import metrics_of, ranks, refused

from wsdan.cli import main
from wsdan.commands._comparison import _departures
from wsdan.config import Config, settings_of
from wsdan.configs import FOLDER, SETTINGS, setting_file, setting_name
from wsdan.networks.names import check_name
from wsdan.yaml_files import load_yaml

MAKERS = {name: trees.LAYOUTS[name][0] for name in ("cub", "aircraft", "cars", "dogs")}
SMALL = [
    "--backbone", "tiny", "--no-pretrained", "--image-size", "32", "--num-attentions", "4",
    "--batch-size", "2", "--workers", "0", "--no-plots", "--device", "cpu",
]  # fmt: skip


def settings(name: str, **others) -> Config:
    """The configuration of a published setting."""
    path = setting_file(name)
    return Config(**settings_of(load_yaml(path), str(path)), root=".", **others).resolved()


def reproduce(name: str, root: Path, *arguments: str) -> int:
    return main(["reproduce", name, "--root", str(root), *SMALL, *map(str, arguments)])


def comparison(folder: Path) -> dict:
    return json.loads((folder / "reproduce.json").read_text())


def test_every_file_is_a_setting():
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted(SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_says_what_it_is(name):
    config, published = settings(name), SETTINGS[name]
    data, method, network = name.split("-")
    assert config.data == data
    assert published.dataset in setting_file(name).read_text().splitlines()[0]
    assert config.image_size == int((re.findall(r"\d{3}$", network) or ["448"])[0]) or (
        method == "cal" and config.image_size == 448
    )
    assert config.recipe == {"cal": "cal", "modern": "modern"}.get(method, "paper")
    assert (config.counterfactual == 1) == method.startswith("cal")
    assert published.score == {"cal": "tta", "calnc": "raw"}.get(method, "mean")
    assert config.tta == (published.score == "tta")
    assert (config.views == "raw") == (published.score == "raw")
    check_name(config.backbone)


@pytest.mark.parametrize("name", [name for name in SETTINGS if "modern" not in name])
def test_every_value_of_a_publication_has_its_source(name):
    lines = setting_file(name).read_text().splitlines()
    values = [line for line in lines if not re.match("#|data:|method:|recipe:", line)]
    assert len(values) > 10
    assert [line for line in values if " # " not in line] == []


def test_what_was_published():
    """The figures of the papers' tables, and the images of the published tests."""
    figures = {
        "cub": (89.4, 90.6, 91.54, 90.75), "aircraft": (93.0, 94.2, 92.80, 91.60),
        "cars": (94.5, 95.5), "dogs": (92.2,),
    }  # fmt: skip
    images = {"cub": 5794, "aircraft": 3333, "cars": 8041, "dogs": 8580}
    for data, expected in figures.items():
        found = [item for name, item in SETTINGS.items() if name.startswith(data)]
        known = [item.accuracy for item in found if item.accuracy is not None]
        assert tuple(known) == expected
        assert {item.images for item in found} == {images[data]}
    assert all((item.accuracy is None) == ("modern" in name) for name, item in SETTINGS.items())


def test_a_dataset_stands_for_its_first_setting():
    assert [setting_name(data) for data in MAKERS] == [
        f"{data}-wsdan-inception448" for data in MAKERS
    ]
    assert [setting_name(name) for name in SETTINGS] == list(SETTINGS)


def test_an_installed_package_has_the_files(monkeypatch):
    """What setuptools puts into a wheel, by pyproject.toml."""
    setuptools = pytest.importorskip("setuptools", "77")  # what a build needs
    monkeypatch.chdir(ROOT)
    distribution = setuptools.Distribution()
    distribution.parse_config_files(["pyproject.toml"])
    command = distribution.get_command_obj("build_py")
    command.ensure_finalized()
    found = command.get_data_files_without_manifest()
    files = {package: names for package, _, _, names in found}
    assert sorted(files["wsdan.configs"]) == sorted(f"{name}.yaml" for name in SETTINGS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["cub-cal-resnet101", "cub-calnc-convnextb224", "cub-modern-swinb384"]
)
def test_the_networks_take_images_of_their_size(name):
    """At full size, on the meta device, which computes shapes alone. Inception has its own tests in
    networks/."""
    from wsdan.networks.model import build_model

    if "resnet" not in name:
        pytest.importorskip("timm")
    path = setting_file(name)
    values = settings_of(load_yaml(path), str(path)) | {"pretrained": False, "root": "."}
    config = Config(**values).resolved()
    with torch.device("meta"):
        model = build_model(config, 200).eval()
        output = model(torch.empty(1, 3, *config.input_size))
    stride = 16 if "resnet" in name else 32
    assert output.logits.shape == (1, 200)
    assert output.attentions.shape == (1, 32, *(side // stride for side in config.input_size))


def test_the_weights_are_known_to_timm():
    timm = pytest.importorskip("timm")
    names = {settings(name).backbone for name in SETTINGS}
    for name in (name.removeprefix("timm/") for name in names if name.startswith("timm/")):
        weights = timm.get_pretrained_cfg(name)  # raises for an unknown tag
        sizes = {settings(x).image_size for x in SETTINGS if settings(x).backbone.endswith(name)}
        assert sizes == {weights.input_size[-1]}


QUICK = ("wsdan", "cub-cal-", "cub-calnc-convnext", "cub-modern-convnext")


@pytest.mark.parametrize(
    "name",
    [
        name if any(part in name for part in QUICK) else pytest.param(name, marks=pytest.mark.slow)
        for name in SETTINGS
    ],
)
def test_every_setting_takes_two_steps(name, tmp_path, capsys):
    """With its loss, optimizer, schedule and evaluation; a small network, three images."""
    MAKERS[name.partition("-")[0]](tmp_path / "data")
    out = tmp_path / "out"
    assert reproduce(name, tmp_path / "data", "--epochs", "2", "--out", out) == 0
    records = metrics_of(out)
    assert [record["skipped"] for record in records] == [0, 0]
    assert ("counterfactual" in records[0]) == ("-cal" in name)
    found, printed = comparison(out), capsys.readouterr().out
    assert found["last"] == records[-1][f"val_{SETTINGS[name].score}"]
    assert found["published"] == SETTINGS[name].accuracy
    assert f"{name} on {SETTINGS[name].dataset}" in printed
    assert f"written to {out}/reproduce.json" in printed
    for line in (*found["departures"], *SETTINGS[name].differs):
        assert f"- {line}\n" in printed


def test_the_report(tmp_path, capsys):
    """The last and the best epoch, and every departure: of a run of three epochs of CUB."""
    trees.make_cub(tmp_path)
    out = tmp_path / "out"
    assert reproduce("cub", tmp_path, "--epochs", "3", "--seed", "4", "--out", out) == 0
    found, printed = comparison(out), capsys.readouterr().out
    scores = [record["val_mean"] for record in metrics_of(out)]
    assert (found["last"], found["best"]) == (scores[-1], max(scores))
    assert found["best_epoch"] == scores.index(max(scores)) + 1
    assert found["departures"] == [
        "image_size 32 instead of 448",
        "backbone tiny instead of inception_v3",
        "pretrained False instead of True",
        "num_attentions 4 instead of 32",
        "epochs 3 instead of 160",
        "2 images a step instead of 12",
        "batch norm over 2 images instead of 12",
        "3 test images instead of 5794",
    ]
    assert (found["setting"], found["seed"], found["images"]) == ("cub-wsdan-inception448", 4, 3)
    assert "published          89.40 %  arXiv:1901.09891\n" in printed
    assert f"here, last epoch  {scores[-1]:6.2f} %  epoch 3, seed 4\n" in printed
    assert f"here, best epoch  {max(scores):6.2f} %  epoch {found['best_epoch']}, chosen" in printed
    assert f"last - published  {scores[-1] - 89.4:+6.2f}\n" in printed


def test_what_is_no_departure():
    """What the setting leaves to the machine, and the published batch on four processes."""
    name = "cub-cal-resnet101"
    published, own = SETTINGS[name], settings(name)
    found = partial(_departures, published, metrics={"images": published.images})
    chosen = replace(own, precision="auto")
    assert found(chosen, own, processes=1) == []
    assert found(own, chosen, processes=1) == ["precision auto instead of fp32"]
    shared = replace(own, batch_size=4, sync_batchnorm=True, device="cuda", workers=4)
    assert found(own, shared, processes=4) == []
    assert found(own, replace(shared, sync_batchnorm=False), processes=4) == [
        "batch norm over 4 images instead of 16"
    ]
    gathered = replace(own, batch_size=8, accumulate=2)
    assert found(own, gathered, processes=1) == ["batch norm over 8 images instead of 16"]


def test_a_run_that_was_resumed_or_replaced(tmp_path, capsys):
    trees.make_cub(tmp_path)
    out = tmp_path / "out"
    assert reproduce("cub", tmp_path, "--epochs", "1", "--out", out) == 0
    assert "already holds a run" in refused(
        capsys, "reproduce", "cub", "--root", tmp_path, "--out", out
    )
    command = ["reproduce", "cub", "--root", str(tmp_path), "--resume", "--out", str(out)]
    assert main([*command, "--epochs", "2"]) == 0  # its other settings are those of the run
    assert len(metrics_of(out)) == 2
    assert "image_size 32 instead of 448" in comparison(out)["departures"]
    assert "epochs 2 instead of 160" in comparison(out)["departures"]
    first = comparison(out)
    assert main(command) == 0  # it is at its end: the report alone
    assert comparison(out) == first
    message = refused(capsys, *["cub-cal-resnet101" if x == "cub" else x for x in command])
    assert f"the run in {out} has no score 'tta': it is of other settings" in message
    assert reproduce("cub", tmp_path, "--epochs", "1", "--overwrite", "--out", out) == 0
    assert comparison(out)["epochs"] == 1


def test_weights_from_a_file_take_the_place_of_published_ones(tmp_path):
    trees.make_cub(tmp_path)
    out, again = tmp_path / "out", tmp_path / "again"
    assert reproduce("cub", tmp_path, "--epochs", "1", "--out", out) == 0
    command = [item for item in SMALL if item != "--no-pretrained"]
    command = ["reproduce", "cub", "--root", str(tmp_path), *command, "--epochs", "1"]
    weights = str(out / "last.pt")
    assert main([*command, "--weights", weights, "--out", str(again)]) == 0
    assert f"weights {weights} instead of None" in comparison(again)["departures"]
    assert "pretrained False instead of True" in comparison(again)["departures"]


def test_a_report_that_cannot_be_written(tmp_path, capsys, monkeypatch):
    trees.make_cub(tmp_path)

    def refuse(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("wsdan.commands.reproduce.written_whole", refuse)
    out = tmp_path / "out"
    assert reproduce("cub", tmp_path, "--epochs", "1", "--out", out) == 2
    captured = capsys.readouterr()
    assert "last - published" in captured.out  # printed before
    assert captured.err.endswith(
        f"wsdan: error: cannot write {out}/reproduce.json: No space left on device\n"
    )


@pytest.mark.slow
def test_two_processes_make_one_report(tmp_path):
    """Of other data than the setting's: of an image folder."""
    trees.make_tree(tmp_path)
    out = tmp_path / "out"
    command = ["reproduce", "cub", "--root", str(tmp_path), "--data", "folder", *SMALL]
    ended = ranks(*command, "--epochs", "1", "--out", str(out))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("last - published") == 1
    departures = comparison(out)["departures"]
    assert departures[0] == "data folder instead of cub"
    assert "4 images a step instead of 12" in departures
    assert "batch norm over 2 images instead of 12" in departures
    assert "12 test images instead of 5794" in departures
