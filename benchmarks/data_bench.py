"""Loading training images, and nothing else: images a second, and where one image's time goes.

python benchmarks/data_bench.py [--root DIR] [--image-size S] [--batch B] [--json FILE]
The trainer's own loader over --data folder: a tree of photographs of yours, or one made here (500 x
375 pixels, JPEG, 50 to 100 KB each). Every process has one thread. Figures are those of the second
epoch, when files are in the system's memory and --cache is filled. "cpu ms" is the processor's time
of one image in all processes together, which other work on the machine hardly lengthens; the
cores that feed a GPU follow from it. Linux only.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from harness import report
from PIL import Image
from torch.utils.data import DataLoader

from wsdan.config import Config
from wsdan.data.images import ImageDataset, load_image
from wsdan.data.loaders import train_loader
from wsdan.errors import UserError

WIDTH, HEIGHT, QUALITY = 500, 375, 90
GPU_RATE = 600  # images/s that one H200 shall be fed with
WORKERS = (0, 1, 2)
CACHES = (None, "ram")


@dataclasses.dataclass
class Row:
    """One way to load, and what it takes."""

    cache: str | None
    workers: int
    images_per_s: float
    cpu_ms: float  # of one image
    images_per_s_and_core: float
    cores: float  # that load GPU_RATE images a second


def make_tree(root: Path, images: int, seed: int = 0) -> None:
    """root/train/{a,b}/*.jpg: smooth shapes with texture on every scale, as photographs have it."""
    generator = np.random.default_rng(seed)
    for index in range(images):
        pixels = np.full((HEIGHT, WIDTH, 3), 128.0, dtype=np.float32)
        for side, deviation in ((2, 50), (8, 30), (32, 16), (128, 9), (None, 6)):
            shape = (HEIGHT, WIDTH, 3) if side is None else (side, side, 3)
            noise = generator.normal(0, deviation, shape).astype(np.float32)
            pixels += noise if side is None else _enlarged(noise)
        folder = root / "train" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        image.save(folder / f"{index}.jpg", quality=QUALITY)


def _enlarged(noise: np.ndarray) -> np.ndarray:
    planes = torch.from_numpy(noise).permute(2, 0, 1)[None]
    size = (HEIGHT, WIDTH)
    large = torch.nn.functional.interpolate(planes, size, mode="bicubic", align_corners=False)
    return large[0].permute(1, 2, 0).numpy()


def measure(config: Config) -> Row:
    """The second epoch of the trainer's loader."""
    batches, _ = train_loader(config)
    images: ImageDataset = batches.dataset.dataset
    if images.cache is not None:  # all of them: an epoch leaves its last, short batch out
        for index in range(len(images)):
            _ = images[index]
    _epoch(batches, 0)
    wall, before = time.perf_counter(), cpu_seconds()
    count = _epoch(batches, 1)
    wall, after = time.perf_counter() - wall, cpu_seconds()
    each = sum(seconds - before[process] for process, seconds in after.items()) / count
    return Row(config.cache, config.workers, count / wall, 1e3 * each, 1 / each, GPU_RATE * each)


def _epoch(batches: DataLoader, number: int) -> int:
    """Load all images of an epoch; how many."""
    batches.batch_sampler.set_epoch(number)
    count = 0
    for batch in batches:
        if batch.bad:
            raise UserError(batch.bad[0])
        count += len(batch.labels)
    return count


def cpu_seconds() -> dict[int, float]:
    """The processor's time of this process and of those it started, by their ids."""
    seconds = {os.getpid(): time.process_time()}
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = sum(map(int, fields[11:13]))  # in the program, and in the system for it
        seconds[child.pid] = ticks / os.sysconf("SC_CLK_TCK")
    return seconds


def image_parts(batches: DataLoader) -> dict[str, float]:
    """Milliseconds of the processor for each part of an image's way into its batch."""
    dataset: ImageDataset = batches.dataset.dataset
    parts: dict[str, float] = defaultdict(float)
    count = 0

    def timed(name: str, function: Callable, *arguments: object) -> object:
        started = time.process_time()
        result = function(*arguments)
        parts[name] += time.process_time() - started
        return result

    batches.batch_sampler.set_epoch(0)
    for draws in batches.batch_sampler:
        for draw in draws:
            image = timed("read and decode", load_image, dataset.samples[draw.index].source)
            value = timed("resize", dataset.transform.resize, image)
            for step in dataset.transform.finish.transforms:
                name = getattr(step, "lambd", type(step)).__name__
                value = timed(name, step, value)
        items = [timed("all", batches.dataset.__getitem__, draw) for draw in draws]
        timed("collate", batches.collate_fn, items)
        count += len(draws)
    whole = parts.pop("all")
    parts["seeding and the rest"] = whole - sum(parts.values()) + parts["collate"]
    return {name: 1e3 * seconds / count for name, seconds in parts.items()}


def settings(options: argparse.Namespace, root: Path) -> Iterator[Config]:
    """Every way to load, resolved."""
    for cache in CACHES:
        for workers in WORKERS:
            yield Config(
                "folder", str(root), device="cpu", batch_size=options.batch,
                image_size=options.image_size, workers=workers, cache=cache,
            ).resolved()  # fmt: skip


def run(options: argparse.Namespace, root: Path) -> dict[str, object]:
    """Measure, and print as it goes; what --json holds."""
    torch.set_num_threads(1)  # as a loading process of torch has it
    alone, _ = train_loader(next(settings(options, root)))
    files = [sample.source for sample in alone.dataset.dataset.samples]
    kilobytes = sum(path.stat().st_size for path in files) / len(files) / 1e3
    print(
        f"{len(files)} images of {kilobytes:.0f} KB, to {options.image_size} px, "
        f"batches of {options.batch}"
    )
    columns = ("cache", "workers", "images/s", "cpu ms", "images/s/core", f"cores for {GPU_RATE}")
    print("".join(f"{name:>14}" for name in columns))
    rows = []
    for config in settings(options, root):
        rows.append(row := measure(config))
        figures = (row.images_per_s, row.cpu_ms, row.images_per_s_and_core, row.cores)
        text = "".join(f"{figure:>14.2f}" for figure in figures)
        print(f"{row.cache or 'none':>14}{row.workers:>14}{text}", flush=True)
    parts = image_parts(alone)
    whole = sum(parts.values())
    print("one image, without a cache, milliseconds of the processor:")
    for name, ms in parts.items():
        print(f"  {name:<22} {ms:7.2f}  {ms / whole:6.1%}")
    facts = report.machine("cpu")
    print(f"torch {facts['torch']}, {facts['device']}")
    return {
        **facts, "images": len(files), "kilobytes": kilobytes, "gpu_images_per_s": GPU_RATE,
        "image_size": options.image_size, "batch": options.batch, "parts_ms": parts,
        "rows": [dataclasses.asdict(row) for row in rows],
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--root", type=Path, metavar="DIR", help="DIR/train/CLASS/* (default: made for this run)")
    add("--images", type=int, default=200, help="to make (default: %(default)s)")
    add("--image-size", type=int, default=448, help="pixels (default: %(default)s)")
    add("--batch", type=int, default=12, help="images (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if options.root is None:
            make_tree(Path(folder), options.images)
        try:
            content = run(options, options.root or Path(folder))
        except UserError as error:
            parser.error(str(error))
    if options.json:
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
