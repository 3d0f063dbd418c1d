"""`wsdan report`: its page without a browser, how large it is, and its mistakes."""

import fnmatch
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from paths import ROOT
from PIL import Image
from reported import make_checkpoint, make_hostile_tree
from runs import refused
from trees import COLOURS, make_table

from wsdan.cli import main
from wsdan.config import Config
from wsdan.data import loaders
from wsdan.data.synthetic import CLASSES
from wsdan.inference.metrics import Evaluation
from wsdan.reporting import page, report
from wsdan.reporting.content import MOST_CLASSES, MOST_PAIRS
from wsdan.reporting.observe import WORST, Example, Observed
from wsdan.reporting.photographs import MOST_BYTES, Photograph, data_uri


def done(*arguments) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def test_an_image_of_noise_is_small_too():
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3)).astype(np.uint8)
    assert len(data_uri(Image.fromarray(noise))) <= MOST_BYTES * 4 / 3 + 30


def test_names_are_printable_and_short():
    assert page.shown_name("caf\udce9\n\u202e") == r"caf\udce9\n\u202e"
    assert len(page.shown_name("x" * 500)) == page.LONGEST_NAME
    assert page.shown_name("x" * 500 + ".png", from_end=True).endswith("x.png")


def test_the_largest_page_is_below_six_megabytes(monkeypatch, tmp_path):
    """Of 1,200 classes with names of 500 characters, all of them mistaken."""
    count = 1200
    labels = torch.arange(count)
    confusion = torch.zeros(count, count, dtype=torch.int64)
    confusion[labels, (labels + 1) % count] = 40
    views = {"raw": 0.0, "raw_top5": 0.0, "mean": 0.0, "mean_top5": 0.0, "confidence": 90.0}
    boxes = {"refined_whole": 9, "refined_area": 50.0, "boxes": 9, "localised": 5.0, "ece": 90.0}
    metrics = {**views, **boxes, "images": 40 * count, "bad": 0}
    full = Observed(count)
    bins = torch.full((15, 3), 0.9)
    full.evaluation = Evaluation(metrics, confusion, confusion.sum(1), bins)
    examples = [Example(0.9, i, "d/" * 200, i, (i + 1) % count) for i in range(count)]
    full.worst = examples[-WORST:]
    full.pairs = {(x.truth, x.prediction): [x] for x in examples}
    full.recognised = {i: Example(0.9, count + i, "e" * 300, i, i) for i in range(count)}
    uri, box = "data:image/jpeg;base64," + "A" * (MOST_BYTES * 4 // 3), (1.25, 2.25, 3.25, 4.25)
    photo = Photograph("d/" * 200, 256, 256, uri, uri, box, box, (0, 0.1), (1, 0.9), 0.1)
    monkeypatch.setattr(report, "observe", lambda *_: full)
    monkeypatch.setattr(report, "photographs", lambda *given: {x.index: photo for x in given[2]})
    classifier = SimpleNamespace(
        config=Config().resolved(),
        classes=[f"{i:04}" + "<&\"'" * 124 for i in range(count)],
        model=None,
        device=torch.device("cpu"),
    )
    batches = SimpleNamespace(dataset=SimpleNamespace(dataset=None))
    monkeypatch.setattr(report, "tqdm", lambda batches, **_: batches)
    text = report.report(classifier, batches, tmp_path / "best.pt")
    assert text.count('<th scope="row" class="class">') == MOST_CLASSES
    assert text.count('<article class="pair">') == MOST_PAIRS
    assert 3e6 < len(text.encode()) < 6e6


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Of images in a csv list, two of three with a known box."""
    folder = tmp_path_factory.mktemp("table")
    root = make_table(folder / "data")
    return make_checkpoint(folder / "run", list(COLOURS), data="csv", root=str(root))


def test_known_boxes_are_shown(checkpoint, tmp_path, capsys):
    out = tmp_path / "report.html"
    done("report", "--checkpoint", checkpoint, "--out", out)
    assert str(out) in capsys.readouterr().out
    text = out.read_text()
    known = re.search(r"mean IoU with (\d+) known boxes", text)
    assert known[1] == "6"  # of 12 images, those whose number is 1 or 2 of 0 to 3
    assert "the dashed one is known" in text and 'class="box known"' in text
    assert re.search(r'alt="Photograph val/\w+/\d.png, class \w+"', text)


def test_the_embedded_dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(loaders, "SYNTHETIC_VAL", 5)
    made = make_checkpoint(tmp_path / "run", list(CLASSES), image_size=48)
    done("report", "--checkpoint", made, "--out", tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text()
    assert "<h1><bdi>embedded dataset, best.pt</bdi></h1>" in text
    assert 'alt="Photograph image ' in text


def test_a_page_that_exists_is_kept(checkpoint, tmp_path, capsys):
    out = tmp_path / "report.html"
    out.write_text("mine")
    command = ["report", "--checkpoint", checkpoint, "--out", out]
    assert "exists; --overwrite replaces it" in refused(capsys, *command)
    assert out.read_text() == "mine"
    done(*command, "--overwrite")
    assert out.read_text().startswith("<!DOCTYPE html>")


def test_mistakes_are_one_line(checkpoint, tmp_path, capsys, monkeypatch):
    command = ["report", "--checkpoint", checkpoint, "--out"]
    assert "there is no folder" in refused(capsys, *command, tmp_path / "gone" / "x.html")
    assert "must end in .html" in refused(capsys, *command, tmp_path / "x")
    out = tmp_path / "x.html"
    assert "no such folder" in refused(capsys, *command, out, "--root", "gone")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert "without torchrun" in refused(capsys, *command, out)
    assert not out.exists()


def test_an_unreadable_image_is_told_or_counted(tmp_path, capsys):
    root = make_hostile_tree(tmp_path / "data")
    names = sorted(path.name for path in (root / "val").iterdir())
    (root / "val" / names[0] / "9.png").write_bytes(b"no image")
    made = make_checkpoint(tmp_path / "run", names, data="folder", root=str(root))
    command = ["report", "--checkpoint", made, "--out", tmp_path / "x.html"]
    assert "not a readable image" in refused(capsys, *command)
    assert not (tmp_path / "x.html").exists()
    done(*command, "--skip-bad-images")
    assert "Unreadable and skipped: 1 image." in (tmp_path / "x.html").read_text()


def test_the_files_of_the_page_are_package_data():
    tomllib = pytest.importorskip("tomllib")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["wsdan.reporting"]
    files = {path.name for path in (ROOT / "wsdan" / "reporting").iterdir() if path.is_file()}
    others = {name for name in files if not name.endswith(".py")}
    assert others == {page.PAGE, page.STYLE, page.SCRIPT}
    assert all(any(fnmatch.fnmatch(name, item) for item in patterns) for name in others)
