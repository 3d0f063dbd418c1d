"""The command line: wsdan train | eval | predict | convert | info, also as `python -m wsdan`.

torch is imported by the commands, after their arguments were checked: help and mistakes are told at
once. So nothing here, nor in the modules imported on top, may import it.
"""

import argparse
import dataclasses
import difflib
import importlib.metadata
import os
import platform
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

from wsdan.config import (
    DEVICES,
    GROUPS,
    ORIGINS,
    RECIPES,
    Config,
    check_given,
    load_yaml,
    settings_of,
    value_type,
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
    image_size,
    option_name,
    split_weights,
)

USER_MISTAKE = 2
METAVARS = {int: "N", float: "X", str: "NAME"}


class _Parser(argparse.ArgumentParser):
    """Raises UserError, a message of one line, instead of printing the usage.

    Options are not abbreviated: a new one would change the meaning of an old command.
    """

    def __init__(self, **options):
        super().__init__(**options, allow_abbrev=False)

    def print_help(self, file=None) -> None:
        """Print the help; argparse would pass over what cannot be written."""
        print(self.format_help(), end="", file=file)

    def error(self, message: str):
        raise UserError(f"{message} (see `{self.prog} --help`)")


class _Command(_Parser):
    """The parser of one command, which names the closest of its options to an unknown one."""

    def parse_known_args(self, args=None, namespace=None):
        known = self._option_string_actions
        for argument in args:
            option, _, value = argument.partition("=")
            if argument == "--":
                break
            if value == "--":  # argparse makes an empty list of it
                self.error(f"argument {option}: expected a value, got '--'")
            if option.startswith("--") and " " not in option and option not in known:
                self.error(f"there is no option {option}{_nearest(option, known)}")
        namespace, others = super().parse_known_args(args, namespace)
        if others:
            hint = _nearest("-" + others[0], known) if others[0].startswith("-") else ""
            self.error(f"unrecognized arguments: {' '.join(others)}{hint}")
        return namespace, others


def _nearest(option: str, known: Iterable[str]) -> str:
    """The end of a message on an unknown option: those that begin so, or else the most similar."""
    near = [name for name in known if name.startswith(option)]
    near = near or difflib.get_close_matches(option, known, n=1)
    return f"; did you mean {' or '.join(near[:3])}?" if near else ""


class _Version(argparse.Action):
    """Prints the installed version; argparse's own action wants it before it is asked for."""

    def __init__(self, option_strings: list[str], dest: str, help: str):
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        try:
            version = importlib.metadata.version("wsdan")
        except importlib.metadata.PackageNotFoundError:
            version = "(not installed)"
        print(f"{parser.prog} {version}")
        parser.exit()


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
    try:
        options = vars(_parser().parse_args(arguments))
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


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="wsdan", description="Train and run WS-DAN fine-grained classifiers.")
    parser.add_argument("--version", action=_Version, help="print the version and end")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=_Command
    )
    train = commands.add_parser(
        "train", help="train and evaluate; without options on the embedded dataset, in minutes"
    )
    train.add_argument(
        "folder", nargs="?", metavar="DIR", help="the dataset's folder, as --root; see --data"
    )
    _add_settings(train)
    train.add_argument("--config", metavar="FILE", help="YAML of settings; options override it")
    train.set_defaults(run=_train)

    evaluate = commands.add_parser("eval", help="accuracy of a checkpoint")
    _add_checkpoint(evaluate)
    _add_evaluation(evaluate)
    evaluate.set_defaults(run=_eval)

    predict = commands.add_parser(
        "predict", help="classify images: the top 5 classes and the object's box"
    )
    _add_checkpoint(predict)
    _add_options(predict, "refine_threshold", "refine_padding")
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    predict.add_argument("--json", action="store_true", help="print one JSON object per line")
    predict.add_argument(
        "--figure", metavar="DIR", help="save a figure of each image's views there, as NAME.png"
    )
    predict.set_defaults(run=_predict)

    conversion = commands.add_parser(
        "convert", help="convert a checkpoint of WS-DAN.PyTorch, CAL or WS_DAN_PyTorch"
    )
    conversion.add_argument("source", metavar="SOURCE", help="their checkpoint")
    conversion.add_argument("--out", required=True, metavar="FILE", help="the file to write")
    conversion.add_argument(
        "--classes", metavar="FILE", help="class names, one per line, or CUB's classes.txt"
    )
    conversion.add_argument(
        "--image-size",
        type=image_size,
        metavar="N",
        help="side or HEIGHTxWIDTH of its training images, which SOURCE does not tell "
        "(default: 448)",
    )
    conversion.add_argument(
        "--origin", choices=ORIGINS, help="the code that wrote SOURCE, where the file does not tell"
    )
    conversion.set_defaults(run=_convert)

    info = commands.add_parser("info", help="versions, devices, and which backends can run")
    info.set_defaults(run=_info)
    return parser


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="last.pt or best.pt")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="device to run on")
    parser.add_argument(
        "--raw-weights",
        action="store_true",
        help="use the trained weights instead of their moving average (--ema)",
    )
    parser.add_argument(
        "--max-pixels", type=int, metavar="N", help="pixels of the largest image that is decoded"
    )


def _add_evaluation(parser: argparse.ArgumentParser) -> None:
    """Options of `wsdan eval`; settings not given are those of the checkpoint."""
    names = ("data", "root", "image_size", "batch_size", "workers", "precision", "final", "tta")
    _add_options(parser, *names, "refine_threshold", "refine_padding")
    parser.add_argument(
        "--skip-bad-images", action="store_true", help="skip unreadable images and count them"
    )
    parser.add_argument(
        "--per-class", action="store_true", help="print the accuracy of each class, worst first"
    )
    parser.add_argument("--confusion", metavar="FILE", help="write the confusion matrix as csv")
    parser.add_argument(
        "--errors",
        metavar="FILE",
        help="write each wrong image as csv: path, truth, prediction, probabilities",
    )
    parser.add_argument("--json", action="store_true", help="all numbers as one JSON object")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """One option for each field of Config; what is not given stays out of the namespace."""
    group = parser
    for item in dataclasses.fields(Config):
        if item.name in GROUPS:
            group = parser.add_argument_group(GROUPS[item.name])
        _add_option(group, item, argparse.SUPPRESS, _help(item))


def _add_options(parser: argparse.ArgumentParser, *names: str) -> None:
    """Settings that replace those of a checkpoint; None where they are not given."""
    fields = {item.name: item for item in dataclasses.fields(Config)}
    for name in names:
        _add_option(parser, fields[name], None, fields[name].metadata["help"])


def _add_option(parser, item: dataclasses.Field, default: str | None, text: str) -> None:
    """The option of a setting."""
    kind, choices = value_type(item), item.metadata["choices"]
    how = {"action": argparse.BooleanOptionalAction}
    if kind is not bool:
        metavar = None if choices else item.metadata["metavar"] or METAVARS[kind]
        read = image_size if item.name == "image_size" else kind
        how = {"type": read, "choices": choices, "metavar": metavar}
    parser.add_argument(option_name(item.name), default=default, help=text, **how)


def _help(item: dataclasses.Field) -> str:
    """What a setting is, and its default: that of the data's recipe where it has one."""
    text = item.metadata["help"]
    if item.name in RECIPES["paper"]:
        ours, embedded = RECIPES["paper"][item.name], RECIPES["synthetic"][item.name]
        return f"{text} (default: {ours}; embedded dataset: {embedded})"
    if item.default is None or value_type(item) is bool:
        return text
    return f"{text} (default: {item.default})"


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
