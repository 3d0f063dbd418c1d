"""wsdan train: train and evaluate."""

import argparse
import os
import sys
from pathlib import Path

from wsdan.config import Config, settings_of
from wsdan.constants import CONFIG
from wsdan.data.readers import detect
from wsdan.errors import UserError
from wsdan.networks.names import check_name
from wsdan.output import unwritable
from wsdan.parser import add_settings
from wsdan.validation import check_folder, check_paths, check_reachable, check_step
from wsdan.yaml_files import load_yaml

HELP = "train and evaluate; without options on the embedded dataset, in minutes"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", nargs="?", metavar="DIR", help="the dataset's folder, as --root; see --data"
    )
    add_settings(parser)
    parser.add_argument("--config", metavar="FILE", help="YAML of settings; options override it")


def run(options: dict) -> None:
    path, folder = options.pop("config"), options.pop("folder")
    if folder is not None:
        if "root" in options:
            raise UserError("DIR and --root are the same: name the dataset's folder once")
        options["root"] = folder
    settings = settings_of(load_yaml(path), str(path)) if path is not None else {}
    settings |= settings_of(options, "wsdan train")
    if settings.get("out") is not None:
        check_reachable("--out", settings["out"])
    if settings.get("resume") and settings.get("out") is not None:
        saved = _settings_of_run(Path(settings["out"]))
        if settings.get("precision") == "auto":  # it keeps what it took at its start
            settings["precision"] = saved.get("precision", "auto")
        settings = saved | settings
    if settings.get("root") is not None and settings.get("data") is None:
        check_folder("--root", settings["root"])
        settings["data"] = detect(settings["root"])
    config = Config(**settings).resolved()
    check_step(config)
    check_paths(config)
    if not config.resume:
        check_name(config.backbone)

        from wsdan.networks.backbones import check_backbone

        check_backbone(config.backbone)  # layers and stages, before any image is read

    from wsdan.training.loop import train

    try:
        train(config)
    finally:
        unwritable(sys.stdout)  # no error of a run: its metrics are in its folder


def _settings_of_run(folder: Path) -> dict:
    """The settings in a run's config.yaml; none where there is no such file."""
    path = folder / CONFIG
    return settings_of(load_yaml(path, "--resume"), str(path)) if os.path.exists(path) else {}
