"""int8: an ONNX file whose backbone computes with 8 bits, calibrated on images."""

from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from wsdan.data.formats import is_image
from wsdan.errors import UserError
from wsdan.exporting.graph import given
from wsdan.exporting.onnx_files import KEPT
from wsdan.inference.classifier import Classifier

BATCH = 16  # images that are calibrated with at once
BACKBONE = "model.backbone: "  # in the namespace of its nodes
# What has a kernel of 8 bits in onnxruntime, or passes them through.
QUANTIZED = ("Conv", "Gemm", "MatMul", "Add", "Concat", "MaxPool", "AveragePool", "Relu", "Clip")


class _Images(CalibrationDataReader):
    """Batches of calibration images, as onnxruntime asks for them."""

    def __init__(self, classifier: Classifier, paths: list[Path], dtype: torch.dtype):
        self._batches = self._read(classifier, paths, dtype)

    @staticmethod
    def _read(classifier: Classifier, paths: list[Path], dtype: torch.dtype) -> Iterator[dict]:
        for start in range(0, len(paths), BATCH):
            originals = [classifier.read(path) for path in paths[start : start + BATCH]]
            inputs = given(classifier.prepared(originals), dtype)
            yield {name: value.contiguous().numpy() for name, value in inputs.items()}

    def get_next(self) -> dict | None:
        return next(self._batches, None)


def calibration_images(folder: Path, most: int) -> list[Path]:
    """At most `most` of the image files below a folder, evenly spread over their sorted paths.

    Raises UserError where there is none.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and is_image(path))
    if not paths:
        raise UserError(f"--calibration: no image in {folder}")
    count = min(most, len(paths))
    return [paths[i * len(paths) // count] for i in range(count)]


def quantize(
    source: Path, out: Path, classifier: Classifier, paths: list[Path], dtype: torch.dtype
) -> tuple[int, int]:
    """Write the ONNX file `source` with an int8 backbone: the numbers of nodes in 8 bits and of
    those left in float32.

    Attention maps, pooling, boxes, crop, classifier and probabilities stay in float32. Weights
    have 7 bits and a scale for each output channel: on processors without VNNI, sums of products
    of 8 bits would overflow.
    """
    nodes = onnx.load(source).graph.node
    chosen = [node.name for node in nodes if node.op_type in QUANTIZED and _in_backbone(node)]
    quantize_static(
        source,
        out,
        _Images(classifier, paths, dtype),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(QUANTIZED),
        nodes_to_quantize=chosen,
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )
    return len(chosen), len(nodes) - len(chosen)


def _in_backbone(node: onnx.NodeProto) -> bool:
    return any(item.key == KEPT and BACKBONE in item.value for item in node.metadata_props)
