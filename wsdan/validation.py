"""What the values of a configuration must be, and which exclude each other: one line each."""

import dataclasses
import importlib.util
import os
import stat
from pathlib import Path

from wsdan.constants import AUTO, NORMALIZATION, SYNTHETIC_MAX_SIZE, SYNTHETIC_MIN_SIZE
from wsdan.errors import UserError, shown
from wsdan.remote.addresses import is_remote, is_web
from wsdan.remote.store import check_installed_for

AT_LEAST = {
    "epochs": 1,
    "batch_size": 1,
    "accumulate": 1,
    "num_attentions": 1,
    "eval_every": 1,
    "save_every": 0,
    "max_skipped": 1,
    "log_images": 0,
    "freeze": 0,
    "workers": 0,
    "max_pixels": 1,
    "seed": 0,
    "lr": 0.0,
    "weight_decay": 0.0,
    "classifier_lr_scale": 0.0,
    "center_weight": 0.0,
    "counterfactual": 0.0,
    "calmix": 0.0,
    "refine_smoothing": 1,
    "refine_padding": 0.0,
    "zoom": 1.0,
    "pool_eps": 0.0,
}
# Far above what is of use, and low enough to compute and allocate with.
AT_MOST = {
    "image_size": 8192,
    "num_attentions": 4096,
    "workers": 1024,
    "epochs": 10**6,
    "refine_smoothing": 255,
    "seed": 2**62 - 1,  # the embedded dataset draws from 2 x seed + 1
}
AT_MOST_ELSE = 2**31 - 1
LARGEST_FLOAT = 3.4e38  # float32 has no larger ones
ADDRESS = "is an address, which only --root, --checkpoint and --mirror take"
IS_FOLDER = "is a folder"
HUB = "hf:"  # begins the name of a repository of Hugging Face's hub, in place of a file's
PRETRAINED = "config.json"  # by which a folder of Classifier.save_pretrained is known
LOGGERS = ("csv", "mlflow", "wandb")
SHARES = ("beta", "layer_decay", "refine_threshold", "views_after", "warmup")
SHARES_BELOW_1 = ("class_weights", "drop_path", "ema", "label_smoothing")


def option_name(name: str) -> str:
    """The command-line option of a setting."""
    return "--" + name.replace("_", "-")


def check_choices(config) -> None:
    """Raise UserError for a value that is none of its setting's choices."""
    for item in dataclasses.fields(config):
        value, choices = getattr(config, item.name), item.metadata["choices"]
        if choices is not None and value is not None and value not in choices:
            raise UserError(
                f"{option_name(item.name)} must be one of {', '.join(choices)}; got {value}"
            )


