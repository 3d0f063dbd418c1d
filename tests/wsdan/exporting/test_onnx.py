"""ONNX files in onnxruntime, beside the classifier that they were made of."""

import json
import re

import pytest
import torch
from exports import CLASSES, SIDE, make_checkpoint, make_photographs
from pages import blocks_of, run_shell
from paths import ROOT

from wsdan.data.zoom import Inputs
from wsdan.errors import UserError
from wsdan.exporting.comparison import compare, ours
from wsdan.exporting.graph import to_pixels
from wsdan.inference.classifier import Classifier

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
from wsdan.exporting.onnx_files import OnnxModel  # noqa: E402
from wsdan.exporting.quantization import calibration_images, quantize  # noqa: E402

pytestmark = pytest.mark.slow  # torch takes some seconds for each file


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "best.pt")


@pytest.fixture(scope="module")
def file(checkpoint):
    """What the first command of the page writes."""
    first = blocks_of((ROOT / "docs" / "export.md").read_text(encoding="utf-8"))[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(checkpoint.parent)
        run_shell(first.content)
    return checkpoint.with_name("model.onnx")


def test_photographs_get_the_same_probabilities_and_boxes(checkpoint, file, tmp_path):
    """In batches of any size, of one file."""
    classifier, model = Classifier(checkpoint, "cpu"), OnnxModel(file)
    originals = [classifier.read(path) for path in make_photographs(tmp_path, 16)]
    inputs = classifier.inputs(originals)
    for size in (1, 3, 16):
        expected = ours(classifier, Inputs(inputs[:size]))
        found = model(to_pixels(inputs[:size], torch.uint8))
        assert list(found) == ["raw", "refined", "mean", "boxes"]
        for view in ("raw", "refined", "mean"):
            torch.testing.assert_close(found[view], expected[view], rtol=0, atol=1e-4)
        assert found["boxes"].dtype == torch.int32
        assert torch.equal(found["boxes"], expected["boxes"])
    assert (expected["boxes"] != torch.tensor([0, 0, SIDE, SIDE], dtype=torch.int32)).any()


def test_a_file_is_of_standard_operators_and_tells_its_input(file):
    model = onnx.load(file)
    assert {item.domain for item in model.opset_import} == {""}
    operators = {node.op_type for node in model.graph.node}
    assert {node.domain for node in model.graph.node} == {""}
    assert not {"Loop", "Scan", "If", "SequenceAt"} & operators
    assert {"Resize", "GridSample"} <= operators
    (images,) = model.graph.input
    shape = [axis.dim_param or axis.dim_value for axis in images.type.tensor_type.shape.dim]
    assert (images.name, shape) == ("images", ["batch", 3, SIDE, SIDE])
    properties = {item.key: json.loads(item.value) for item in model.metadata_props}
    assert properties["classes"] == CLASSES
    assert properties["outputs"] == [value.name for value in model.graph.output]
    assert properties["preprocessing"]["resize"] == [55, 55]
    assert str(ROOT).encode() not in file.read_bytes()


def test_the_example_of_the_page_runs(checkpoint, file, tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(import json.*?)^```", page, re.DOTALL | re.MULTILINE)
    (image,) = make_photographs(tmp_path, 1, size=(90, 61))
    (tmp_path / "model.onnx").symlink_to(file)
    image.rename(tmp_path / "bird.jpg")
    monkeypatch.chdir(tmp_path)
    assert len(example.strip().splitlines()) <= 12
    exec(example, {})
    label, score = capsys.readouterr().out.split()
    expected = Classifier(checkpoint, "cpu")(tmp_path / "bird.jpg")
    assert (label, float(score)) == (expected.label, pytest.approx(expected.score, abs=1e-4))


def test_int8(checkpoint, file, tmp_path):
    """Only convolutions and products of the backbone have 8 bits."""
    make_photographs(tmp_path / "deep" / "er", 7)
    paths = calibration_images(tmp_path, 3)
    assert [path.name for path in paths] == ["0.png", "2.png", "4.png"]
    classifier, out = Classifier(checkpoint, "cpu"), tmp_path / "a.onnx"
    eight, whole = quantize(file, out, classifier, paths, torch.uint8)
    assert eight + whole == len(onnx.load(file).graph.node)
    nodes = onnx.load(out).graph.node
    makers = {name: node.op_type for node in nodes for name in node.output}
    of_8_bits = [node for node in nodes if makers.get(node.input[0]) == "DequantizeLinear"]
    convolutions = [
        node for node in of_8_bits
        if node.op_type == "Conv" and makers.get(node.input[1]) == "DequantizeLinear"
    ]  # fmt: skip
    assert len(convolutions) == 2 * 4  # in each view; not those of the attention maps
    assert not {"MatMul", "Resize", "GridSample", "Softmax"} & {node.op_type for node in of_8_bits}
    difference = compare(classifier, OnnxModel(out), torch.uint8)
    assert 0 < difference.probability < 0.2
    with pytest.raises(UserError, match="--calibration: no image in"):
        calibration_images(tmp_path / "none", 3)
