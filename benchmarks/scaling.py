"""What many classes and many processes cost: memory, traffic and time, as formulas and measured.

python benchmarks/scaling.py [--only PART ...] [--json FILE]
Parts: memory, step, ranks, loading; docs/scaling.md explains them. Formulas are held against
tensors on the meta device and against real steps of small sizes. `ranks` starts two processes on
this machine, connected by gloo, and reads the bytes that the loopback interface has carried.

Alphabet: N classes, M maps, C channels, D = M*C, B images a process, R processes.
"""

import argparse
import json
import os
import socket
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from wsdan.config import Config
from wsdan.distributed import gather_rows, process_group, sum_over_ranks
from wsdan.networks.backbones import Backbone
from wsdan.networks.model import WSDAN
from wsdan.training.ema import ModelEma
from wsdan.training.optim import build_optimizer
from wsdan.training.step import build_step
from wsdan_kernels import FeatureCenters

FLOAT = 4  # bytes
MAPS, BATCH = 32, 16
CLASSES, CHANNELS = (200, 10_000, 100_000), (768, 2048)
STATES = {"sgd": 1, "adamw": 2}  # tensors that an optimizer keeps of a weight
RANKS = (8, 64, 256, 1024)
BACKBONE = 25_000_000  # weights of a backbone of ResNet-50's size
RATES = (200, 600, 2000)  # images/s of a GPU
FILE_BYTES = 75_000  # of a photograph of 500x375
LOADING = Path(__file__).parent / "results" / "cpu-avx512-data-2026-11-25.json"
INTERFACE = Path("/sys/class/net/lo/statistics/tx_bytes")


def head_bytes(classes: int, dim: int, optimizer: str = "sgd", ranks: int = 1) -> dict[str, int]:
    """Bytes that the classifier and the centers hold in each process during training."""
    layer = FLOAT * (classes * dim + classes)
    parts = {
        "centers": FLOAT * classes * dim,
        "weights": layer,
        "gradient": layer,
        "optimizer": STATES[optimizer] * layer,
        "exchange": layer if ranks > 1 else 0,  # DistributedDataParallel's buckets
    }
    return {**parts, "all": sum(parts.values())}


def step_bytes(classes: int, dim: int, batch: int, optimizer: str = "sgd") -> dict[str, int]:
    """Bytes that a step reads and writes for them in one process, caches not counted.

    centers: loss (features and rows read, differences written), update (features and rows read,
    rows written), rollback (rows read and written twice, once more read). classifier: weights read
    in three forward and three backward passes, the gradient written in each of three and read by
    its norm, then the optimizer's reading and writing of weights and states.
    """
    rows, layer = FLOAT * batch * dim, FLOAT * (classes * dim + classes)
    written = 3 + 2  # by each backward pass; all but the first read what is there
    update = 1 + 2 * (1 + STATES[optimizer])
    return {"centers": (3 + 3 + 7) * rows, "classifier": (6 + written + 1 + update) * layer}


def exchanged_bytes(classes: int, dim: int, batch: int, ranks: int) -> dict[str, int]:
    """Bytes that each process receives in a step, of ring algorithms."""
    weights = BACKBONE + classes * dim + classes
    return {
        "gather": (ranks - 1) * batch * (FLOAT * dim + 8),
        "reduce": 2 * (ranks - 1) * FLOAT * weights // ranks,
    }


def memory_rows() -> list[dict]:
    """The formula for large sizes, its tensors on the meta device; and real ones for small."""
    rows = []
    for channels in CHANNELS:
        for classes in CLASSES:
            dim = MAPS * channels
            layer = nn.Linear(dim, classes, device="meta")
            with torch.device("meta"):
                centers = FeatureCenters(classes, dim).centers
            parts = head_bytes(classes, dim)
            assert parts["weights"] == layer.weight.nbytes + layer.bias.nbytes
            assert parts["centers"] == centers.nbytes
            for optimizer in STATES:
                parts = head_bytes(classes, dim, optimizer, ranks=8)
                rows.append({"N": classes, "D": dim, "with": optimizer, **parts})
    for classes in (200, 1000):
        for optimizer in STATES:
            found, parts = held_bytes(classes, optimizer), head_bytes(classes, 4 * 64, optimizer)
            same = {name: parts[name] for name in found}
            assert found == same, (found, same)
            rows.append({"N": classes, "D": 4 * 64, "with": optimizer, "measured": found})
    return rows


def small_model(classes: int, maps: int = 4, channels: int = 64) -> WSDAN:
    network = nn.Sequential(nn.Conv2d(3, channels, 4, stride=4), nn.ReLU())
    return WSDAN(Backbone(network, channels=channels, stride=4), classes, maps).train()


def held_bytes(classes: int, optimizer: str) -> dict[str, int]:
    """Bytes of the real tensors of a model's classifier and centers after a step."""
    model = small_model(classes)
    config = Config("folder", ".", optimizer=optimizer, lr=1e-3).resolved()
    built = build_optimizer(model, config)
    step = build_step(model, built, config)
    step(torch.rand(4, 3, 16, 16), torch.arange(4), torch.rand(4, 4))
    average = ModelEma(model, 0.5).module
    assert average.centers.centers is model.centers.centers
    own = list(model.classifier.parameters())
    return {
        "centers": model.centers.centers.nbytes,
        "weights": sum(item.nbytes for item in own),
        "gradient": sum(item.grad.nbytes for item in own),
        "optimizer": sum(
            value.nbytes for item in own for value in built.state[item].values() if value.dim()
        ),
    }


