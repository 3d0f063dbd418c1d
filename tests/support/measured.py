"""What a measurement on a GPU gives, made up."""

from dataclasses import replace

from harness import gpu_rows, report, run

TINY = {"B": 2, "M": 4, "C": 6, "h": 5, "w": 5, "H": 40, "W": 40}
FACTS = {
    "date": "2026-01-02T03:04:05+00:00",
    "device": "A GPU 80GB",
    "torch": "2.11",
    "triton": "3.6",
    "copy_gb_per_s": 3000.0,
    "matmul_tflop_per_s": {"bfloat16": 700.0, "tf32": 350.0, "float32": 50.0},
}
ROW = report.Row(
    "mean forward", "B 128 M 32 C 768 26x26 float32 channels_last", "triton", 0.08, 0.07, 0.09,
    50, 5.0, 3000.0, "GB/s", "copy", 0.8, 12.5, 3, 0.2, "gpu",
)  # fmt: skip


def rows_of(ours_ms=0.08, **others):
    rows = [replace(ROW, variant=name, median_ms=ms) for name, ms in others.items()]
    return [*rows, replace(ROW, median_ms=ours_ms)]


def found_of(rows, batch=gpu_rows.LARGE, budget=gpu_rows.POOLING, bits=True, **of_work):
    work = run.Work("mean forward", "B 128", {}, 0.0, 1.0, **of_work)
    return gpu_rows.checks(work, rows, batch, gpu_rows.Entry(list, budget), bits)
