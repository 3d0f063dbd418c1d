"""Loading training pictures, and nothing else: images a second, and where one picture's time goes.

python benchmarks/data_bench.py [--root DIR] [--image-size S] [--batch B] [--json FILE]
The trainer's own loader over --data folder: a tree of photographs of yours, or one made here (500 x
375 pixels, JPEG, 50 to 100 KB each). Every process has one thread. Rates are those of the second
epoch, when files are in the system's memory and --cache is filled. "cpu ms" is the processor's time
of one picture in the loading process, which other work on the machine does not lengthen: cores for
a GPU follow from it.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import report
import torch
from PIL import Image
from torch.utils.data import DataLoader

from wsdan.config import Config
from wsdan.data.loaders import train_loader
from wsdan.data.pictures import Pictures, load_picture
from wsdan.errors import UserError

WIDTH, HEIGHT, QUALITY = 500, 375, 90
GPU_RATE = 600  # images/s that one H200 takes
WORKERS = (0, 1, 2)
CACHES = (None, "ram")


@dataclasses.dataclass
class Row:
    """One way to load: rates of an epoch, and the processor's time where one process does all."""

    cache: str | None
    workers: int
    images_per_s: float
    cpu_ms: float | None  # of one picture

    @property
    def cores(self) -> float | None:
        """How many cores load GPU_RATE pictures a second."""
        return None if self.cpu_ms is None else GPU_RATE * self.cpu_ms / 1e3


def make_tree(root: Path, pictures: int, seed: int = 0) -> None:
    """root/train/{a,b}/*.jpg: smooth shapes with texture on every scale, as photographs have it."""
    generator = np.random.default_rng(seed)
    for index in range(pictures):
        pixels = np.full((HEIGHT, WIDTH, 3), 128.0, dtype=np.float32)
        for side, deviation in ((2, 50), (8, 30), (32, 16), (128, 9), (None, 6)):
            shape = (HEIGHT, WIDTH, 3) if side is None else (side, side, 3)
            noise = generator.normal(0, deviation, shape).astype(np.float32)
            pixels += noise if side is None else _enlarged(noise)
        folder = root / "train" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        picture.save(folder / f"{index}.jpg", quality=QUALITY)


def _enlarged(noise: np.ndarray) -> np.ndarray:
    planes = torch.from_numpy(noise).permute(2, 0, 1)[None]
    size = (HEIGHT, WIDTH)
    large = torch.nn.functional.interpolate(planes, size, mode="bicubic", align_corners=False)
    return large[0].permute(1, 2, 0).numpy()


def measure(config: Config) -> Row:
    """The second epoch of the trainer's loader."""
    batches, _ = train_loader(config)
    for epoch in range(2):
        batches.batch_sampler.begin(epoch)
        wall, cpu, count = time.perf_counter(), time.process_time(), 0
        for batch in batches:
            if batch.bad:
                raise UserError(batch.bad[0])
            count += len(batch.labels)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    alone = config.workers == 0
    return Row(config.cache, config.workers, count / wall, 1e3 * cpu / count if alone else None)


def picture_parts(batches: DataLoader) -> dict[str, float]:
    """Milliseconds of the processor for each part of a picture's way into its batch."""
    dataset: Pictures = batches.dataset.dataset
    parts: dict[str, float] = defaultdict(float)
    count = 0

    def timed(name: str, function: Callable, *arguments: object) -> object:
        started = time.process_time()
        result = function(*arguments)
        parts[name] += time.process_time() - started
        return result

    batches.batch_sampler.begin(0)
    for draws in batches.batch_sampler:
        for draw in draws:
            picture = timed("read and decode", load_picture, dataset.samples[draw.index].source)
            value = timed("resize", dataset.transform.resize, picture)
            for step in dataset.transform.finish.transforms:
                value = timed(type(step).__name__, step, value)
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
    files = [path for path in (root / "train").rglob("*") if path.is_file()]
    kilobytes = sum(path.stat().st_size for path in files) / len(files) / 1e3
    print(
        f"{len(files)} pictures of {kilobytes:.0f} KB, to {options.image_size} px, "
        f"batches of {options.batch}"
    )
    print(f"  {'cache':<6} {'workers':>7} {'images/s':>9} {'a worker':>9} {'cpu ms':>7}")
    rows = []
    for config in settings(options, root):
        rows.append(row := measure(config))
        each = row.images_per_s / max(row.workers, 1)
        line = f"  {row.cache or 'none':<6} {row.workers:>7} {row.images_per_s:>9.1f} {each:>9.1f}"
        print(line if row.cpu_ms is None else f"{line} {row.cpu_ms:>7.2f}", flush=True)
    for row in rows:
        if row.cores is not None:
            print(
                f"cache {row.cache or 'none'}: {row.cores:.1f} cores load {GPU_RATE} images/s, "
                f"what one H200 takes ({1e3 / row.cpu_ms:.0f} a core)"
            )
    batches, _ = train_loader(next(settings(options, root)))
    parts = picture_parts(batches)
    whole = sum(parts.values())
    print("one picture, without a cache, milliseconds of the processor:")
    for name, ms in parts.items():
        print(f"  {name:<22} {ms:7.2f}  {ms / whole:6.1%}")
    facts = report.machine("cpu")
    print(f"torch {facts['torch']}, {facts['device']}")
    return {
        **facts, "pictures": len(files), "kilobytes": kilobytes, "gpu_images_per_s": GPU_RATE,
        "image_size": options.image_size, "batch": options.batch, "parts_ms": parts,
        "rows": [dataclasses.asdict(row) | {"cores": row.cores} for row in rows],
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--root", type=Path, metavar="DIR", help="DIR/train/CLASS/* (default: made for this run)")
    add("--pictures", type=int, default=200, help="to make (default: %(default)s)")
    add("--image-size", type=int, default=448, help="pixels (default: %(default)s)")
    add("--batch", type=int, default=12, help="pictures (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if options.root is None:
            make_tree(Path(folder), options.pictures)
        try:
            content = run(options, options.root or Path(folder))
        except UserError as error:
            parser.error(str(error))
    if options.json:
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
