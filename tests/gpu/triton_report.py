"""Compiles the Triton kernels as they are launched, for GPUs that need not be here.

python tests/gpu/triton_report.py [--capability 90 ...] [--json FILE] prints a table: registers,
spills, shared memory, occupancy, tensor-core instructions, widest loads and stores. Run as a
process of its own, without TRITON_INTERPRET: the kernels read it when they are imported.

build/triton-report keeps what was found in each binary, by a hash of the kernel's source, launch,
architecture, compiler and of this file: what has not changed is not compiled again.
"""

import argparse
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

os.environ.pop("TRITON_INTERPRET", None)

import torch
import triton
from kept import kept
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from wsdan_kernels._triton import _launch, center_loss, sample_attention
from wsdan_kernels._triton import attend_and_pool as attend
from wsdan_kernels._triton import bilinear_attention_pool as pool
from wsdan_kernels.ops import bilinear_attention_pool as pool_op
from wsdan_kernels.testing import paper_shape

CAPABILITIES = (80, 90, 100)
MULTIPROCESSORS = {80: 108, 90: 132, 100: 148}
# Bytes of shared memory of a multiprocessor (CUDA C++ Programming Guide, technical
# specifications), and what else limits how many programs it holds.
SHARED = {80: 164 * 1024, 90: 228 * 1024, 100: 228 * 1024}
REGISTERS, WARPS = 65536, 64
TYPES = {
    torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.int64: "*i64",
    torch.uint8: "*u8", torch.int16: "*i16", torch.int32: "*i32",
}  # fmt: skip
TENSOR_CORES = r"\b(HMMA|HGMMA|UTC\w*MMA)"
LABEL, INSTRUCTION = re.compile(r"(\.L_x_\d+):"), re.compile(r"/\*[0-9a-f]{4,}\*/\s+(.*?);")
BACK = re.compile(r"\bBRA\b.*?(\.L_x_\d+)")
LOADS = {"128": r"\b(LDG\.E\.[\w.]*128|LDGSTS\.E[\w.]*\.128|LDGSTS\.E\.BYPASS\.[\w.]*128)"}
STORES = {"128": r"\bSTG\.E\.[\w.]*128"}


class Launch(NamedTuple):
    """A kernel as `title` launches it on a GPU of this capability."""

    title: str
    capability: int
    kernel: triton.JITFunction
    source: ASTSource
    options: dict
    tile: list[int]


def launches(work: Callable[[], None]) -> list[tuple]:
    """The kernels that `work` would launch: (function, arguments, keywords) each."""
    found = []

    def record(kernel, grid):
        return lambda *values, **keywords: found.append((kernel, values, keywords))

    jit = triton.runtime.jit.JITFunction
    original = jit.__getitem__
    jit.__getitem__ = record
    try:
        work()
    finally:
        jit.__getitem__ = original
    return found


def source_of(kernel, values, keywords) -> tuple[ASTSource, dict]:
    """What triton compiles for such a launch: types, constants, divisibility by 16."""
    options = {name: keywords[name] for name in ("num_warps", "num_stages") if name in keywords}
    arguments = {**dict(zip(kernel.arg_names, values, strict=False)), **keywords}
    signature, constants, attributes = {}, {}, {}
    for place, name in enumerate(kernel.arg_names):
        value = arguments[name]
        if kernel.params[place].is_constexpr or (type(value) is int and value == 1):
            signature[name], constants[name] = "constexpr", value
            continue
        if isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
            divisible = value.storage_offset() * value.element_size() % 16 == 0
        else:
            wide = isinstance(value, int) and abs(value) >= 1 << 31
            signature[name] = "fp32" if isinstance(value, float) else "i64" if wide else "i32"
            divisible = isinstance(value, int) and value % 16 == 0
        if divisible:
            attributes[place,] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constants, attributes), options


