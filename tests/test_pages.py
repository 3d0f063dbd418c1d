"""The code of the pages runs; the texts of errors and the operators have their places in docs/."""

import re
import shutil
import sys

import numpy as np
import pytest
import torch
from pages import PAGES, run_shell, to_run
from paths import ROOT
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import wsdan_kernels
from wsdan.data import loaders

sys.path.append(str(ROOT / "docs" / "site"))
import errors  # docs/site/errors.py

SCRIPTS = ROOT / "docs" / "start" / "your-own-script.md"
OPERATORS = sorted((ROOT / "docs" / "operators").glob("*.md"))


def pages_with(language: str, but=()) -> list:
    """The pages of which blocks are run, as parameters."""
    found = [page for page in PAGES if to_run(page, language) and page not in but]
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in found]


def photograph(path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path))).integers(256, size=(40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with images, and a run that was trained on them."""
    folder = tmp_path_factory.mktemp("pages")
    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            for name in ("jay", "tit"):
                photograph(folder / "DIR" / split / name / f"{number}.jpg")
    for name in ("image.jpg", "bird.jpg", "photos/0.jpg", "photos/1.jpg"):
        photograph(folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_shell("wsdan train DIR --out runs/birds")
    for name in ("runs/001", "runs/0"):
        shutil.copytree(folder / "runs" / "birds", folder / name)
    shutil.copy(folder / "runs" / "birds" / "best.pt", folder / "best.pt")
    (folder / "data").symlink_to("DIR")
    return folder


@pytest.fixture
def workplace(trained, tmp_path, monkeypatch):
    """A copy of it as the present folder; the embedded dataset has few images."""
    monkeypatch.setattr(loaders, "SYNTHETIC_TRAIN", 4)
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 2)
    monkeypatch.chdir(shutil.copytree(trained, tmp_path / "copy", symlinks=True))


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("sh"))
def test_the_shell_blocks_run(page, workplace, tmp_path):
    for block in to_run(page, "sh"):
        for out in re.findall(r"train (?!--resume)[^\n]*--out (\S+)", block):
            shutil.rmtree(out, ignore_errors=True)
        run_shell(block)


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("python", but=[SCRIPTS]))
def test_the_python_blocks_run(page, workplace):
    names = {
        "loader": [(torch.randn(2, 3, 64, 64), torch.tensor([3, 7]))],
        "features": torch.randn(2, 16, 4, 4),
        "attentions": torch.rand(2, 8, 4, 4),
    }
    for block in to_run(page, "python"):
        exec(block, names)
    if page.name == "README.md":
        assert torch.isfinite(names["losses"]["loss"])
        assert names["pooled"].shape == (2, 8, 16)
        assert names["views"].shape == (2, 3, 64, 64) and names["boxes"].shape == (2, 4)


def scripts() -> list:
    return [
        pytest.param(block, id=f"script-{number}")
        for number, block in enumerate(to_run(SCRIPTS, "python"))
    ]


@pytest.mark.slow  # they import lightning and transformers
@pytest.mark.parametrize("block", scripts())
def test_a_script_trains(block, tmp_path, monkeypatch):
    for name in re.findall(r"^(?:import|from) (lightning|transformers)", block, re.MULTILINE):
        pytest.importorskip(name, reason="pip install 'wsdan[frameworks]'")
    monkeypatch.chdir(tmp_path)
    if "init_process_group" in block:  # a group of one
        for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1")):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MASTER_PORT", "0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    images = TensorDataset(torch.randn(4, 3, 64, 64), torch.tensor([3, 7, 3, 7]))
    names = {"loader": DataLoader(images, batch_size=2), "__name__": "script"}
    exec(block, names)
    model = names["model"] if "model" in names else names["trainer"].model
    centers = [value for name, value in model.state_dict().items() if name.endswith("centers")]
    assert len(centers) == 1 and centers[0].abs().sum() > 0  # the steps were those of WS-DAN
    assert len(block.strip().splitlines()) <= 25


def test_every_text_of_an_error_has_its_place():
    page, texts = errors.PAGE.read_text(encoding="utf-8"), errors.collected()
    found, missing = errors.placed(page, texts)
    assert not missing, f"docs/troubleshooting.md has no section for {missing[:3]}"
    assert sum(map(len, found)) > 500 and all(found)
    files = {item.file for item in texts}
    for keys, here in zip(errors.families(page), found, strict=True):
        for key in keys:
            known = any(key[1:-1] in text for text in here) if key[0] == '"' else key in files
            assert known, f"docs/troubleshooting.md: {key} has no text"


def test_texts_are_collected_through_helpers(tmp_path):
    (tmp_path / "wsdan").mkdir()
    (tmp_path / "wsdan" / "a.py").write_text(
        "def bad(path, rule):\n    return UserError(f'{path} must be {rule}')\n"
        "def one(x):\n    why = 'large' if x else 'small'\n    raise UserError(f'too {why}')\n"
    )
    (tmp_path / "wsdan" / "b.py").write_text(
        "from wsdan.a import bad\ndef two(x):\n    raise bad(x, 'odd')\n"
    )
    found = {(item.file, item.text) for item in errors.collected(tmp_path)}
    assert found == {
        ("wsdan/a.py", "too large"),
        ("wsdan/a.py", "too small"),
        ("wsdan/b.py", "{path} must be odd"),
    }
    page = 'x <!-- errors: wsdan/b.py; "too large" --> y'
    (here,), missing = errors.placed(page, errors.collected(tmp_path))
    assert here == ["too large", "{path} must be odd"]
    assert [item.text for item in missing] == ["too small"]


def test_every_operator_has_a_section_and_a_figure():
    text = "".join(page.read_text(encoding="utf-8") for page in OPERATORS)
    shown = set(re.findall(r"^::: [\w.]+\.(\w+)$", text, re.MULTILINE))
    functions = {
        name for name in wsdan_kernels.__all__
        if name[0].islower() and name not in {"available", "explain", "load_exported"}
    }  # fmt: skip
    assert shown == functions
    drawn = re.findall(r"^def (\w+)\(\):$", (ROOT / "docs/site/figures.py").read_text(), re.M)
    assert set(re.findall(r"\.\./images/(\w+)\.png", text)) == set(drawn)


@pytest.mark.slow
def test_a_figure_is_drawn_from_the_operators(tmp_path, monkeypatch):
    import figures  # docs/site/figures.py

    monkeypatch.setattr(figures, "IMAGES", tmp_path)
    figures.main(["crop_drop", "centers"])
    assert {path.name for path in tmp_path.iterdir()} == {"crop_drop.png", "centers.png"}