def check_together(config) -> None:
    """Raise UserError for settings that need or exclude each other."""
    names = [] if config.log is None else config.log.split(",")
    if not set(names) <= set(LOGGERS) or len(set(names)) < len(names):
        raise UserError(
            f"--log must be of {', '.join(LOGGERS)}, by commas; got {shown(config.log)}"
        )
    if config.data == "folder" and config.root is None:
        raise UserError("--data folder needs --root, a folder with train/ and val/ (or test/)")
    if config.data == "synthetic" and config.root is not None:
        raise UserError("--root is for images of your own; --data synthetic needs no folder")
    if config.data == "synthetic" and config.recipe != "paper":
        raise UserError(
            f"--recipe {config.recipe} is for photographs; the embedded dataset has its own"
        )
    if config.data != "synthetic" and config.root is None:
        raise UserError(f"--data {config.data} needs --root, the folder of the dataset")
    if config.data == "synthetic" and (config.cache is not None or config.decode != "cpu"):
        raise UserError("--cache and --decode are for image files; --data synthetic has none")
    if config.cache is not None and config.decode == "gpu":
        raise UserError("--cache and --decode gpu exclude each other: kept images are decoded")
    if config.in_channels not in NORMALIZATION:
        raise UserError(f"--in-channels must be 1, 3 or 4; got {shown(config.in_channels)}")
    if config.in_channels == 4 and config.data == "synthetic":
        raise UserError("--in-channels must be 1 or 3 for --data synthetic; got 4")
    if config.in_channels == 4 and (config.cache is not None or config.decode == "gpu"):
        raise UserError("--in-channels 4 excludes --cache and --decode gpu, which keep RGB")
    if config.resume and config.overwrite:
        raise UserError("--resume and --overwrite exclude each other")
    if config.allow_changed_data and not config.resume:
        raise UserError("--allow-changed-data needs --resume, a run that began with other images")
    if config.pretrained and config.weights is not None:
        raise UserError("--pretrained and --weights exclude each other; add --no-pretrained")
    if config.ignore_classifier and config.weights is None:
        raise UserError("--ignore-classifier needs --weights, a checkpoint to start from")
    if config.cuda_graph and config.profile:
        raise UserError("--cuda-graph and --profile exclude each other: a graph has no phases")
    if config.compile and config.profile:
        raise UserError("--compile and --profile exclude each other: compiled code has no phases")
    if (config.resume or config.overwrite) and config.out is None:
        raise UserError("--resume and --overwrite need --out, the folder of the run")
    if config.out is not None and is_remote(config.out):
        raise UserError(
            f"--out: {shown(config.out)} is an address, and --out a place on this machine; "
            "--mirror ADDRESS copies a run's checkpoints to one"
        )
    if config.mirror is not None and not is_remote(config.mirror):
        raise UserError(
            f"--mirror must be an address, such as s3://BUCKET/RUN; got {shown(config.mirror)}"
        )
    if is_web(config.mirror):
        raise UserError(f"--mirror: {shown(config.mirror)} can be read, not written")
    if config.sampler == "balanced" and config.class_weights:
        raise UserError("--sampler balanced and --class-weights exclude each other: each suffices")
    if config.method == "baseline" and (
        config.counterfactual
        or config.calmix
        or config.joint_views
        or config.views_after
        or config.train_views not in (None, "crop+drop")
    ):
        names = "--counterfactual, --calmix, --joint-views, --train-views and --views-after"
        raise UserError(f"{names} are for --method wsdan")
    if config.method == "baseline" and config.zoom > 1:
        raise UserError("--zoom is for --method wsdan: a plain backbone sees no crop")


def check_ranges(config) -> None:
    """Raise UserError for a number out of its range; no setting with a recipe may be None."""
    for item in dataclasses.fields(config):
        _check_number(option_name(item.name), getattr(config, item.name), item.name)
    _check_image_size(config.image_size, config.data == "synthetic")
    _check_zoom(config)
    for name, low in AT_LEAST.items():
        if not getattr(config, name) >= low:
            raise UserError(
                f"{option_name(name)} must be at least {low}; got {getattr(config, name)}"
            )
    if config.refine_smoothing % 2 == 0:
        raise UserError(f"--refine-smoothing must be odd; got {config.refine_smoothing}")
    for name in SHARES:
        value = getattr(config, name)
        if value != AUTO and not 0 <= value <= 1:
            raise UserError(f"{option_name(name)} must be in [0, 1]; got {value}")
    for name in SHARES_BELOW_1:
        if getattr(config, name) is not None and not 0 <= getattr(config, name) < 1:
            raise UserError(f"{option_name(name)} must be in [0, 1); got {getattr(config, name)}")
    if config.calmix > 0 and config.batch_size % 2 == 1:
        raise UserError(f"--calmix needs an even --batch-size, for pairs; got {config.batch_size}")


def _check_image_size(value: int | str, synthetic: bool) -> None:
    sides = height_and_width(value)
    low, high = (
        (SYNTHETIC_MIN_SIZE, SYNTHETIC_MAX_SIZE) if synthetic else (1, AT_MOST["image_size"])
    )
    data = " for --data synthetic" if synthetic else ""
    if min(sides) < low:
        raise UserError(f"--image-size must be at least {low}{data}; got {value}")
    if max(sides) > high:
        raise UserError(f"--image-size must be at most {high}{data}; got {shown(value)}")
    if synthetic and sides[0] != sides[1]:
        raise UserError(f"--image-size must be one number{data}; got {value}")


