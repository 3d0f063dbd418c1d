"""The README's Python runs as it stands."""

import re

import torch


def test_the_python_blocks_run(root):
    text = (root / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    names = {
        "loader": [(torch.randn(2, 3, 64, 64), torch.tensor([3, 7]))],
        "features": torch.randn(2, 16, 4, 4),
        "attentions": torch.rand(2, 8, 4, 4),
    }
    for block in blocks:
        exec(block, names)
    assert torch.isfinite(names["losses"]["loss"])
    assert names["pooled"].shape == (2, 8, 16)
    assert names["views"].shape == (2, 3, 64, 64)
    assert names["boxes"].shape == (2, 4)
    assert callable(names["batch_augment"])
