"""A run with a published setting beside the published figure: as JSON and as a table."""

import dataclasses
from pathlib import Path

from wsdan.config import Config
from wsdan.configs import Published
from wsdan.errors import UserError

# Settings of a run that do not change what it learns, but for rounding, and those of the batch,
# which `_departures` compares on its own.
_NO_DEPARTURE = {
    "root", "workers", "cache", "device", "compile", "cuda_graph", "log", "log_images", "plots",
    "save_every", "eval_every", "max_skipped", "max_pixels", "profile", "out", "resume",
    "overwrite", "allow_changed_data", "seed", "batch_size", "accumulate", "sync_batchnorm",
}  # fmt: skip


AUTO = "auto"  # a setting of this value leaves the choice to the machine


def compare(
    name: str, published: Published, setting: Config, run: Config, folder: Path, metrics: dict
) -> dict:
    """What reproduce.json holds.

    Args:
        setting, run: the published settings and those of the run, both resolved.
        folder, metrics: of the run, as `train` returns them.

    Raises:
        UserError: the run has not the score that was published, as it was of other settings.
    """
    import torch

    import wsdan_kernels
    from wsdan.distributed import launched_size
    from wsdan.reporting.history import every_epoch

    score = published.score
    if score not in metrics:
        raise UserError(f"the run in {folder} has no score {score!r}: it is of other settings")
    epochs = [item for item in every_epoch(folder / "last.pt") if f"val_{score}" in item]
    best = max(epochs, key=lambda item: item[f"val_{score}"], default={f"val_{score}": None})
    return {
        "setting": name,
        "dataset": published.dataset,
        "score": score,
        "published": published.accuracy,
        "source": published.source,
        "last": metrics[score],
        "best": best[f"val_{score}"],
        "best_epoch": best["epoch"] + 1 if "epoch" in best else None,
        "epochs": run.epochs,
        "images": metrics["images"],
        "seed": run.seed,
        "departures": _departures(published, setting, run, metrics, launched_size()),
        "differs": list(published.differs),
        "wsdan": wsdan_kernels.__version__,
        "torch": torch.__version__,
    }


def _departures(
    published: Published, setting: Config, run: Config, metrics: dict, processes: int
) -> list[str]:
    """What the run did otherwise than the setting says, a line each."""
    compared = [item.name for item in dataclasses.fields(Config) if item.name not in _NO_DEPARTURE]
    pairs = [(name, getattr(run, name), getattr(setting, name)) for name in compared]
    lines = [
        f"{name} {mine} instead of {own}" for name, mine, own in pairs if own not in (mine, AUTO)
    ]
    step, wanted = run.batch_size * run.accumulate * processes, setting.batch_size
    if step != wanted:
        lines.append(f"{step} images a step instead of {wanted}")
    together = run.batch_size * (processes if run.sync_batchnorm else 1)
    if together != wanted:
        lines.append(f"batch norm over {together} images instead of {wanted}")
    if metrics["images"] != published.images:
        lines.append(f"{metrics['images']} test images instead of {published.images}")
    return lines


def comparison_table(found: dict) -> str:
    """The table of a comparison, with its departures and differences, for the terminal."""
    from wsdan.inference.evaluate import VIEWS

    rows = [
        ("published", found["published"], found["source"]),
        ("here, last epoch", found["last"], f"epoch {found['epochs']}, seed {found['seed']}"),
        ("here, best epoch", found["best"], f"epoch {found['best_epoch']}, chosen on the test"),
    ]
    lines = [f"{found['setting']} on {found['dataset']}, {VIEWS[found['score']]}:"]
    for title, accuracy, note in rows:
        number = "     -  " if accuracy is None else f"{accuracy:6.2f} %"
        lines.append(f"{title:<17} {number}  {note}")
    if found["published"] is not None:
        gap = found["last"] - found["published"]
        lines.append(f"{'last - published':<17} {gap:+6.2f}")
    for title, items in (
        ("this run departs from the setting", found["departures"]),
        ("the setting differs from the publication", found["differs"]),
    ):
        lines += [f"{title}:", *(f"- {item}" for item in items)] if items else []
    return "\n".join(lines)
