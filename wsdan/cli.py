"""The command line: wsdan train | eval | predict | info. `python -m wsdan` is the same program."""

import argparse
import dataclasses
import json
import platform
import sys

import torch
import torchvision

import wsdan_kernels
from wsdan.config import DATA, DEVICES, Config, from_dict, load_yaml, value_type
from wsdan.distributed import is_main
from wsdan.errors import StoppedError, UserError
from wsdan.rules import option_name

USER_MISTAKE = 2


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str):
        raise UserError(f"{message} (see `{self.prog} --help`)")


def main(arguments: list[str] | None = None) -> int:
    """Run the program; returns the exit status: 0, or 2 for a user's mistake (one line)."""
    try:
        options = vars(_parser().parse_args(arguments))
        options.pop("run")(options)
    except UserError as error:
        print(f"wsdan: error: {error}", file=sys.stderr)
        return USER_MISTAKE
    except StoppedError as stop:
        if is_main():
            print(f"wsdan: {stop}", file=sys.stderr)
        return stop.status
    except KeyboardInterrupt:
        print("wsdan: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="wsdan", description="Train and run WS-DAN fine-grained classifiers.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    train = commands.add_parser(
        "train", help="train, then evaluate; with no option on embedded pictures, in minutes"
    )
    _add_settings(train)
    train.add_argument("--config", metavar="FILE", help="YAML of settings; options override it")
    train.set_defaults(run=_train)

    evaluate = commands.add_parser("eval", help="accuracy of a checkpoint")
    _add_checkpoint(evaluate)
    evaluate.add_argument("--data", choices=DATA, help="default: the data it was trained on")
    evaluate.add_argument("--root", metavar="DIR", help="folder with val/ or test/")
    evaluate.add_argument("--batch-size", type=int, metavar="N", help="pictures a step")
    evaluate.add_argument("--skip-bad-images", action="store_true", help="count them and go on")
    evaluate.set_defaults(run=_eval)

    predict = commands.add_parser("predict", help="classify pictures: top 5 classes and the box")
    _add_checkpoint(predict)
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="picture files")
    predict.add_argument("--json", action="store_true", help="one JSON object a line")
    predict.set_defaults(run=_predict)

    info = commands.add_parser("info", help="versions, devices, and which backends can run")
    info.set_defaults(run=_info)
    return parser


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="last.pt or best.pt")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="where to run")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """One option for each field of Config; what is not given stays out of the namespace."""
    metavars = {int: "N", float: "X", str: "NAME"}
    for item in dataclasses.fields(Config):
        option = option_name(item.name)
        text = item.metadata["help"]
        kind = value_type(item)
        if kind is bool:
            parser.add_argument(
                option, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text
            )
            continue
        if item.default is not None:
            text += f" (default: {item.default})"
        choices = item.metadata["choices"]
        parser.add_argument(
            option,
            type=kind,
            choices=choices,
            metavar=None if choices else metavars[kind],
            default=argparse.SUPPRESS,
            help=text,
        )


def _train(options: dict) -> None:
    from wsdan.train import train  # slow to import, and only this command needs it

    path = options.pop("config")
    values = load_yaml(path) if path is not None else {}
    train(from_dict({**values, **options}, str(path)))  # the options' types are checked already


def _eval(options: dict) -> None:
    from wsdan.data.loaders import val_loader
    from wsdan.evaluate import accuracy_table, evaluate
    from wsdan.predict import Classifier
    from wsdan.launch import pick_device

    classifier = Classifier(options.pop("checkpoint"), pick_device(options.pop("device")))
    changes = {name: value for name, value in options.items() if value is not None}
    if changes.get("root") is not None:
        changes.setdefault("data", "folder")
    if changes.get("data") == "synthetic":
        changes["root"] = None
    config = dataclasses.replace(
        classifier.config, resume=False, overwrite=False, cache=None, decode="cpu", **changes
    ).resolved()
    batches = val_loader(config, classifier.classes)
    print(accuracy_table(evaluate(classifier.model, batches, config, classifier.device)))


def _predict(options: dict) -> None:
    from wsdan.predict import Classifier, prediction_text
    from wsdan.launch import pick_device

    classifier = Classifier(options["checkpoint"], pick_device(options["device"]))
    for path in options["images"]:
        result = classifier.predict(path)
        print(json.dumps(result) if options["json"] else prediction_text(result))


def _info(options: dict) -> None:
    print(f"wsdan {wsdan_kernels.__version__}")
    print(f"python {platform.python_version()}, torch {torch.__version__}, ", end="")
    print(f"torchvision {torchvision.__version__}")
    print(f"cpu: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(f"cuda: {', '.join(devices) if devices else 'no device'}")
    for device in ["cpu", "cuda"] if devices else ["cpu"]:
        print(wsdan_kernels.explain(device))
