"""wsdan train: train and evaluate."""

import argparse

from wsdan.commands._training import train_with
from wsdan.config import settings_of
from wsdan.errors import UserError
from wsdan.parser import add_settings
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
    train_with(settings | settings_of(options, "wsdan train"))
