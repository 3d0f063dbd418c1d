"""ONNX files, in standard operators only."""

import json
from pathlib import Path

import onnx
import torch
from torch import Tensor
from torch.export import ExportedProgram

from wsdan.errors import UserError
from wsdan.exporting.standard_operators import DECOMPOSITIONS

OPSET = 20
KEPT = "namespace"  # of a node's metadata: the modules it comes from. Others hold paths
LARGEST = 2**31 - 2**20  # bytes; protobuf has no larger message than 2 GiB


def write_onnx(
    program: ExportedProgram, outputs: tuple[str, ...], metadata: dict[str, object], path: Path
) -> None:
    """Write the program of images (B,C,H,W), whose outputs get these names.

    Each entry of the metadata becomes a property of the model, as JSON.

    Raises UserError for a model that is too large for one file.
    """
    standard = program.run_decompositions(DECOMPOSITIONS)
    names = ["images", "extents"][: len(program.graph_signature.user_inputs)]
    exported = torch.onnx.export(
        standard, dynamo=True, verbose=False, opset_version=OPSET, input_names=names
    )
    _rename(exported.model.graph, outputs)
    model = exported.model_proto
    if model.ByteSize() > LARGEST:
        raise UserError(f"--format onnx: {model.ByteSize()} bytes are too many for one file")
    for node in model.graph.node:
        kept = [item for item in node.metadata_props if item.key == KEPT]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    model.producer_name = "wsdan"
    properties = {name: json.dumps(value) for name, value in metadata.items()}
    onnx.helper.set_model_props(model, properties)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _rename(graph, outputs: tuple[str, ...]) -> None:
    """Name the outputs, and their first axis batch, in a graph of onnx_ir."""
    import onnx_ir

    for node in graph:
        for value in node.outputs:
            if value.name in outputs:
                value.name += "_"  # a name is given once
    for value, name in zip(graph.outputs, outputs, strict=True):
        value.name = name
    for value in (*graph.inputs, *graph.outputs):
        value.shape = onnx_ir.Shape(["batch", *value.shape[1:]])


class OnnxModel:
    """An ONNX file that runs in onnxruntime on the CPU, as TwoViews."""

    def __init__(self, path: Path):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self._names = [output.name for output in self._session.get_outputs()]

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        names = [item.name for item in self._session.get_inputs()]
        values = [value.contiguous().numpy() for value in inputs]
        found = self._session.run(None, dict(zip(names, values, strict=True)))
        return dict(zip(self._names, map(torch.from_numpy, found), strict=True))
