"""The command line: wsdan train | eval | predict | convert | info, also as `python -m wsdan`.

torch is imported by the commands, after their arguments were checked: help and mistakes are told at
once. So nothing here, nor in the modules imported on top, may import it.
"""

import dataclasses
import os
import platform
import signal
import sys
from pathlib import Path

from wsdan.config import (
    Config,
    check_given,
    load_yaml,
    settings_of,
)
from wsdan.constants import CONFIG
from wsdan.data.readers import detect
from wsdan.errors import StoppedError, UserError, one_line
from wsdan.networks.names import check_name
from wsdan.output import (
    escape_what_is_not_encodable,
    open_closed_streams,
    print_if_possible,
    unwritable,
)
from wsdan.parser import build_parser
from wsdan.validation import (
    check_checkpoint_file,
    check_file,
    check_folder,
    check_images,
    check_output,
    check_paths,
    check_ranges,
    check_reachable,
    check_step,
    check_text,
    split_weights,
)

USER_MISTAKE = 2


def main(arguments: list[str] | None = None) -> int:
    """Run the program; returns the exit status: 0, or 2 for a user's mistake (one line)."""
    open_closed_streams()
    escape_what_is_not_encodable()
    try:
        status = _run(arguments)
    except OSError:
        if (error := unwritable(sys.stdout, "\n")) is None:
            raise  # another file's
    else:
        error = unwritable(sys.stdout)  # here, where a reader who has left is noticed
    if isinstance(error, BrokenPipeError):
        status = 128 + signal.SIGPIPE  # as a shell reports it
    elif error is not None:
        print_if_possible(f"wsdan: error: stdout cannot be written: {error.strerror}", error=True)
        status = USER_MISTAKE
    unwritable(sys.stderr)
    return status


def _run(arguments: list[str] | None) -> int:
    """The exit status of a command; its errors are a line on stderr."""
    commands = {
        "train": _train, "eval": _eval, "predict": _predict, "convert": _convert, "info": _info
    }  # fmt: skip
    try:
        options = vars(build_parser(commands).parse_args(arguments))
        options.pop("run")(options)
    except SystemExit as end:  # of argparse, after a help
        return end.code
    except UserError as error:
        print_if_possible(f"wsdan: error: {one_line(error)}", error=True)
        return USER_MISTAKE
    except StoppedError as stop:
        from wsdan.distributed import is_main

        if is_main():
            print_if_possible(f"wsdan: {one_line(stop)}", error=True)
        return stop.status
    except KeyboardInterrupt:
        print_if_possible("wsdan: interrupted", error=True)
        return 130
    return 0


def _train(options: dict) -> None:
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
        settings = _settings_of_run(Path(settings["out"])) | settings
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


def _eval(options: dict) -> None:
    check_checkpoint_file(options["checkpoint"])
    if options["root"] is not None:
        check_folder("--root", options["root"])
    settings = {item.name for item in dataclasses.fields(Config)}
    check_given({n: value for n, value in options.items() if n in settings and value is not None})
    for name in ("confusion", "errors"):
        if options[name] is not None:
            check_output(f"--{name}", options[name])
    shown = {name: options.pop(name) for name in ("per_class", "confusion", "errors", "json")}

    from wsdan.data.loaders import fingerprints, val_loader
    from wsdan.distributed import gather_objects, is_main, process_group, world_size
    from wsdan.inference.evaluate import evaluate
    from wsdan.networks.model import check_image_size
    from wsdan.training.launch import check_data

    classifier = _classifier(options)
    changes = {name: value for name, value in options.items() if value is not None}
    trained_on_none = classifier.config.root is None  # on the embedded dataset, or it is unknown
    if "root" in changes and "data" not in changes and trained_on_none:
        changes["data"] = detect(changes["root"])
    if changes.get("data") == "synthetic":
        changes["root"] = None
    config = dataclasses.replace(
        classifier.config, resume=False, overwrite=False, cache=None, decode="cpu", **changes
    ).resolved()
    check_image_size(classifier.model, config.input_size, config.in_channels)
    with process_group(classifier.device):
        batches = val_loader(config, classifier.classes)
        if world_size() > 1:
            check_data(fingerprints(config, val=batches), config, classifier.classes)
        wrong = None if shown["errors"] is None else []
        result = evaluate(classifier.model, batches, config, classifier.device, wrong)
        if wrong is not None:
            wrong = [item for part in gather_objects(wrong) for item in part]
        if is_main():
            _report(result, classifier.classes, shown, wrong)


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


def _predict(options: dict) -> None:
    check_checkpoint_file(options["checkpoint"])
    check_images(options["images"])
    if options["figure"] is not None:
        check_text("--figure", options["figure"])
    changes = {name: options.pop(name) for name in ("refine_threshold", "refine_padding")}
    changes = {name: value for name, value in changes.items() if value is not None}
    check_given(changes)

    from wsdan.inference.predict import figure_paths, prediction_json, prediction_text

    classifier = _classifier(options)
    classifier.config = dataclasses.replace(classifier.config, **changes)
    figures = [None] * len(options["images"])
    if options["figure"] is not None:
        figures = figure_paths(options["images"], options["figure"])
    for path, figure in zip(options["images"], figures, strict=True):
        result = classifier.predict(path)
        if figure is not None:
            classifier.save_figure(path, figure, result)
        print(prediction_json(result) if options["json"] else prediction_text(result))


def _convert(options: dict) -> None:
    check_file("convert", split_weights(options["source"])[0])
    check_output("--out", options["out"])
    if options["classes"] is not None:
        check_file("--classes", options["classes"])

    from wsdan.networks.convert import convert

    found = convert(**options)
    print(f"{options['source']}: {found}; written to {options['out']}")


def _classifier(options: dict):
    """The Classifier of --checkpoint, --device and --raw-weights, which `options` loses."""
    from wsdan.inference.predict import Classifier
    from wsdan.training.launch import pick_device

    device = pick_device(options.pop("device"))
    classifier = Classifier(
        options.pop("checkpoint"), device, raw_weights=options.pop("raw_weights")
    )
    max_pixels = options.pop("max_pixels")
    if max_pixels is not None:
        classifier.config = dataclasses.replace(classifier.config, max_pixels=max_pixels)
        check_ranges(classifier.config)
    return classifier


def _info(options: dict) -> None:
    import torch
    import torchvision

    import wsdan_kernels

    print(f"wsdan {wsdan_kernels.__version__}")
    print(f"python {platform.python_version()}, torch {torch.__version__}, ", end="")
    print(f"torchvision {torchvision.__version__}")
    print(f"cpu: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(f"cuda: {', '.join(devices) if devices else 'no device'}")
    for device in ["cpu", "cuda"] if devices else ["cpu"]:
        print(wsdan_kernels.explain(device))
