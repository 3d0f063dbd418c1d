"""Writing a file of a classifier, checked before it takes its place, and telling how to run it."""

import dataclasses
import shutil
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path

from wsdan.checkpoint import NotSavedError
from wsdan.data.loaders import Batch
from wsdan.errors import UserError
from wsdan.exporting.comparison import LARGEST, Difference, Run, accuracies, compare, on_cpu, ours
from wsdan.exporting.graph import INPUTS, TwoViews, given, outputs_of, traced
from wsdan.exporting.metadata import describe
from wsdan.files import written_whole
from wsdan.inference.classifier import Classifier


@dataclasses.dataclass
class Exported:
    """What was written. kind: "onnx", "torch" or "aoti". difference: from the classifier on random
    images. accuracies: top-1 in percent by view, of the checkpoint and of the file, where images
    were given. quantized: nodes in 8 bits and in float32, of an int8 file."""

    kind: str
    metadata: dict[str, object]
    difference: Difference
    accuracies: dict[str, dict[str, float]]
    quantized: tuple[int, int] | None = None


def export(
    classifier: Classifier,
    kind: str,
    out: Path,
    *,
    pixels: str = "uint8",
    calibration: list[Path] | None = None,
    batches: Iterable[Batch] | None = None,
) -> Exported:
    """Write the classifier's prediction, of both views or of one, as one program, to run elsewhere.

    Args:
        kind: "onnx", "torch" or "aoti". pixels: "uint8" or "float". calibration: images with which
        an ONNX file becomes int8. batches: of a validation set, to measure the accuracy on.

    Raises:
        UserError: a file that differs from the classifier, or cannot be written.
    """
    dtype = INPUTS[pixels]
    views = TwoViews(classifier.model, classifier.config)
    outputs = outputs_of(classifier.config)
    metadata = describe(classifier, pixels, outputs)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, on its own code
        program = traced(views, classifier.config, dtype)
        made, quantized = Path(folder, "model" + out.suffix), None
        _write(program, kind, outputs, metadata, made)
        if calibration is not None:
            from wsdan.exporting.quantization import quantize

            whole = made.rename(made.with_name("float32.onnx"))
            quantized = quantize(whole, made, classifier, calibration, dtype)
        run = _runner(made, kind)
        difference = compare(classifier, run, dtype)
        if calibration is None and difference.probability > LARGEST:
            raise UserError(
                f"--format {kind}: the file's probabilities differ by {difference.probability:.2g} "
                f"from the checkpoint's; {out} was not written"
            )
        measured = {}
        if batches is not None:
            runs = {
                "checkpoint": lambda inputs: ours(classifier, inputs),
                "file": lambda inputs: on_cpu(run, given(inputs, dtype), classifier),
            }
            measured = accuracies(runs, batches, classifier.config)
        _move(made, out)
    return Exported(kind, metadata, difference, measured, quantized)


def _write(program, kind: str, outputs: tuple[str, ...], metadata: dict, path: Path) -> None:
    if kind == "onnx":
        from wsdan.exporting.onnx_files import write_onnx

        write_onnx(program, outputs, metadata, path)
    else:
        from wsdan.exporting.programs import write_compiled, write_program

        (write_compiled if kind == "aoti" else write_program)(program, metadata, path)


def _runner(path: Path, kind: str) -> Run:
    if kind == "onnx":
        from wsdan.exporting.onnx_files import OnnxModel

        return OnnxModel(path)
    from wsdan_kernels import load_exported

    return load_exported(path)


def _move(made: Path, out: Path) -> None:
    """Put a whole file in its place. Raises NotSavedError if the system refuses."""
    try:
        with open(made, "rb") as source, written_whole(out, "wb") as target:
            shutil.copyfileobj(source, target)
    except OSError as error:
        raise NotSavedError(f"cannot write {out}: {error.strerror}") from None