def _check_zoom(config) -> None:
    """Raise UserError for images larger than --image-size may ask for."""
    synthetic = config.data == "synthetic"
    high = SYNTHETIC_MAX_SIZE if synthetic else AT_MOST["image_size"]
    if config.zoom * max(height_and_width(config.image_size)) > high:
        data = " for --data synthetic" if synthetic else ""
        raise UserError(
            f"--zoom times --image-size must be at most {high}{data}; got {config.zoom:g} times "
            f"{config.image_size}"
        )


def height_and_width(size: int | str | tuple[int, int]) -> tuple[int, int]:
    """Height and width in pixels of a side N, a pair, or a text HEIGHTxWIDTH of `image_size`."""
    if isinstance(size, str):
        height, _, width = size.partition("x")
        return int(height), int(width)
    return size if isinstance(size, tuple) else (size, size)


def image_size(text: str) -> int | str:
    """N, or HEIGHTxWIDTH with two numbers, as `--image-size` takes it: 448, or "448x224".

    Raises ValueError.
    """
    sides = [int(part) for part in text.split("x")]
    if len(sides) > 2:
        raise ValueError(text)
    return sides[0] if sides[0] == sides[-1] else f"{sides[0]}x{sides[1]}"


def threshold(text: str) -> float | str:
    """A number, or "auto", as `--refine-threshold` takes it. Raises ValueError."""
    return text if text == AUTO else float(text)


def _check_number(option: str, value: object, name: str) -> None:
    """Raise UserError for a float that float32 cannot hold, NaN included, or an int too large."""
    if isinstance(value, float) and not abs(value) <= LARGEST_FLOAT:
        raise UserError(f"{option} must be a finite number, at most {LARGEST_FLOAT}; got {value}")
    high = AT_MOST.get(name, AT_MOST_ELSE)
    if isinstance(value, int) and value > high:
        raise UserError(f"{option} must be at most {high}; got {shown(value)}")


def check_text(name: str, value: str) -> None:
    """Raise UserError for text that can be in no file's name: NUL, or half a surrogate pair."""
    try:
        encoded = os.fsencode(value)
    except UnicodeEncodeError:
        encoded = b"\0"
    if b"\0" in encoded:
        raise UserError(f"{name}: {shown(value)} holds a character that no file's name can hold")


def check_step(config) -> None:
    """Raise UserError for steps of a single image, on which batch norm does not train."""
    if config.batch_size * config.accumulate == 1:
        raise UserError(
            "--batch-size 1: batch norm cannot train on a step of a single image; pass "
            "--batch-size 2, or --accumulate 2"
        )


def check_paths(config) -> None:
    """Raise UserError where a file or folder that the configuration names is not there."""
    if config.root is not None:
        check_folder("--root", config.root)
    if config.mirror is not None:
        check_text("--mirror", config.mirror)
        check_installed_for(config.mirror)
    if config.weights is not None and not config.resume:
        check_file("--weights", split_weights(config.weights)[0])


def check_reachable(option: str, path: str | Path) -> None:
    """Raise UserError for a path that is too long, or a loop of links; `option` is named."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise UserError(f"{option}: {path}: {error.strerror}") from None


def check_folder(option: str, path: str | Path) -> None:
    """Raise UserError unless `path` is a folder, or of an address, whose form alone is checked;
    `option` is named."""
    if is_remote(path):
        check_text(option, str(path))
        check_installed_for(str(path))
    elif not os.path.isdir(path):
        raise UserError(f"{option}: no such folder: {path}")


def check_file(option: str, path: str | Path) -> None:
    """Raise UserError unless `path` is a file; `option` is named."""
    fault = file_fault(path)
    if fault is not None:
        raise UserError(f"{option}: {path}: {fault}")


def split_weights(text: str) -> tuple[str, str | None]:
    """FILE and KEY of FILE:KEY; KEY is None where there is none, or a file has the whole name."""
    path, _, key = text.rpartition(":")
    if os.path.exists(text) or not (key and os.path.isfile(path)):
        return text, None
    return path, key


def check_output(option: str, path: str | Path) -> None:
    """Raise UserError where no file `path` can be written; `option` is named."""
    check_text(option, str(path))
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        raise UserError(f"{option}: cannot write {path}: it is a folder")
    if not os.path.isdir(folder):
        raise UserError(f"{option}: cannot write {path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{option}: cannot write {path}: the folder {folder} is read-only")
    check_reachable(option, path)


def check_installed(what: str, packages: tuple[str, ...], extra: str) -> None:
    """Raise UserError where one of the packages that `what` needs is not installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{what} needs {', '.join(missing)}; pip install 'wsdan[{extra}]'")


