"""The benchmarks: their published loops against tests/golden, ours against them, the harness."""

import json
import random
import sys
import time
from dataclasses import replace

import augment_bench
import bap_bench
import numpy as np
import pytest
import torch
from golden import (
    assert_gradient_parity,
    assert_parity,
    load,
    named,
    names,
    pooled_with_gradients,
)
from harness import compiled_views, others, published, report, run, view_inputs

import wsdan_kernels as wk
from wsdan_kernels.reference.attention_boxes import reached
from wsdan_kernels.testing import relative_error

SIZES = {"B": 2, "M": 4, "C": 6, "h": 7, "w": 7, "H": 40, "W": 40}
ROW = report.Row(
    "mean forward", "B 2", "cpu", 2.0, 1.9, 2.1, 5, 3.0, 10.0, "GFLOP/s", "product", 0.5, 0.1
)
FACTS = {
    "device": "a cpu",
    "threads": 1,
    "torch": "2.11",
    "copy_gb_per_s": 10.0,
    "matmul_gflop_per_s": 100.0,
}


@named("bap_m")
def test_published_pooling(name):
    case = load(name)
    features, attentions = (
        case[key].clone().requires_grad_() for key in ("features", "attentions")
    )
    pool = published.pool_max if "max" in name else published.pool_mean
    output = pool(features, attentions)
    output.backward(case["grad_output"])
    assert_parity(output, case["output"])
    reduce = "max" if "max" in name else "mean"
    exact = pooled_with_gradients(case, reduce, "reference", torch.float64)
    assert_gradient_parity(features.grad, case["grad_features"], exact[1])
    assert_gradient_parity(attentions.grad, case["grad_attentions"], exact[2])


@named("crop_drop_guyuc")
def test_published_chosen_views(name):
    case = load(name)
    images, attentions, thetas = case["images"], case["attentions"], case["thetas"]
    rows = torch.arange(images.shape[0])
    maps = [attentions[rows, case["picks"][:, i]] for i in (0, 1)]
    crops, drops = published.crop_drop_chosen(images, *maps, *thetas.T.tolist())
    assert_parity(crops, case["crop"])
    assert torch.equal(drops, case["drop"])
    size, count = tuple(images.shape[2:]), images.shape[0]
    boxes = published.boxes_guyuc(attentions.mean(1), size, [0.1] * count, padding=0.05)
    assert_parity(published.crops(images, boxes), case["refined"])


@pytest.mark.parametrize("align_corners", [True, False], ids=["seed", "wvinzh"])
def test_published_views_per_part(align_corners, monkeypatch):
    prefix = "crop_drop_seed" if align_corners else "crop_drop_wvinzh"
    for name in names(prefix):
        case = load(name)
        picks, thetas = (iter(case[key].flatten().tolist()) for key in ("picks", "thetas"))
        monkeypatch.setattr(np.random, "choice", lambda count, size, p, picks=picks: [next(picks)])
        monkeypatch.setattr(random, "uniform", lambda low, high, thetas=thetas: next(thetas))
        crops, drops = published.crop_drop_per_part(
            case["images"], case["attentions"], align_corners
        )
        assert_parity(crops, case["crop"])
        assert torch.equal(drops, case["drop"])
        given = published.crop_drop_per_part(
            case["images"],
            case["attentions"],
            align_corners,
            thresholds=case["thetas"].tolist(),
            picks=case["picks"].tolist(),
        )
        assert torch.equal(given[0], crops) and torch.equal(given[1], drops)


@named("crop_drop_seed")
def test_published_boxes(name):
    case = load(name)
    rows = torch.arange(case["images"].shape[0])
    maps = case["attentions"][rows, case["picks"][:, 0]]
    size = tuple(case["images"].shape[2:])
    boxes = published.boxes_paper(maps, size, case["thetas"][:, 0].tolist())
    assert torch.equal(torch.tensor(boxes), case["boxes"].long())


@named("refine")
def test_published_refine(name):
    case = load(name)
    assert_parity(published.refine(case["images"], case["attentions"]), case["crop"])


