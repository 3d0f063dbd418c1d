"""docs/python.md: its code runs, one block after the other."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from wsdan import Classifier
from wsdan.checkpoint import save_checkpoint
from wsdan.config import Config
from wsdan.inference.embedding import PCA
from wsdan.networks.model import build_model


@pytest.mark.slow  # the figure of plot()
def test_the_page_runs(root, tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.chdir(tmp_path)
    config = Config("folder", ".", image_size=32, backbone="tiny", num_attentions=2).resolved()
    torch.manual_seed(0)
    state = build_model(config, 3).state_dict()
    save_checkpoint(tmp_path / "best.pt", config, ["a", "b", "c"], {"model": state})
    generator = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for name in ("bird.jpg", "photos/0.jpg", "photos/1.jpg", "photos/2.jpg"):
        pixels = generator.integers(256, size=(40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    pushed = []
    monkeypatch.setattr(Classifier, "push_to_hub", lambda *names, **_: pushed.append(names[1]))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: "birds")
    names: dict = {}
    text = (root / "docs" / "python.md").read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        exec(block, names)
    assert pushed == ["user/birds"]
    assert (tmp_path / "bird.png").stat().st_size > 1000
    assert [len(names["results"]), names["features"].shape] == [3, (3, 2)]
    assert names["nearest"] in names["gallery"]
    again = PCA(**np.load("pca.npz"))
    assert all(map(np.array_equal, again, names["pca"]))
    attributes = set(re.findall(r"^\| (`.*?) \|", text, re.MULTILINE))
    found = re.findall(r"`(\w+)(?:\(\))?`", " ".join(attributes))
    assert len(found) >= 9 and all(hasattr(names["result"], name) for name in found)
