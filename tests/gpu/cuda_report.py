"""What nvcc made of the CUDA kernels for each GPU they are built for; none needs to be present.

python tests/gpu/cuda_report.py [--capability 90 ...] [--only TEXT] [--json FILE] prints a table:
registers, spills, shared memory, occupancy, widest loads and stores. It reads the objects that
`pip install -e .` left in build/cuda, and compiles those that are not up to date, for the GPUs that
WSDAN_CUDA_ARCHS names, by default those of the build (all: those of a wheel). Shared memory is
what the launchers ask for at the paper's shape, and the block the largest of the kernel.

build/cuda-report keeps what was found in each object, by a hash of the object and of this file.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))

from kept import kept  # noqa: E402

import native_build.cuda as cuda_build  # noqa: E402
from native_build.objects import notes_of  # noqa: E402

# Of a multiprocessor: warps, blocks, bytes of shared memory (CUDA C++ Programming Guide, technical
# specifications per compute capability). All have 65536 registers, and take 1 KiB a block.
WARPS = {80: 64, 86: 48, 89: 48, 90: 64, 100: 64, 120: 48}
BLOCKS = {80: 32, 86: 16, 89: 24, 90: 32, 100: 32, 120: 24}
SHARED = {80: 164, 86: 100, 89: 100, 90: 228, 100: 228, 120: 100}
REGISTERS, RESERVED = 65536, 1024
# Prints the shared memory of the launches, of the sources' own words.
SIZES = """
#include "csrc/cuda/crop_resize_backward.cuh"
#include "csrc/cuda/resized_map.cuh"
#include <cstdio>
template <typename T>
int map_bytes() {
    const wsdan::Axis<T, int> axis(26, 448, /*align_corners=*/true);
    const wsdan::MapGeometry<T> paper{axis, axis, wsdan::BoxRule::paper};
    return static_cast<int>(wsdan::map_shared_bytes<T>(paper, /*values_in_shared=*/true));
}
int main() {
    std::printf("{\\"float\\": %d, \\"double\\": %d, \\"sums\\": %d, \\"totals\\": %d}",
        map_bytes<float>(), map_bytes<double>(), static_cast<int>(wsdan::kUncropSums),
        static_cast<int>(wsdan::kUncropRows * wsdan::kUncropThreads));
}
"""
# What a kernel's launcher asks for, given its template arguments and what SIZES prints.
LAUNCHED = {
    "attention_boxes_kernel": lambda arguments, sizes: sizes[arguments[1]],
    "map_cuts_kernel": lambda arguments, sizes: sizes[arguments[1]],
    "boxes_and_cuts_kernel": lambda arguments, sizes: sizes["float"],
    "attention_drop_kernel": lambda arguments, sizes: 0,
    "attention_crop_drop_kernel": lambda arguments, sizes: 0,
    "crop_resize_kernel": lambda arguments, sizes: 0,
    "crop_resize_backward_kernel": lambda arguments, sizes: (
        sizes["sums"] * (8 if arguments[0] == "double" else 4)
    ),
    "attention_swap_kernel": lambda arguments, sizes: 0,
    "attention_swap_backward_kernel": lambda arguments, sizes: (
        4 * (sizes["sums"] + sizes["totals"])
    ),
}
SHORT = {
    "wsdan::": "", "unsigned char": "u8", "unsigned short": "u16", "unsigned int": "u32",
    "unsigned long": "u64",
}  # fmt: skip
PTXAS = re.compile(
    r"Compiling entry function '(\w+)' for 'sm_(\d+)'.*?"
    r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?"
    r"Used (\d+) registers([^\n]*)",
    re.DOTALL,
)
FUNCTION = re.compile(r"^\t\tFunction : (\w+)|^arch = sm_(\d+)", re.MULTILINE)
# Of global memory or, where the compiler cannot know, of any; LDL and STL are the stack.
ACCESS = re.compile(r"\b(LDG?|STG?)\.E([.\w]*)|\b(LDL|STL|LDS|STS|ATOMS)\b")
MOST_THREADS = re.compile(r"MAX_THREADS\n\tFormat:\tEIFMT_SVAL\n\tValue:\t(0x\w+)")


class NoToolError(Exception):
    """What is needed to read machine code, and is not here."""


def tool(*arguments: str, keep: str = "") -> str:
    """What cuobjdump, of triton's package, prints; only the lines in which `keep` is found."""
    try:
        import triton
    except ImportError:
        raise NoToolError("triton is not installed, whose cuobjdump reads machine code") from None
    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with subprocess.Popen(
        [str(program), *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        wanted = re.compile(keep)
        text = "".join(line for line in process.stdout if wanted.search(line))
    if process.returncode != 0:
        raise RuntimeError(f"{program} {' '.join(arguments)} failed ({process.returncode})")
    return text


def launched_sizes(nvcc: str) -> dict[str, int]:
    """Bytes of a map in shared memory, by the type it is computed in, and values of the sums."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder) / "sizes.cu", Path(folder) / "sizes"
        source.write_text(SIZES, encoding="utf-8")
        options = ["-std=c++20", "--expt-relaxed-constexpr", "-arch=sm_80", f"-I{ROOT}"]
        subprocess.run([nvcc, *options, str(source), "-o", str(program)], check=True)
        return json.loads(subprocess.run([str(program)], check=True, capture_output=True).stdout)


def compiled(built: Path) -> dict[tuple[str, int], dict]:
    """(mangled name, architecture) -> what ptxas said of each kernel of an object."""
    said = notes_of(built).read_text(encoding="utf-8")
    found = {}
    for name, arch, *numbers, more in PTXAS.findall(said):
        stack, stores, loads, registers = map(int, numbers)
        static = re.search(r"(\d+) bytes smem", more)
        found[name, int(arch)] = {
            "registers": registers, "stack": stack, "spills": stores + loads,
            "static": int(static[1]) if static else 0,
        }  # fmt: skip
    return found


def sections(text: str) -> dict[tuple[str, int], str]:
    """(mangled name, architecture) -> its part of what cuobjdump -sass prints."""
    found, arch = {}, 0
    for mark, after in pairwise([*FUNCTION.finditer(text), None]):
        if mark[2]:
            arch = int(mark[2])
        else:
            found[mark[1], arch] = text[mark.end() : after.start() if after else None]
    return found


def most_threads(built: Path) -> dict[str, int]:
    """Mangled name -> its __launch_bounds__."""
    text = tool("-elf", str(built))
    found = {}
    for part in re.split(r"^\.nv\.info\.", text, flags=re.MULTILINE)[1:]:
        bounds = MOST_THREADS.search(part.split("\n.nv.", 1)[0])
        if bounds:
            found[part.split("\n", 1)[0].strip()] = int(bounds[1], 16)
    return found


def accesses(code: str) -> dict:
    """How many loads and stores by bytes of each, and how often other memory is touched."""
    counts = {"loads": {}, "stores": {}, "local": 0, "shared_accesses": 0}
    for name, modifiers, other in ACCESS.findall(code):
        if other:
            counts["local" if other in ("LDL", "STL") else "shared_accesses"] += 1
            continue
        bits = re.search(r"\.[SU]?(8|16|64|128|256)\b", modifiers)
        size = str(int(bits[1]) // 8 if bits else 4)
        kind = counts["loads" if name.startswith("LD") else "stores"]
        kind[size] = kind.get(size, 0) + 1
    return counts


def readable(names: set[str]) -> dict[str, str]:
    """Mangled name -> such as attention_drop_kernel<u16, float, 8>."""
    ordered = sorted(names)
    result = subprocess.run(
        ["c++filt"], input="\n".join(ordered), capture_output=True, text=True, check=True
    )
    found = {}
    for mangled, name in zip(ordered, result.stdout.splitlines(), strict=True):
        for long, short in SHORT.items():
            name = name.replace(long, short)
        found[mangled] = re.match(r"(?:void )?(\w+(?:<[^(]*>)?)\(", name)[1]
    return found


def occupancy(row: dict) -> float:
    """Share of a multiprocessor's warps that its blocks can fill."""
    arch, warps = row["capability"], -(-row["threads"] // 32)
    registers = -(-row["registers"] // 8) * 8 * 32 * warps
    shared = SHARED[arch] * 1024 // (row["shared"] + RESERVED)
    resident = min(REGISTERS // registers, WARPS[arch] // warps, BLOCKS[arch], shared)
    return resident * warps / WARPS[arch]


def reports(built: Path, sizes: dict[str, int]) -> list[dict]:
    """A row for each kernel of an object and each architecture."""
    said = compiled(built)
    if not said:  # of a file without kernels
        return []
    bounds = most_threads(built)
    codes = sections(tool("-sass", str(built), keep=rf"{FUNCTION.pattern}|{ACCESS.pattern}"))
    names = readable({name for name, _ in said})
    rows = []
    for (mangled, arch), numbers in said.items():
        name = names[mangled]
        kernel, _, arguments = name.rstrip(">").partition("<")
        row = {"name": name, "kernel": kernel, "arguments": arguments.split(", ")}
        row |= {"capability": arch, "threads": bounds[mangled]}
        row |= numbers | accesses(codes[mangled, arch])
        row["shared"] = row["static"] + LAUNCHED[kernel](row["arguments"], sizes)
        rows.append({**row, "occupancy": occupancy(row)})
    return rows


def kept_reports(built: Path, sizes: dict[str, int]) -> list[dict]:
    """reports(), from what is kept where the object has not changed."""
    files = (built, notes_of(built), Path(__file__))
    parts = (sorted(sizes.items()), *(path.read_bytes() for path in files))
    return kept("cuda-report", parts, lambda: reports(built, sizes))


def all_reports() -> list[dict]:
    """All rows, each kernel and architecture once."""
    nvcc = cuda_build.usable_nvcc(os.environ)
    objects = cuda_build.compile_all(
        nvcc, cuda_build.usable_archs(nvcc, os.environ.get("WSDAN_CUDA_ARCHS", ""))
    )
    sizes = launched_sizes(nvcc)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        found = list(pool.map(lambda path: kept_reports(path, sizes), objects))
    once = {(row["name"], row["capability"]): row for row in chain(*found)}
    return [once[key] for key in sorted(once)]


COLUMNS = (
    ("name", "kernel", 57), ("capability", "sm", 4), ("threads", "block", 6),
    ("registers", "regs", 5), ("spills", "spill", 6), ("stack", "stack", 6),
    ("shared", "shared", 7), ("occupancy", "occup.", 7), ("loads", "loads (bytes:number)", 26),
    ("stores", "stores", 16),
)  # fmt: skip


def cell(value) -> str:
    if isinstance(value, dict):
        return " ".join(f"{size}:{value[size]}" for size in sorted(value, key=int, reverse=True))
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def line(values: dict) -> str:
    return "".join(f"{cell(values[key])} ".ljust(width) for key, _, width in COLUMNS).rstrip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--capability", type=int, nargs="+", default=cuda_build.ARCHS)
    parser.add_argument("--only", default="", help="only kernels with this text in their name")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    try:
        rows = all_reports()
    except (cuda_build.CannotBuildError, NoToolError) as error:
        print(f"no report: {error}", file=sys.stderr)
        return 2
    rows = [row for row in rows if row["capability"] in options.capability]
    rows = [row for row in rows if options.only in row["name"]]
    print(line({key: title for key, title, _ in COLUMNS}))
    print("\n".join(map(line, rows)))
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