def check_new_output(option: str, path: str | Path, overwrite: bool, suffix: str = "") -> None:
    """Raise UserError where no file `path` can be written, one exists, unless `overwrite`, or its
    name does not end in `suffix`."""
    check_output(option, path)
    name = os.path.basename(path)
    if not name.endswith(suffix) or name == suffix:
        raise UserError(f"{option}: the file's name must end in {suffix}; got {path}")
    if os.path.isfile(path) and not overwrite:
        raise UserError(f"{option}: {path} exists; --overwrite replaces it")


def check_new_folder(option: str, path: str | Path) -> None:
    """Raise UserError unless `path` is an empty folder, or one that can be made."""
    check_text(option, str(path))
    check_reachable(option, path)
    if os.path.lexists(path) and not os.path.isdir(path):
        raise UserError(f"{option}: {path} is no folder")
    try:
        if os.path.isdir(path) and os.listdir(path):
            raise UserError(f"{option}: {path} is not empty; name a new folder")
    except OSError as error:
        raise UserError(f"{option}: {path}: {error.strerror}") from None


def check_checkpoint(source: str | Path) -> None:
    """Raise UserError unless `source` is a file, a folder of save_pretrained or hf:ID of the hub
    or an address, of which only the form is checked."""
    text = os.fspath(source)
    if is_remote(text):
        check_text("checkpoint", text)
        check_installed_for(text)
    elif text.startswith(HUB):
        check_text("checkpoint", text)
        if text == HUB:
            raise UserError(f"checkpoint {text}: expected {HUB}ID, a repository of the hub")
    elif not os.path.isfile(os.path.join(text, PRETRAINED)):
        check_checkpoint_file(source)


def check_output_folder(option: str, path: str | Path) -> None:
    """Raise UserError unless `path` is a folder that can be written, or one that can be made."""
    check_text(option, str(path))
    check_reachable(option, path)
    full = Path(os.path.abspath(path))
    exists = next(item for item in (full, *full.parents) if os.path.lexists(item))
    if not exists.is_dir():
        raise UserError(f"{option}: {exists} is no folder")
    if not os.access(exists, os.W_OK | os.X_OK):
        raise UserError(f"{option}: cannot write to {exists}")


def check_checkpoint_file(path: str | Path) -> None:
    """Raise UserError unless `path` is a file."""
    fault = file_fault(path)
    if fault == IS_FOLDER:
        fault += "; name the file in it, such as best.pt"
    if fault is not None:
        raise UserError(f"checkpoint {path}: {fault}")


def file_fault(path: str | Path) -> str | None:
    """Why `path` cannot be opened as a file of a user, in words; None for a regular file.

    Asked before every open: opening a FIFO waits for ever, and a device may have no end.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return ADDRESS if is_remote(path) else "no such file"
        return getattr(error, "strerror", None) or str(error)
    if stat.S_ISREG(mode):
        return None
    if stat.S_ISDIR(mode):
        return IS_FOLDER
    kinds = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}
    return f"is no regular file but a {kinds.get(stat.S_IFMT(mode), 'device')}"


def check_between(option: str, value: float, low: float, high: float) -> None:
    """Raise UserError for a number that is not in [low, high]; `option` is named."""
    if not low <= value <= high:  # NaN too
        raise UserError(f"{option} must be in [{low:g}, {high:g}]; got {shown(value)}")
