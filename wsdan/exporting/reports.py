"""What `wsdan export` prints: size, differences, accuracies, and how to run the file."""

from pathlib import Path

from wsdan.exporting.comparison import Difference
from wsdan.exporting.export import Exported
from wsdan.files import size_text


def report(exported: Exported, out: Path) -> str:
    """Lines for the terminal."""
    about = exported.metadata["preprocessing"]
    size = ", ".join(map(str, (len(about["mode"]), *about["center_crop"])))
    low, high = about["range"]
    lines = [
        f"{out}: {size_text(out)}",
        f"takes images (B, {size}) {about['dtype']} of {low} to {high}, "
        f"gives {', '.join(exported.metadata['outputs'])}",
        _checked(exported.difference),
    ]
    if exported.quantized is not None:
        eight, whole = exported.quantized
        lines.append(
            f"int8: {eight} nodes of the backbone; {whole} nodes in float32: attention maps, "
            "pooling, boxes, crop, classifier"
        )
    lines += _accuracies(exported.accuracies)
    return "\n".join([*lines, "to run it:", *(f"  {line}" for line in _usage(exported, out))])


def _checked(difference: Difference) -> str:
    boxes = "boxes equal"
    if difference.boxes:
        boxes = f"{difference.boxes} boxes differ, by {difference.edge} px at most"
    return (
        f"on {difference.images} random images: probabilities within "
        f"{difference.probability:.1e} of the checkpoint's, {boxes}"
    )


def _accuracies(accuracies: dict[str, dict[str, float]]) -> list[str]:
    """A table of top-1 accuracies, a line for each model."""
    if not accuracies:
        return []
    views = list(next(iter(accuracies.values())))
    head = "top-1       " + "".join(f"{view:>10}" for view in views)
    return [head] + [
        f"{name:<12}" + "".join(f"{values[view]:>8.2f} %" for view in views)
        for name, values in accuracies.items()
    ]


def _usage(exported: Exported, out: Path) -> list[str]:
    """Lines of Python."""
    if exported.kind == "onnx":
        return [
            f"session = onnxruntime.InferenceSession({str(out)!r})",
            f"{', '.join(exported.metadata['outputs'])} = session.run(None, {{'images': images}})",
        ]
    return [
        "from wsdan_kernels import load_exported",
        f"outputs = load_exported({str(out)!r})(images)",
    ]
