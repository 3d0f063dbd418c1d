"""Benchmarks on a GPU, less what needs one: the stopwatch, rows, works, the sweep, the tuner."""

import re
from dataclasses import replace

import augment_bench
import bap_bench
import numpy as np
import parity
import pytest
import torch
from harness import gpu, published, report, run, sweep, tune
from measured import FACTS, ROW, TINY


class FakeGpu:
    """Stands for torch.cuda: a queue that sleeps, and a host that needs `host` to issue a call."""

    def __init__(self, host, waits):
        self.host, self.waits = host, waits
        self.now = self.queue = 0.0  # host's clock; when the queue is through

    def synchronize(self):
        self.now = self.queue = max(self.now, self.queue)

    def _sleep(self, cycles):
        self.queue = max(self.queue, self.now) + cycles / gpu.CYCLES_A_SECOND

    def call(self):
        self.now += self.host
        self.queue = max(self.queue, self.now) + 1e-5
        if self.waits:
            self.synchronize()

    def Event(self, enable_timing):  # noqa: N802
        device = self

        class Event:
            def record(self):
                self.at = device.queue = max(device.queue, device.now)

            def query(self):
                return device.now >= self.at

            def synchronize(self):
                device.synchronize()

            def elapsed_time(self, end):
                return 1e3 * (end.at - self.at)

        return Event()


@pytest.mark.parametrize(("waits", "clock", "seconds"), [(False, "gpu", 1e-5), (True, "", 2e-4)])
def test_the_stopwatch_leaves_the_host_out(waits, clock, seconds, monkeypatch):
    device = FakeGpu(2e-4, waits)
    monkeypatch.setattr(torch, "cuda", device)
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: device.now)
    watch = gpu.Stopwatch(device.call)
    assert watch.calls > 1
    watch.cycles //= 4  # too short: it is made longer until it is not
    assert watch() == pytest.approx(seconds, rel=0.1)
    assert watch.clock == (clock or "gpu and host")
    assert watch() == pytest.approx(seconds, rel=0.1)
    assert watch.issued() == pytest.approx(2e-4, rel=0.2)


def test_the_wall_clock_has_the_host_in_it(monkeypatch):
    device = FakeGpu(2e-4, waits=False)
    monkeypatch.setattr(torch, "cuda", device)
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: device.now)
    watch = run.stopwatch(device.call, gpu.NAME, with_host=True)
    assert watch.clock == "host"
    assert [watch(), watch.issued()] == pytest.approx([2e-4, 2e-4], rel=0.1)


class HostWatch:
    """Stands for gpu.Stopwatch on the CPU."""

    clock, calls = "gpu", 1

    def __init__(self, call):
        self.call = call

    def __call__(self):
        self.call()
        return 1e-3

    def issued(self):
        return 2e-3


@pytest.fixture
def cpu_for_gpu(monkeypatch):
    """The GPU's way through the harness, on the CPU and at small sizes."""
    monkeypatch.setattr(gpu, "NAME", "cpu")
    monkeypatch.setattr(gpu, "Stopwatch", HostWatch)
    monkeypatch.setattr(gpu, "COPY_BYTES", 1 << 12)
    monkeypatch.setattr(gpu, "MATRIX", 16)
    monkeypatch.setattr(gpu, "launches", lambda call: 7)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 10)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3_000_010)


def test_rows_of_a_gpu(cpu_for_gpu):
    variants = {name: lambda: torch.ones(2) for name in ("published", "triton", run.LIMIT)}
    work = run.Work("work", "B 1", variants, 0.0, moved=2e6, operations=1e9)
    for row in run.measure(work, 5, 4e9):
        assert (row.median_ms, row.call_ms, row.clock) == (1.0, 2.0, "gpu")
        assert (row.launches, row.extra_mb, row.rounds) == (7, 3.0, 5)
        assert (row.unit, row.limit, row.share) == ("GB/s", "copy", 0.5)
        assert row.rate == pytest.approx(2.0)


def test_rates_of_a_gpu(cpu_for_gpu):
    assert run.copy_bandwidth("cpu") == 2 * (1 << 12) / 1e-3
    before = torch.get_float32_matmul_precision()
    rates = gpu.matmul_rates()
    assert list(rates) == ["bfloat16", "tf32", "float32"]
    assert set(rates.values()) == {2 * 16**3 / 1e-3}
    assert torch.get_float32_matmul_precision() == before


def test_sets_of_inputs_outgrow_the_cache(monkeypatch):
    class Card:
        L2_cache_size = 50 << 20

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Card)
    assert gpu.input_sets(10 << 20, "cpu") == 1
    assert [gpu.input_sets(size << 20, "cuda") for size in (1, 12, 300)] == [16, 10, 3]


def test_calls_take_turns():
    calls = run.in_turn([lambda i=i: i for i in range(3)])
    assert [calls() for _ in range(4)] == [0, 1, 2, 0]


def test_ours_runs_no_interpreter_by_itself(monkeypatch):
    names = run.ours(("bilinear_attention_pool",), "cpu", torch.float32)
    assert "triton" not in names
    if parity.GPU == "cpu":
        monkeypatch.setattr(run, "INTERPRETED", True)
        assert run.ours(("bilinear_attention_pool",), "cpu", torch.float32) == [*names, "triton"]