@named("center")
def test_published_centers(name):
    case = load(name)
    features, centers = case["features"].requires_grad_(), case["centers"].clone()
    loss, grad = published.center_step(features, centers, case["labels"], case["beta"])
    assert_parity(loss, torch.tensor(case["loss"]))
    assert_parity(centers, case["updated_centers"])
    if "grad_features" in case:
        assert_parity(grad, case["grad_features"])


def small_works() -> list[run.Work]:
    """Every work of the benchmarks at a small size, without torch.compile."""
    works = list(augment_bench.all_works(SIZES))
    shape = tuple(SIZES[key] for key in "BMChw")
    for options in (
        {"reduce": "mean"},
        {"reduce": "max"},
        {"reduce": "mean", "dtype": torch.bfloat16},
        {"reduce": "mean", "layout": torch.channels_last},
        {"reduce": "mean", "map_size": (4, 3)},
    ):
        works += bap_bench.pool_works(shape, **options)
    works.append(bap_bench.center_work(2, 24))
    for work in works:
        work.variants.pop(run.COMPILED)
    return works


@pytest.mark.parametrize("work", small_works(), ids=lambda work: work.title)
def test_ours_equals_the_published_code_on_the_benchmarks_inputs(work):
    variants = list(work.variants)
    assert variants[:2] == ["published", "reference"]
    run.check(work)
    assert list(work.variants) == variants


def test_check_refuses_a_variant_of_ours_that_differs():
    variants = {"published": lambda: torch.ones(2), "cpu": lambda: torch.zeros(2)}
    with pytest.raises(AssertionError, match=r"cpu differs from published.*1\.0e\+00"):
        run.check(run.Work("work", "B 1", variants, tolerance=1e-5, moved=8.0))


def test_check_leaves_out_a_compiled_variant_that_fails_or_differs():
    def fails():
        raise RuntimeError("no compiler\nmore")

    for compiled, reason in ((fails, "no compiler"), (lambda: torch.zeros(2), "relative error")):
        variants = {"published": lambda: torch.ones(2), "compiled": compiled}
        work = run.Work("work", "B 1", variants, tolerance=1e-5, moved=8.0)
        run.check(work)
        assert list(work.variants) == ["published"]
        assert work.notes[0].startswith(f"compiled left out: {reason}")


def test_check_leaves_out_another_library_that_differs():
    variants = {"published": lambda: torch.ones(2), "roi_align": lambda: torch.full((2,), 1.01)}
    work = run.Work("work", "B 1", dict(variants), tolerance=1e-5, moved=8.0)
    run.check(work)
    assert work.notes == ["roi_align left out: relative error 1.0e-02, 1e-05 allowed"]
    work = run.Work(
        "work", "B 1", variants, tolerance=1e-5, moved=8.0, tolerances={"roi_align": 0.02}
    )
    run.check(work)
    assert list(work.variants) == ["published", "roi_align"] and not work.notes


