"""What the commands that train have in common: from settings to a finished run."""

import os
import sys
from pathlib import Path

from wsdan.config import Config, settings_of
from wsdan.constants import CONFIG
from wsdan.data.readers import detect
from wsdan.networks.names import check_name
from wsdan.output import unwritable
from wsdan.recipes import PLAIN
from wsdan.remote.addresses import is_remote
from wsdan.remote.mirror import fetch_run
from wsdan.remote.store import check_installed_for
from wsdan.validation import check_folder, check_paths, check_reachable, check_step
from wsdan.yaml_files import load_yaml


def train_with(settings: dict) -> tuple[Path, dict[str, float]]:
    """Train with the fields of Config that `settings` has; a resumed run's others are its own.

    Returns the run's folder and the metrics of its last evaluation. Raises UserError, for mistakes
    in the settings before anything slow is imported.
    """
    if settings.get("out") is not None:
        check_reachable("--out", settings["out"])
    if settings.get("resume") and settings.get("out") is not None:
        if is_remote(settings.get("mirror")) and not is_remote(settings["out"]):
            check_installed_for(settings["mirror"])
            fetch_run(Path(settings["out"]), settings["mirror"])
        saved = settings_of_run(Path(settings["out"]))
        if settings.get("precision") == "auto":  # it keeps what it took at its start
            settings = settings | {"precision": saved.get("precision", "auto")}
        settings = saved | settings
    if settings.get("root") is not None and settings.get("data") is None:
        check_folder("--root", settings["root"])
        settings = settings | {"data": detect(settings["root"])}
    config = Config(**settings).resolved()
    check_step(config)
    check_paths(config)
    if not config.resume:
        check_name(config.backbone)

        from wsdan.networks.backbones import check_backbone

        check_backbone(
            config.backbone, config.drop_path
        )  # layers and stages, before any image is read

    from wsdan.training.loop import train

    try:
        return train(config)
    finally:
        unwritable(sys.stdout)  # no error of a run: its metrics are in its folder


def settings_of_run(folder: Path) -> dict:
    """The settings in a run's config.yaml; none where there is no such file. Those that are younger
    than the file are what was done before they were settings."""
    path = folder / CONFIG
    if not os.path.exists(path):
        return {}
    return settings_of(PLAIN | load_yaml(path, "--resume"), str(path))
