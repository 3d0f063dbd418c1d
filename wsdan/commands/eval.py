"""wsdan eval: the accuracy of a checkpoint."""

import argparse
import os
from pathlib import Path

from wsdan.commands._checkpoint import (
    add_checkpoint,
    add_evaluation_settings,
    check_evaluation_options,
    evaluation_config,
    load_classifier,
    tell_precision,
)
from wsdan.constants import METRICS
from wsdan.errors import UserError
from wsdan.validation import check_output, check_output_folder

HELP = "accuracy of a checkpoint"


def add_options(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    add_evaluation_settings(parser)
    parser.add_argument(
        "--per-class", action="store_true", help="print the accuracy of each class, worst first"
    )
    parser.add_argument("--confusion", metavar="FILE", help="write the confusion matrix as csv")
    parser.add_argument(
        "--errors",
        metavar="FILE",
        help="write each wrong image as csv: path, truth, prediction, probabilities",
    )
    parser.add_argument(
        "--plots",
        metavar="DIR",
        help="write figures (curves, confusion matrix, accuracy of each class, calibration, worst "
        "mistakes) and predictions.csv to a folder",
    )
    parser.add_argument("--json", action="store_true", help="all numbers as one JSON object")


def run(options: dict) -> None:
    names = ("per_class", "confusion", "errors", "json", "plots")
    shown = {name: options.pop(name) for name in names}
    check_evaluation_options(options)
    for name in ("confusion", "errors"):
        if shown[name] is not None:
            check_output(f"--{name}", shown[name])
    if shown["plots"] is not None:
        check_output_folder("--plots", shown["plots"])

    from wsdan.data.loaders import fingerprints, val_loader
    from wsdan.distributed import gather_objects, is_main, process_group, world_size
    from wsdan.inference.evaluate import evaluate
    from wsdan.training.launch import check_data

    run_folder = os.path.dirname(options["checkpoint"])
    classifier = load_classifier(options)
    config = evaluation_config(classifier, options)
    with process_group(classifier.device):
        tell_precision(options["precision"], config)
        batches = val_loader(config, classifier.classes)
        if world_size() > 1:
            check_data(fingerprints(config, val=batches), config, classifier.classes)
        wrong = None if shown["errors"] is None else []
        log = None if shown["plots"] is None else _new_log(classifier.classes, config)
        result = evaluate(classifier.model, batches, config, classifier.device, wrong, log)
        if wrong is not None:
            wrong = [item for part in gather_objects(wrong) for item in part]
        if is_main():
            _report(result, classifier.classes, shown, wrong)
        if log is not None:
            _plot(shown["plots"], run_folder, result, log, classifier.classes, config, batches)


def _new_log(classes: list[str], config):
    from wsdan.inference.plots.predictions import PredictionLog

    return PredictionLog(classes, config)


def _plot(folder: str, run_folder: str, result, log, classes: list[str], config, batches) -> None:
    """Write the figures, with the curves of the checkpoint's run if it has any."""
    from wsdan.data.images import BadImageError
    from wsdan.distributed import is_main
    from wsdan.inference.plots.folder import write_curves, write_plots

    try:
        if is_main():
            os.makedirs(folder, exist_ok=True)
            write_curves(Path(folder), Path(run_folder, METRICS))
        write_plots(Path(folder), result, log, classes, config, batches.dataset.dataset)
    except BadImageError as error:
        raise UserError(f"--plots: {error}") from None
    except OSError as error:
        raise UserError(f"--plots: cannot write to {folder}: {error.strerror}") from None


def _report(result, classes: list[str], shown: dict, wrong: list | None) -> None:
    from wsdan.inference.evaluate import accuracy_table
    from wsdan.inference.reports import (
        evaluation_json,
        per_class_table,
        write_confusion,
        write_errors,
    )

    print(evaluation_json(result, classes) if shown["json"] else accuracy_table(result.metrics))
    if shown["per_class"] and not shown["json"]:
        print(per_class_table(result, classes))
    if shown["confusion"] is not None:
        write_confusion(shown["confusion"], result, classes)
    if wrong is not None:
        write_errors(shown["errors"], wrong, classes)