def tool(name: str, *arguments: str) -> str:
    """Output of a CUDA binary tool that triton's package carries."""
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    command = [str(folder / name), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def report(launch: Launch) -> dict:
    """The row of one launch, from what is kept or from its binary."""
    parts = (
        triton.__version__, launch.capability, launch.source.hash(), sorted(launch.options.items()),
        Path(__file__).read_bytes(),
    )  # fmt: skip
    found = kept("triton-report", parts, partial(inspected, launch))
    return {"name": launch.title, "kernel": launch.kernel.fn.__name__, "tile": launch.tile, **found}


def inspected(launch: Launch) -> dict:
    """Compile one launch and read its cubin."""
    target = GPUTarget("cuda", launch.capability, 32)
    compiled = triton.compile(launch.source, target=target, options=launch.options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = tool("cuobjdump", "-res-usage", file.name)
        # Without dataflow, which takes a third of the time and changes no instruction.
        code = tool("nvdisasm", "-ndf", "-novliw", file.name)
    registers = max(int(count) for count in re.findall(r"REG:(\d+)", usage))
    shared, warps = compiled.metadata.shared, compiled.metadata.num_warps
    granules = -(-registers // 8) * 8 * 32 * warps
    room = SHARED[launch.capability] // (shared + 1024)
    resident = min(REGISTERS // granules, WARPS // warps, room, 32)
    return {
        "capability": launch.capability,
        "registers": registers,
        "spills": len(re.findall(r"\b(?:LDL|STL)\b", code)),
        "shared": shared,
        "warps": warps,
        "occupancy": resident * warps / WARPS,
        "tensor_core": len(re.findall(TENSOR_CORES, code)),
        "step": step(code),
        "instruction": next(iter(re.findall(TENSOR_CORES, code)), ""),
        "async_copies": len(re.findall(r"\bLDGSTS\b", code)),
        "loads_128": len(re.findall(LOADS["128"], code)),
        "stores_128": len(re.findall(STORES["128"], code)),
        "narrow_loads": len(re.findall(r"\bLDG(?:STS)?\.E", code)),
    }


def step(code: str) -> int:
    """Instructions of a warp in one turn of the loop with the most products; 0 where none loops."""
    lines, labels, found = [], {}, {0: 0}
    for text in code.splitlines():
        if label := LABEL.match(text):
            labels[label[1]] = len(lines)
        elif instruction := INSTRUCTION.search(text):
            lines.append(instruction[1])
            jump = BACK.search(instruction[1])
            if jump and jump[1] in labels:
                body = lines[labels[jump[1]] :]
                products = sum(re.search(TENSOR_CORES, each) is not None for each in body)
                if products:
                    found[products] = len(body)
    return found[max(found)]


def tensors(shape: tuple[int, ...], dtype: torch.dtype, last: bool) -> list[torch.Tensor]:
    """Features and attentions of a shape (B,M,C,h,w), without memory."""
    batch, maps, channels, height, width = shape
    layout = torch.channels_last if last else torch.contiguous_format
    return [
        torch.empty((batch, rows, height, width), dtype=dtype, device="meta", memory_format=layout)
        for rows in (channels, maps)
    ]


def paper(batch: int, maps: int = 32, channels: int = 768) -> tuple[int, ...]:
    """The paper's shape (B,M,C,h,w) with other maps or channels."""
    size = paper_shape(batch)
    return batch, maps, channels, size["h"], size["w"]


def works() -> Iterator[tuple[str, Callable[[], None]]]:
    """Every launch configuration: each op, dtype, layout, and what else selects another kernel."""
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        kind = str(dtype).removeprefix("torch.")
        for last in (True, False):
            title = f"{kind} {'channels_last' if last else 'NCHW'}"
            for batch in (12, 128):
                yield f"pool {title} B {batch}", partial(_pool, paper(batch), dtype, last)
            yield f"max {title}", partial(_pool, paper(12), dtype, last, "max")
            if dtype != torch.float32:
                yield f"attend {title}", partial(_attend, paper(12), dtype, last)
        for maps, channels in ((64, 768), (128, 768), (5, 768), (32, 100), (200, 100)):
            if dtype != torch.float16:
                title = f"pool {kind} M {maps} C {channels}"
                yield title, partial(_pool, paper(12, maps, channels), dtype, True)
    for dtype in (torch.bfloat16, torch.float32):
        kind = str(dtype).removeprefix("torch.")
        for side, channels in ((12, 2048), (13, 768)):
            shape = (12, 32, channels, side, side)
            yield f"pool {kind} {side}x{side}", partial(_pool, shape, dtype, False)
            yield f"max {kind} {side}x{side}", partial(_pool, shape, dtype, False, "max")
    yield "pool tf32", partial(_tf32, partial(_pool, paper(12), torch.float32, True))
    yield "pool tf32 NCHW", partial(_tf32, partial(_pool, paper(12), torch.float32, False))
    yield "pool linear", partial(_pool, paper(12), torch.bfloat16, True, "sum", False, "none")
    # Every size is 1, which triton compiles in as a constant.
    ones = (1, 1, 1, 1, 1)
    for reduce in ("mean", "max"):
        yield f"{reduce} of one", partial(_pool, ones, torch.bfloat16, False, reduce)
    yield "attend to one", partial(_attend, ones, torch.bfloat16, False)
    for batch, classes, dim in ((12, 200, 24576), (1, 1, 1)):
        yield f"centers {dim}", partial(_centers, batch, classes, dim)
    for shape in (paper(12), ones):
        yield f"sample {shape[1]}", partial(_sample, shape)


def _tf32(work: Callable[[], None]) -> None:
    """The work where torch allows tf32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        work()
    finally:
        torch.set_float32_matmul_precision(before)


def _pool(shape, dtype, last, reduce="mean", signed_sqrt=True, normalize="all") -> None:
    features, attentions = tensors(shape, dtype, last)
    options = (reduce, signed_sqrt, normalize, 1, 1e-12, 1.0)
    results = pool_op._fake(features, attentions, *options)
    pool.forward(features, attentions, *options, *results)
    output, pooled, index = results
    grads = pool_op._fake_backward(output, features, attentions)
    pool.backward(output, features, attentions, pooled, index, *options, *grads)


def _attend(shape, dtype, last) -> None:
    features, attentions = tensors(shape, dtype, last)
    batch, maps, channels = shape[:3]
    vectors = torch.empty((4, maps), device="meta")
    weight = torch.empty((maps, channels), device="meta")
    output = torch.empty((batch, maps, channels), device="meta")
    attend.forward(
        features, weight, *vectors, 1e-5, "mean", True, "all", 1e-12, 1.0, output, attentions
    )


def _centers(batch, classes, dim) -> None:
    features, centers = (torch.empty((rows, dim), device="meta") for rows in (batch, classes))
    labels = torch.empty(batch, dtype=torch.int64, device="meta")
    center_loss.forward(features, centers, labels, features.new_empty(()), features)
    center_loss.update(centers, features, labels, 0.05, "accumulate")


def _sample(shape) -> None:
    _, attentions = tensors(shape, torch.bfloat16, True)
    picks = torch.empty((shape[0], 2), dtype=torch.int64, device="meta")
    uniforms = torch.empty((shape[0], 2), device="meta")
    sample_attention.forward(attentions, uniforms, "sqrt_mass", picks)


def distinct(capability: int, only: str = "") -> list[Launch]:
    """Each different launch once, of works with `only` in their title."""
    _launch.assumed = _launch.Gpu(capability, MULTIPROCESSORS[capability])
    found = {}
    for title, work in works():
        if only not in title:
            continue
        for kernel, values, keywords in launches(work):
            source, options = source_of(kernel, values, keywords)
            tile = [keywords[name] for name in ("CHANNELS", "POSITIONS") if name in keywords]
            key = (kernel.fn.__name__, source.hash(), str(options))
            found.setdefault(key, Launch(title, capability, kernel, source, options, tile))
    return list(found.values())


_shared: list[Launch] = []  # with forked processes, to which kernels cannot be sent


def _shared_report(place: int) -> dict:
    return report(_shared[place])


def reports(found: list[Launch]) -> Iterator[dict]:
    """Their rows in order, compiled on all cores."""
    _shared[:] = found
    with multiprocessing.get_context("fork").Pool() as processes:
        yield from processes.imap(_shared_report, range(len(found)))


COLUMNS = (
    ("name", "launch", 34), ("kernel", "kernel", 24), ("capability", "sm", 4),
    ("registers", "regs", 5), ("spills", "spill", 6), ("shared", "shared", 7),
    ("occupancy", "occup.", 7), ("tensor_core", "mma", 5), ("step", "step", 6),
    ("loads_128", "ld128", 6), ("narrow_loads", "ld all", 7), ("stores_128", "st128", 6),
)  # fmt: skip


def line(values: dict) -> str:
    cells = [
        (f"{values[key]:.2f}" if isinstance(values[key], float) else str(values[key])).ljust(width)
        for key, _, width in COLUMNS
    ]
    return "".join(cells).rstrip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--capability", type=int, nargs="+", default=CAPABILITIES)
    parser.add_argument("--only", default="", help="only launches with this text in their title")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    print(line({key: title for key, title, _ in COLUMNS}))
    found = [each for target in options.capability for each in distinct(target, options.only)]
    rows = []
    for row in reports(found):
        rows.append(row)
        print(line(row), flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
