"""Does our training step learn what the published one learns?

python benchmarks/learning_parity.py steps [--backbone NAME] [--json FILE] [--plot FILE] ...
python benchmarks/learning_parity.py runs --json FILE [--seeds 0 1 2 3 4] [--kinds NAME ...] ...

steps: both from the same state, at each of 50 steps, in float64; before each, the published run's
state is copied into ours. Losses must be equal to 1e-9, gradients to 1e-7, relative.
runs: both left alone for the same number of passes, in float32, and ours in bfloat16 too; runs that
FILE holds already are not repeated. The images are those of the embedded dataset, data order, draws
and first weights are those of the seed.
"""

import argparse
import dataclasses
import json
from pathlib import Path

from harness import report
from learning import plots, runs, steps

from wsdan.config import Config
from wsdan.data.synthetic import CLASSES

# The published optimizer for networks of torchvision; the embedded dataset's own for tiny.
PUBLISHED = {"optimizer": "sgd", "lr": 1e-3, "weight_decay": 1e-5, "pretrained": False}
VIEWS = {"train_views": "crop+drop", "views_after": 0.0}  # as published, not the embedded recipe's


def step_config(backbone: str, image_size: int, batch_size: int, seed: int) -> Config:
    settings = {} if backbone == "tiny" else PUBLISHED
    return Config(
        backbone=backbone,
        image_size=image_size,
        batch_size=batch_size,
        seed=seed,
        **VIEWS,
        **settings,
    ).resolved()


def run_steps(options: argparse.Namespace) -> int:
    """Returns the exit status: 1 where a bound does not hold."""
    config = step_config(options.backbone, options.image_size, options.batch, options.seed)
    found = steps.compare(config, options.steps, len(CLASSES))
    worst = {
        name: max(getattr(step, name) for step in found)
        for name in ("losses", "gradients", "weights", "centers", "statistics")
    }
    title = f"{options.backbone}, {options.image_size} px, {options.steps} steps in float64"
    print(title + ": largest relative difference of " + text(worst))
    if options.json is not None:
        settings = {name: getattr(options, name) for name in ("backbone", "image_size", "batch")}
        rows = [dataclasses.asdict(step) for step in found]
        content = {**report.machine("cpu"), **settings, "worst": worst, "steps": rows}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if options.plot is not None:
        plots.draw(found, title, options.plot)
    return int(any(worst[name] > bound for name, bound in plots.BOUNDS.items()))


def text(worst: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1e}" for name, value in worst.items())


def run_runs(options: argparse.Namespace) -> int:
    settings = {"epochs": options.epochs, "image_size": options.image_size}
    results = runs.Results.open(options.json, settings)
    for seed in options.seeds:
        left = [kind for kind in options.kinds if not results.has(kind, seed)]
        if left:
            images = runs.Images(Config(seed=seed, **VIEWS, **settings).resolved())
            for kind in left:
                results.add(runs.train(images, kind))
                print(results.rows[-1], flush=True)
    print(runs.table(results.rows))
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("steps", help="both from the same state, step by step")
    command.set_defaults(run=run_steps)
    command.add_argument("--backbone", default="tiny")
    command.add_argument("--image-size", type=int, default=64)
    command.add_argument("--batch", type=int, default=8)
    command.add_argument("--steps", type=int, default=50)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--json", type=Path, metavar="FILE")
    command.add_argument("--plot", type=Path, metavar="FILE")
    command = commands.add_parser("runs", help="both left alone, and what they learn")
    command.set_defaults(run=run_runs)
    command.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    command.add_argument("--kinds", nargs="+", choices=runs.KINDS, default=list(runs.KINDS))
    command.add_argument("--epochs", type=int, default=4)
    command.add_argument("--image-size", type=int, default=128)
    command.add_argument("--json", type=Path, metavar="FILE", required=True)
    options = parser.parse_args(arguments)
    return options.run(options)


if __name__ == "__main__":
    raise SystemExit(main())
