"""wsdan reproduce: train with a published setting, and compare with the published figure."""

import argparse
import json
from pathlib import Path

from wsdan.commands._comparison import compare, comparison_table
from wsdan.commands._training import settings_of_run, train_with
from wsdan.config import Config, settings_of
from wsdan.configs import SETTINGS, setting_file, setting_name
from wsdan.constants import REPRODUCED
from wsdan.errors import UserError
from wsdan.files import written_whole
from wsdan.output import print_if_possible
from wsdan.parser import add_setting_options
from wsdan.yaml_files import load_yaml

HELP = "train with a published setting, and compare with the published figure"
# Of the settings of wsdan train: where and how it runs, and those that a small machine must change.
RUNNING = (
    "root", "out", "resume", "overwrite", "device", "precision", "workers", "cache", "decode",
    "compile", "cuda_graph", "sync_batchnorm", "skip_bad_images", "log", "plots", "seed",
)  # fmt: skip
DEPARTING = (
    "data", "epochs", "batch_size", "accumulate", "image_size", "backbone", "pretrained", "weights",
    "num_attentions",
)  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "setting",
        nargs="?",
        metavar="NAME",
        help="a setting of --list, or cub, aircraft, cars, dogs",
    )
    parser.add_argument("--list", action="store_true", help="print the settings and their figures")
    add_setting_options(parser, *RUNNING)
    departing = parser.add_argument_group("departures from the setting, which the report names")
    add_setting_options(departing, *DEPARTING)


def run(options: dict) -> None:
    if options.pop("list"):
        print(settings_table())
        return
    if options["setting"] is None:
        raise UserError("name a setting; `wsdan reproduce --list` shows them")
    name = setting_name(options.pop("setting"))
    given = {key: value for key, value in options.items() if value is not None}
    given = settings_of(given, "wsdan reproduce")
    if "root" not in given:
        raise UserError(f"{name} needs --root, the folder of {SETTINGS[name].dataset}")
    path = setting_file(name)
    published = settings_of(load_yaml(path), str(path))
    settings = published | given
    if given.get("weights") is not None and given.get("pretrained") is None:
        settings["pretrained"] = None  # the file takes the place of the published weights
    if given.get("resume") and given.get("out") is not None:
        settings = published | settings_of_run(Path(given["out"])) | given
    folder, metrics = train_with(settings)

    from wsdan.distributed import launched_rank

    if launched_rank() == 0:
        setting = Config(**published, root=given["root"]).resolved()
        ran = Config(**settings_of_run(folder)).resolved()
        _report(compare(name, SETTINGS[name], setting, ran, folder, metrics), folder)


def _report(found: dict, folder: Path) -> None:
    """Write reproduce.json and print the table. Raises UserError if it cannot be written."""
    print_if_possible(comparison_table(found))
    path = folder / REPRODUCED
    try:
        with written_whole(path) as file:
            json.dump(found, file, indent=1)
            file.write("\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    print_if_possible(f"written to {path}")


def settings_table() -> str:
    """The settings, what was published for each, of which score, and where."""
    width = max(map(len, SETTINGS))
    lines = [f"{'setting':<{width}}  published  score  source"]
    for name, item in SETTINGS.items():
        accuracy = "   -   " if item.accuracy is None else f"{item.accuracy:5.2f} %"
        lines.append(f"{name:<{width}}  {accuracy:<9}  {item.score:<5}  {item.source}")
    return "\n".join(lines)