def test_a_baseline_that_rounds_more_coarsely_is_noted():
    variants = {"published": lambda: torch.ones(2), "reference": lambda: torch.full((2,), 1.5),
                "triton": lambda: torch.full((2,), 1.5)}  # fmt: skip
    work = run.Work("work", "B 1", variants, 1e-3, 1.0, truth="reference")
    run.check(work)
    assert list(work.variants) == list(variants)
    assert work.notes == ["published differs from reference: relative error 3.3e-01"]
    with pytest.raises(AssertionError, match="reference differs from published"):
        run.check(replace(work, truth=None))


def test_what_does_not_fit_the_memory_is_left_out():
    def full():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to")

    variants = {"published": full, "reference": lambda: torch.ones(2), "cpu": lambda: torch.ones(2)}
    work = run.Work("work", "B 1", dict(variants), 1e-3, 1.0)
    run.check(work)
    assert work.baseline == "reference" and "published left out: CUDA out" in work.notes[0]
    with pytest.raises(torch.OutOfMemoryError):
        run.check(replace(work, variants={"reference": variants["cpu"], "cpu": full}))


def test_a_gpus_row_in_the_table():
    text = report.group_text("title", [ROW, replace(ROW, clock="gpu and host")], [])
    assert "80.00 us" in text and "3 launches" in text
    assert text.count("triton waits for the GPU") == 1
    assert re.search(
        "copy 3000 GB/s.*bfloat16 700, tf32 350, float32 50", report.machine_text(FACTS)
    )


def test_published_draws_are_numpys():
    attentions = torch.rand((6, 5, 4, 4), generator=torch.Generator().manual_seed(0))
    weights = attentions.mean((2, 3)).sqrt().double()
    weights = (weights / weights.sum(1, keepdim=True)).numpy()
    np.random.seed(3)
    expected = [[np.random.choice(5, 1, p=row)[0] for _ in range(2)] for row in weights]
    np.random.seed(3)
    uniforms = torch.from_numpy(np.random.random_sample((6, 2)))
    assert published.sample(attentions, uniforms).tolist() == expected


def test_the_works_of_the_gpu(monkeypatch):
    monkeypatch.setattr(bap_bench, "paper_shape", lambda batch: {**TINY, "B": batch})
    monkeypatch.setattr(gpu, "NAME", parity.GPU)
    monkeypatch.setattr(gpu, "input_sets", lambda size, device: 1)
    titles = [work.title for work in bap_bench.gpu_works((1, 2))]
    assert len(set(titles)) == len(titles) == 2 * (2 * (2 * (2 * 2 + 1) + 1) + 1)


def test_the_views_of_the_gpu(monkeypatch):
    """Every work is right where the reference is the truth and sets of inputs take turns."""
    monkeypatch.setattr(augment_bench, "paper_shape", lambda batch: {**TINY, "B": batch})
    monkeypatch.setattr(gpu, "NAME", parity.GPU)
    monkeypatch.setattr(gpu, "input_sets", lambda size, device: 2)
    titles = set()
    for work in augment_bench.gpu_works((1, 2)):
        titles.add(work.title)
        assert work.truth == "reference" and work.variants.pop(run.COMPILED)
        for _ in range(2):
            run.check(work)
        assert not [note for note in work.notes if "differs" in note]
    assert len(titles) == 2 * (1 + 2 * 7 + 2)


def test_the_sweep(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from PIL import Image

    seen = []

    def works(shape):
        seen.append(shape)
        return bap_bench.pool_works(shape, "mean", "cpu", torch.float32, torch.channels_last)

    panels = {title: (places, (2, 3)) for title, (places, _) in sweep.PANELS.items()}
    monkeypatch.setattr(sweep, "PANELS", panels)
    monkeypatch.setattr(sweep, "REPEATS", 2)
    monkeypatch.setattr(bap_bench, "compiled", lambda function: function)
    measured = sweep.measured(works, (1, 4, 6, 5, 5), 1e9)
    assert seen == [
        (2, 4, 6, 5, 5), (3, 4, 6, 5, 5), (1, 2, 6, 5, 5), (1, 3, 6, 5, 5), (1, 4, 2, 5, 5),
        (1, 4, 3, 5, 5), (1, 4, 6, 2, 2), (1, 4, 6, 3, 3),
    ]  # fmt: skip
    path = str(tmp_path / "sweep.png")
    sweep.draw(measured, "title", FACTS, path)
    with Image.open(path) as image:
        assert image.convert("RGB").getextrema() != ((255, 255),) * 3


def test_tiles_to_try_hold_the_tables_own():
    from wsdan_kernels._triton import _tuning as tuning

    for (kernel, size), by_card in tuning.TILES.items():
        for tiles in by_card.values():
            for few, own in enumerate(tiles):
                tried = tune.candidates(own)
                assert tried[0] == own and len(set(tried)) == len(tried) > 4
                assert tune.entry_text(kernel, size, 90, tiles).startswith(f'("{kernel}", {size})')
                assert few < 2


def test_a_tile_under_trial_is_the_one_that_is_launched():
    from wsdan_kernels._triton import _tuning as tuning

    own = tuning.tile("pool", 2, 32, 90)
    other = own._replace(warps=own.warps * 2)
    with tune.tried("pool", 2, 0, other):
        assert tuning.tile("pool", 2, 32, 90) == tuning.tile("pool", 2, 32, 80) == other
        assert tuning.tile("pool", 2, 128, 90) != other
    assert tuning.tile("pool", 2, 32, 90) == own
