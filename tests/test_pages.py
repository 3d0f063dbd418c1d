"""The code of the pages runs; the texts of errors and the operators have their places in docs/."""

import inspect
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from pages import PAGES, run_shell, to_run
from paths import ROOT
from PIL import Image
from runs import ranks
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


def script(title: str) -> str:
    """The script below a heading of the page, of at most twenty lines of code."""
    text = SCRIPTS.read_text(encoding="utf-8")
    found = re.findall(r"^## (.+?)\n(?:(?!^##).)*?^```python\n(.*?)^```", text, re.M | re.S)
    code = dict(found)[title]
    assert len(found) == 5 == len(to_run(SCRIPTS, "python"))
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 20
    return code


def few_images() -> DataLoader:
    images = TensorDataset(torch.randn(4, 3, 64, 64), torch.tensor([3, 7, 3, 7]))
    return DataLoader(images, batch_size=2)


def test_the_operators_in_a_network():
    names = {"loader": few_images()}
    exec(script("The operators in your network"), names)
    assert names["crops"].shape == names["drops"].shape == names["images"].shape
    assert all(part.weight.grad.any() for part in (names["body"], names["attention"]))


@pytest.mark.slow  # they import lightning and transformers
@pytest.mark.parametrize(
    ("title", "package"),
    [
        ("A plain loop", "torch"),
        ("Lightning", "lightning"),
        ("Hugging Face Trainer", "transformers"),
    ],
)
def test_a_script_trains(title, package, tmp_path, monkeypatch):
    pytest.importorskip(package, reason="pip install 'wsdan[frameworks]'")
    monkeypatch.chdir(tmp_path)
    names = {"loader": few_images(), "__name__": "script"}
    exec(script(title), names)
    model = names["model"] if "model" in names else names["trainer"].model
    assert centers_of(model.state_dict()).abs().sum() > 0  # the steps were those of WS-DAN


@pytest.mark.slow
def test_the_script_of_two_processes_trains(tmp_path):
    path = tmp_path / "script.py"
    before = (
        "import os, sys, torch\nrank = int(os.environ['RANK'])\n"
        "images, labels = torch.randn(4, 3, 64, 64), torch.tensor([[3, 7], [3, 9]])\n"
        "loader = [(images[2 * rank :][:2], labels[rank])]\n"
    )
    after = "torch.save(model.module.state_dict(), f'{sys.argv[1]}/{rank}.pt')\n"
    path.write_text(before + script("Your DistributedDataParallel") + after)
    done = ranks(str(tmp_path), script=str(path), CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    centers = centers_of(first)
    assert torch.equal(centers, centers_of(second))
    assert centers.abs().sum(1).nonzero().flatten().tolist() == [3, 7, 9]


def centers_of(state: dict) -> torch.Tensor:
    (centers,) = (value for name, value in state.items() if name.endswith("centers"))
    return centers


def test_every_text_of_an_error_has_its_place():
    page, texts = errors.PAGE.read_text(encoding="utf-8"), errors.collected()
    found, missing = errors.placed(page, texts)
    assert not missing, (
        f"docs/troubleshooting.md does not say what to do about {missing[:3]}: name the file, or a "
        "part of the text in quotes, in the comment <!-- errors: --> of a section"
    )
    assert sum(map(len, found)) > 500 and all(found)
    for key in (key for keys in errors.families(page) for key in keys):
        known = any(errors.fit(key, item) for item in texts)
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
    page = 'x <!-- errors: wsdan/b.py; "too large" --> y <!-- errors: wsdan/ -->'
    found, missing = errors.placed(page, errors.collected(tmp_path))
    assert found == [["too large", "{path} must be odd"], ["too small"]] and not missing
    _, missing = errors.placed(page.split(" y ")[0], errors.collected(tmp_path))
    assert [item.text for item in missing] == ["too small"]


def test_every_operator_has_a_section_with_mathematics_and_a_figure():
    text = "".join(page.read_text(encoding="utf-8") for page in OPERATORS)
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^#|\Z)", text, re.DOTALL | re.MULTILINE))
    assert set(sections) == {
        name for name in wsdan_kernels.__all__
        if name[0].islower() and name not in {"available", "explain", "load_exported"}
    }  # fmt: skip
    for name, section in sections.items():
        assert re.search(rf"^::: [\w.]+\.{name}$", section, re.MULTILINE), name
        assert re.search(rf"!\[.+\]\(\.\./images/{name}\.png\)", section), name
        assert "$" in section or name in {"attention_crop", "attention_crop_drop"}, name


def test_every_argument_of_an_operator_is_described():
    for name in wsdan_kernels.__all__:
        function = getattr(wsdan_kernels, name)
        if inspect.isfunction(function) and "backend" in inspect.signature(function).parameters:
            described = re.search(r"Args:\n(.*?)\n\n", inspect.getdoc(function), re.DOTALL)[1]
            heads = re.findall(r"^    ([\w, ]+): ", described, re.MULTILINE)
            named = {word for head in heads for word in head.split(", ")}
            missing = set(inspect.signature(function).parameters) - named - {"backend"}
            assert not missing, f"{name}: {missing}"


@pytest.mark.slow
def test_a_figure_is_drawn_from_the_operators(tmp_path, monkeypatch):
    import figures  # docs/site/figures.py

    monkeypatch.setattr(figures, "IMAGES", tmp_path)
    figures.main(["attention_crop_drop", "update_centers_"])
    assert {path.name for path in tmp_path.iterdir()} == {
        "attention_crop_drop.png",
        "update_centers_.png",
    }
