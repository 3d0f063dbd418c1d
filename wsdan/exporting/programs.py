"""Programs of torch.export and AOTInductor; wsdan_kernels.load_exported loads both."""

import json
from pathlib import Path

import torch
from torch.export import ExportedProgram

METADATA = "wsdan.json"  # the name under which load_exported looks


def write_program(program: ExportedProgram, metadata: dict[str, object], path: Path) -> None:
    """Write the program by torch.export.save."""
    torch.export.save(program, path, extra_files={METADATA: json.dumps(metadata)})


def write_compiled(program: ExportedProgram, metadata: dict[str, object], path: Path) -> None:
    """Compile the program by AOTInductor for this machine and its device, and write it."""
    torch._inductor.aoti_compile_and_package(
        program,
        package_path=str(path),
        inductor_configs={"aot_inductor.metadata": {METADATA: json.dumps(metadata)}},
    )