@pytest.mark.parametrize("name", ["grid_sample", "roi_align", "kornia"])
def test_other_libraries_do_the_same_work(name):
    """At the size that the tolerance speaks of; the whole image and one pixel among the boxes."""
    if name == "kornia":
        pytest.importorskip("kornia")
    images = torch.rand((4, 3, 448, 448), generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor(
        [[0, 0, 448, 448], [447, 5, 448, 6], [400, 13, 448, 301], [30, 200, 50, 207]],
        dtype=torch.int32,
    )
    if name == "kornia":  # which gives NaN where a box has no extent
        boxes[1] = torch.tensor([440, 5, 448, 16])
    truth = wk.crop_resize(images, boxes)
    error = relative_error(getattr(others, name)(images, boxes), truth)
    assert error <= others.TOLERANCES[name]
    assert relative_error(getattr(others, name)(images, boxes + 1), truth) > 0.1


def test_other_libraries_are_left_out_with_a_reason(monkeypatch):
    functions, notes = others.crops(torch.bfloat16)
    assert functions == {} and "bfloat16" in notes[0]
    monkeypatch.setattr(others.importlib.util, "find_spec", lambda name: None)
    functions, notes = others.crops(torch.float32)
    assert list(functions) == ["grid_sample", "roi_align"]
    assert notes == ["kornia left out: it is not installed"]
    monkeypatch.setattr(others.importlib.util, "find_spec", lambda name: name)
    assert list(others.crops(torch.float32)[0]) == ["grid_sample", "roi_align", "kornia"]


def test_no_value_is_at_its_threshold():
    """Rounding a map otherwise, by as much as float32 does, changes no mask and no box."""
    inputs = view_inputs.make_inputs({**SIZES, "B": 16, "H": 200, "W": 200})
    assert 0.4 <= float(inputs.crop_thresholds.min()) <= float(inputs.crop_thresholds.max()) < 0.61
    mean = inputs.attentions.mean(1)
    for maps, thresholds in (
        (inputs.crop_maps, inputs.crop_thresholds),
        (inputs.drop_maps, inputs.drop_thresholds),
        (mean, inputs.refine_thresholds),
    ):
        for rule in ("paper", "guyuc"):
            first, *rest = (
                reached(
                    maps.double(), (thresholds.double() * factor)[:, None], 200, 200, rule, True
                )
                for factor in (1 - 3e-6, 1.0, 1 + 3e-6)
            )
            assert all(torch.equal(first, other) for other in rest)
    values = torch.linspace(0, 1, 5).expand(1, 5, 5).contiguous()
    at = torch.tensor([0.5])  # of a map of 5 columns: the middle one is at it
    moved = view_inputs._clear(values, at, (9, 9))
    assert at.item() == 0.5 and 0 < moved.item() - 0.5 < 1e-3


@pytest.mark.parametrize("rule", ["paper", "guyuc"])
@pytest.mark.slow
def test_the_references_views_can_be_compiled_in_one_piece(rule, monkeypatch):
    """As on a GPU, but for the code generator."""
    monkeypatch.setattr(
        compiled_views,
        "compiled",
        lambda function: torch.compile(function, backend="aot_eager", fullgraph=True),
    )
    inputs = view_inputs.make_inputs(SIZES)
    maps = inputs.crop_maps, inputs.drop_maps
    views = compiled_views.compiled_views("cuda")(inputs.images, *maps, *inputs.thresholds, rule)
    truth = wk.attention_crop_drop(
        inputs.images,
        *maps,
        crop_threshold=inputs.crop_thresholds,
        drop_threshold=inputs.drop_thresholds,
        rule=rule,
        backend="reference",
    )
    assert_parity(views[0], truth[0])
    assert torch.equal(views[1], truth[1])
    boxes = compiled_views.compiled_boxes("cuda")(
        maps[0], inputs.crop_thresholds, inputs.size, rule
    )
    thresholds = {"threshold": inputs.crop_thresholds, "padding": published.PADDING}
    assert torch.equal(boxes, wk.attention_boxes(maps[0], inputs.size, rule=rule, **thresholds))


def test_measure_counts_ratio_rate_and_share():
    variants = {"published": lambda: time.sleep(0.004), "cpu": lambda: time.sleep(0.001)}
    work = run.Work("work", "B 1", variants, tolerance=0.0, moved=4e6)
    slow, fast = run.measure(work, repeats=4, copy_bytes_per_s=1e10)
    assert (slow.variant, fast.variant, slow.rounds) == ("published", "cpu", 4)
    assert slow.low_ms <= slow.median_ms <= slow.high_ms
    assert slow.ratio == 1.0
    assert fast.ratio == pytest.approx(slow.median_ms / fast.median_ms)
    assert fast.rate == pytest.approx(4e6 / fast.median_ms / 1e6)
    assert fast.share == pytest.approx(0.4 / fast.median_ms)
    assert (fast.unit, fast.limit) == ("GB/s", "copy")


def test_percentiles():
    values = [5.0, 1.0, 4.0, 2.0, 3.0, 6.0]
    assert [run.percentile(values, share) for share in (0, 0.2, 0.8, 1)] == [1.0, 2.0, 5.0, 6.0]
    assert run.percentile([7.0, 9.0, 8.0], 0.5) == 8.0


def test_peak_extra_bytes():
    values = torch.zeros(1000)

    def call():
        first = values + 1
        second = first + 1
        del first
        return second + 1

    call()
    assert 8000 <= run.peak_extra_bytes(call) < 9000


def test_json_round_trip(tmp_path):
    path = str(tmp_path / "rows.json")
    report.write_json([ROW], FACTS, path)
    base = report.read_json(path)
    assert report.Row(**base["rows"][0]) == ROW
    lines, lost = report.compare([ROW], FACTS, base)
    assert not lost
    assert lines == ["base: 1 of 1 rows are in it: none of ours lost over 10%"]


def test_base_flags_a_loss_over_ten_percent():
    base = {**FACTS, "rows": [vars(ROW), vars(replace(ROW, variant="published"))]}
    for variant, median, lost in (
        ("cpu", 2.19, False),
        ("cpu", 2.21, True),
        ("published", 9.0, False),
    ):
        row = replace(ROW, variant=variant, median_ms=median)
        lines, flag = report.compare([row], FACTS, base)
        assert flag is lost
        assert any(line.startswith("LOSS: mean forward") for line in lines) is lost
    assert any(line.startswith("slower, not ours") for line in lines)


def test_base_of_another_machine_is_named():
    base = {**FACTS, "threads": 8, "device": "another", "rows": []}
    lines, lost = report.compare([ROW], FACTS, base)
    assert not lost
    assert lines[-1] == "base: 0 of 1 rows are in it: nothing to compare"
    assert "base: other device: another, here a cpu" in lines
    assert "base: other threads: 8, here 1" in lines


def test_base_that_is_no_result(tmp_path):
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"rows": [{"median": 1}]}))
    for name in (path, tmp_path / "missing.json"):
        with pytest.raises(SystemExit, match="not a result of --json"):
            report.read_json(str(name))


