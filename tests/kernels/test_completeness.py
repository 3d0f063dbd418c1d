"""Every operator has its cases, truth, derivative, rows of tests and benchmarks, documentation."""

import importlib.util
import re
from types import SimpleNamespace

import fuzzers
import pytest
import torch
import truths
from harness import gpu, gpu_rows, run, variants
from measured import TINY
from paths import ROOT

from wsdan_kernels import ops, testing

DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def neighbour(name: str):
    """The test module of this name beside this file."""
    path = ROOT / "tests" / "kernels" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_of_completeness", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tree() -> SimpleNamespace:
    """What is looked through: neighbouring test modules, and the benchmarks' operators."""
    return SimpleNamespace(
        errors=neighbour("test_errors"),
        no_waiting=neighbour("test_no_waiting"),
        truths=neighbour("test_truths"),
        measured=measured_operators(),
    )


def measured_operators() -> set[str]:
    """The operators in the works of gpu_rows.ROWS, less those of whole models."""
    found = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "input_sets", lambda size, device: 1)
        for module in (run, variants):
            patch.setattr(module, "ours", lambda names, *_: found.update(names) or [])
        for name, entry in gpu_rows.ROWS.items():
            if not name.startswith(("step", "inference")):
                list(entry.make(TINY, "cpu"))
    return found


def declared() -> set[str]:
    """All operators in torch's namespace `wsdan`, those of the backward passes among them."""
    names = torch._C._dispatch_get_all_op_names()
    return {name.removeprefix("wsdan::") for name in names if name.startswith("wsdan::")}


def differentiable(name: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"wsdan::{name}", "Autograd")


def rows_of(function) -> set[str]:
    """The operators of the cases that a test is run for."""
    marks = [mark for mark in function.pytestmark if mark.args[0] == "case"]
    return {case.op for mark in marks for case in mark.args[1]}


def missing(op: str, tree: SimpleNamespace) -> list[str]:
    """What this operator lacks, a sentence each."""
    kernels = ops.KERNELS[op]
    cases = [case for case in testing.CASES if case.op == op]
    found = []
    if "reference" not in kernels:
        found.append(f"{op} has no reference kernel in wsdan_kernels/ops/{op}.py")
    if not cases:
        found.append(f"{op} has no OpCase in wsdan_kernels/testing.py")
    if not hasattr(truths, op):
        found.append(f"{op} has no function in tests/kernels/truths.py")
    if op not in tree.truths.WRONG:
        found.append(f"{op} has no wrong equation in WRONG of tests/kernels/test_truths.py")
    if "cpu" in kernels and op not in fuzzers.FUZZERS:
        found.append(f"{op} has no function in FUZZERS of tests/support/fuzzers.py")
    if op not in {tree.errors.OPERATORS[mistake[0]] for mistake in tree.errors.MISTAKES}:
        found.append(f"{op} has no row in MISTAKES of tests/kernels/test_errors.py")
    for backend, test in (
        ("reference", tree.no_waiting.test_the_reference_stays_on_the_device),
        ("cuda", tree.no_waiting.test_the_cuda_operators_stay_on_the_device),
        ("triton", tree.no_waiting.test_the_triton_launchers_stay_on_the_device),
    ):
        if backend in kernels and op not in rows_of(test):
            found.append(f"{op} on {backend} has no row in tests/kernels/test_no_waiting.py")
    if {"triton", "cuda"} & set(kernels) and op not in tree.measured:
        found.append(f"{op} has a kernel for the GPU and no row in benchmarks/harness/gpu_rows.py")
    word = re.compile(rf"(?<!\w){op}(?!\w)")
    if not any(word.search(path.read_text(encoding="utf-8")) for path in DOCUMENTS):
        found.append(f"{op} stands neither in README.md nor in docs/*.md")
    if cases and differentiable(op) != any(case.differentiable for case in cases):
        declares = "declares a backward" if differentiable(op) else "declares backward=None"
        found.append(f"{op} {declares}, but OpCase.differentiable says otherwise")
    found += [
        f"{name} declares backward=None: a second derivative would be silently wrong"
        for name in sorted(declared())
        if name.startswith(f"{op}_backward") and not differentiable(name)
    ]
    return found


@pytest.mark.parametrize("op", ops.KERNELS)
def test_nothing_is_missing(op, tree):
    found = missing(op, tree)
    assert not found, "\n".join(found)


def test_every_operator_is_in_the_table():
    """Of torch's namespace; a backward operator belongs to the operator before its suffix."""
    assert {name.removesuffix("_backward") for name in declared()} == set(ops.KERNELS)


def leave_out(patch, owner, name, of):
    """Take what belongs to crop_resize out of a sequence."""
    kept = [item for item in getattr(owner, name) if of(item) != "crop_resize"]
    patch.setattr(owner, name, kept)


# What missing() must say, and what is taken away from crop_resize for it: f(monkeypatch, tree).
PLANTED = {
    "has no reference kernel": lambda patch, tree: patch.delitem(
        ops.KERNELS["crop_resize"], "reference"
    ),
    "has no OpCase": lambda patch, tree: leave_out(patch, testing, "CASES", lambda case: case.op),
    "has no function in .*truths": lambda patch, tree: patch.delattr(truths, "crop_resize"),
    "has no wrong equation in WRONG": lambda patch, tree: patch.delitem(
        tree.truths.WRONG, "crop_resize"
    ),
    "has no function in FUZZERS": lambda patch, tree: patch.delitem(fuzzers.FUZZERS, "crop_resize"),
    "has no row in MISTAKES": lambda patch, tree: leave_out(
        patch, tree.errors, "MISTAKES", lambda row: tree.errors.OPERATORS[row[0]]
    ),
    "on reference has no row in .*test_no_waiting": lambda patch, tree: patch.setattr(
        tree.no_waiting.test_the_reference_stays_on_the_device, "pytestmark", []
    ),
    "on cuda has no row in .*test_no_waiting": lambda patch, tree: patch.setattr(
        tree.no_waiting.test_the_cuda_operators_stay_on_the_device, "pytestmark", []
    ),
    "no row in .*gpu_rows": lambda patch, tree: patch.setattr(
        tree, "measured", tree.measured - {"crop_resize"}
    ),
    "stands neither in README": lambda patch, tree: patch.setitem(globals(), "DOCUMENTS", ()),
    "declares backward=None, but OpCase": lambda patch, tree: patch.setitem(
        globals(), "differentiable", lambda name: name.endswith("_backward")
    ),
    "crop_resize_backward declares backward=None": lambda patch, tree: patch.setitem(
        globals(), "differentiable", lambda name: not name.endswith("_backward")
    ),
}


@pytest.mark.parametrize("text", PLANTED)
def test_what_is_missing_is_named(text, tree, monkeypatch):
    PLANTED[text](monkeypatch, tree)
    (found,) = missing("crop_resize", tree)
    assert re.search(text, found)


def test_checks_and_a_derivative_must_be_declared():
    """An operator that says nothing of its arguments and derivative does not register."""
    from wsdan_kernels.ops._declare import declare

    with pytest.raises(TypeError, match="keyword-only arguments: 'check' and 'backward'"):
        declare("unsaid(Tensor images) -> Tensor", {}, lambda images: images)