def median_ms(call: Callable[[], object], repeats: int = 7) -> float:
    """The median of several calls after one that warms up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def step_rows() -> list[dict]:
    """Centers at the size of the paper, for growing N, B and D; the classifier for growing N."""
    grown = [(n, BATCH, MAPS * 768) for n in (200, 2000, 20_000)]
    grown += [(2000, 4 * BATCH, MAPS * 768), (2000, BATCH, MAPS * 2048)]
    rows = []
    for classes, batch, dim in grown:
        centers = FeatureCenters(classes, dim)
        features = nn.functional.normalize(torch.randn(batch, dim)).requires_grad_()
        labels = torch.randint(classes, (batch,))

        def move(centers=centers, features=features, labels=labels) -> None:
            saved = centers.centers[labels]
            centers(features, labels).backward()
            centers.update_(features.detach(), labels)
            rows = torch.where(torch.ones((), dtype=torch.bool), centers.centers[labels], saved)
            centers.centers.index_copy_(0, labels, rows)

        moved = step_bytes(classes, dim, batch)["centers"]
        rows.append({"part": "centers", "N": classes, "B": batch, "D": dim, "bytes": moved})
        rows[-1]["ms"] = median_ms(move)
    for classes in (200, 2000, 20_000):
        rows.append(classifier_row(classes, BATCH, 4 * 768))
    return rows


def classifier_row(classes: int, batch: int, dim: int) -> dict:
    """Three views through the linear layer, their backward passes and the optimizer's step."""
    layer = nn.Linear(dim, classes)
    optimizer = torch.optim.SGD(layer.parameters(), 1e-3, momentum=0.9, fused=True)
    views = [torch.randn(batch, dim) for _ in range(3)]
    labels = torch.randint(classes, (batch,))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        for view in views:
            nn.functional.cross_entropy(layer(view), labels).backward()
        torch.nn.utils.get_total_norm([item.grad for item in layer.parameters()])
        optimizer.step()

    moved = step_bytes(classes, dim, batch)["classifier"]
    row = {"part": "classifier", "N": classes, "B": batch, "D": dim, "bytes": moved}
    return {**row, "ms": median_ms(step, repeats=3)}


def ranks_rows() -> list[dict]:
    """Formulas for many ranks; bytes and times of two processes here."""
    rows = [
        {"R": ranks, "N": classes, "B": BATCH, "D": MAPS * 768}
        | exchanged_bytes(classes, MAPS * 768, BATCH, ranks)
        for ranks in RANKS
        for classes in CLASSES
    ]
    sizes = [(16, 24_576), (64, 24_576), (256, 24_576), (64, 6_144), (64, 65_536)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    queue = torch.multiprocessing.get_context("spawn").SimpleQueue()
    torch.multiprocessing.spawn(_exchange, (port, sizes, queue), nprocs=2)
    return rows + queue.get()


def _exchange(rank: int, port: int, sizes: list[tuple[int, int]], queue) -> None:
    """One of two processes: gathers features of each size and sums a gradient of that size."""
    torch.set_num_threads(1)
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(number) for name, number in numbers.items()})
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    rows = []
    with process_group(torch.device("cpu")):
        for batch, dim in sizes:
            for name, call in (("gather", gather_rows), ("reduce", sum_over_ranks)):
                tensor = torch.rand(batch, dim)
                carried, times = [], []
                for _ in range(6):
                    sum_over_ranks(torch.zeros(1))  # both are here
                    before, start = int(INTERFACE.read_text()), time.perf_counter()
                    call(tensor)
                    sum_over_ranks(torch.zeros(1))
                    times.append(1000 * (time.perf_counter() - start))
                    carried.append(int(INTERFACE.read_text()) - before)
                predicted = {"gather": 2 * tensor.nbytes, "reduce": 2 * tensor.nbytes}[name]
                row = {"part": name, "R": 2, "B": batch, "D": dim, "predicted": predicted}
                # The least: other processes use the interface, too.
                rows.append({**row, "carried": min(carried), "ms": statistics.median(times)})
    if rank == 0:
        queue.put(rows)


def loading_rows() -> list[dict]:
    """Cores and bytes/s that feed a GPU, of what benchmarks/data_bench.py measured."""
    measured = {
        row["cache"]: row for row in json.loads(LOADING.read_text(encoding="utf-8"))["rows"]
    }
    return [
        {
            "images_per_s": rate,
            "cores_jpeg": rate * measured[None]["cpu_ms"] / 1000,
            "cores_cached": rate * measured["ram"]["cpu_ms"] / 1000,
            "file_mb_per_s": rate * FILE_BYTES / 1e6,
            "input_mb_per_s": rate * 3 * 448 * 448 / 1e6,  # uint8, to the GPU
        }
        for rate in RATES
    ]


PARTS = {"memory": memory_rows, "step": step_rows, "ranks": ranks_rows, "loading": loading_rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    found = {}
    for name in options.only:
        found[name] = PARTS[name]()
        print(name)
        for row in found[name]:
            print("  " + "  ".join(f"{key} {_text(value)}" for key, value in row.items()))
    if options.json:
        text = json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), **found})
        options.json.write_text(text + "\n", encoding="utf-8")


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    main()