def test_plot_writes_a_image(tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    path = str(tmp_path / "rows.png")
    other = replace(ROW, variant="published", median_ms=6.0, high_ms=6.5)
    report.plot([other, ROW, replace(ROW, work="max forward")], FACTS, path)
    with Image.open(path) as image:
        assert image.convert("RGB").getextrema() != ((255, 255),) * 3


def test_plot_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit, match="--plot needs matplotlib"):
        report.require_matplotlib()


def test_a_run_from_end_to_end(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run, "COPY_BYTES", 1 << 16)
    path = str(tmp_path / "rows.json")
    options = run.parse("", ["--repeats", "3", "--no-compile", "--only", "boxes", "--json", path])
    assert run.run(lambda options: augment_bench.all_works(SIZES), options) == 0
    text = capsys.readouterr().out
    assert "boxes, B 2 M 4 7x7 to 40x40 float32" in text
    assert all(len(line) <= 120 for line in text.splitlines())
    assert {"date", "cpu", "threads", "torch", "commit"} <= set(report.read_json(path))
    options.only = "no such work"
    assert run.run(lambda options: augment_bench.all_works(SIZES), options) == 2


@pytest.fixture
def timed(request):
    pytest.importorskip("pytest_benchmark")
    return request.getfixturevalue("benchmark")


@pytest.mark.parametrize("backend", ["published", "reference", "auto"])
def test_time_of_mean_pooling(timed, backend):
    shape = (1, 32, 192, 26, 26)
    features, attentions = bap_bench.make_inputs(shape, "mean")
    if backend == "published":
        call = published.pool_mean
    else:
        call = lambda *inputs: wk.bilinear_attention_pool(*inputs, backend=backend)  # noqa: E731
    pooled = timed.pedantic(call, (features, attentions), rounds=5, warmup_rounds=1)
    assert_parity(pooled.flatten(1), published.pool_mean(features, attentions).flatten(1))


@pytest.mark.parametrize("variant", ["published", "reference", "cpu"])
def test_time_of_crop_and_drop(timed, variant):
    sizes = {**SIZES, "H": 224, "W": 224}
    work = augment_bench.chosen_work(augment_bench.make_inputs(sizes))
    views = timed.pedantic(work.variants[variant], rounds=5, warmup_rounds=1)
    for view, truth in zip(views, work.variants["published"](), strict=True):
        assert_parity(view, truth)
