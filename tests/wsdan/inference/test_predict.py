"""wsdan predict on many images: one order, whatever cannot be read, in constant memory."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ranks import run_ranks
from runs import environment, refused
from trees import encoded, make_shard

from wsdan.checkpoint import save_checkpoint
from wsdan.cli import main
from wsdan.config import Config
from wsdan.data.images import load_image
from wsdan.inference.classifier import Classifier
from wsdan.inference.predict import predictions
from wsdan.networks.model import build_model

CLASSES = ["ant", "bee", "caf\udce9"]
NAMES = ["a.png", "b.jpg", "bad.png", "c.png", "sub/a.png", "sub/big.jpg", "sub/\udcff.png"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """p/ with six images of different sizes and one bad one, and untrained checkpoints."""
    root = tmp_path_factory.mktemp("predict")
    generator = np.random.default_rng(0)
    for index, name in enumerate(NAMES):
        path = root / "p" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 255, (30 + 7 * index, 80 - 5 * index, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    (root / "p/bad.png").write_bytes(b"no image")
    torch.manual_seed(0)
    for method, name in (("wsdan", "a.pt"), ("baseline", "plain.pt")):
        config = Config(
            data="folder", root=".", backbone="tiny", image_size=32, num_attentions=4, method=method
        ).resolved()
        model = build_model(config, len(CLASSES))
        save_checkpoint(root / name, config, CLASSES, {"model": model.state_dict()})
    return root


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def predict(*arguments: str, checkpoint: str = "a.pt") -> int:
    return main(["predict", "--checkpoint", checkpoint, "--device", "cpu", *map(str, arguments)])


def objects(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def table(path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (3, 2), (16, 2)])
def test_all_images_in_the_order_of_the_sources(batch_size, workers, here, tmp_path, capsys):
    """As a Classifier has them one by one; the bad one in its place, with its reason."""
    out = tmp_path / "out.csv"
    options = ["--batch-size", batch_size, "--workers", workers, "--json", "--csv", out]
    assert predict("p/sub/a.png", "p", *options) == 1
    captured = capsys.readouterr()
    found = [json.loads(line) for line in captured.out.splitlines()]
    names = ["p/sub/a.png", *(f"p/{name}" for name in NAMES)]
    assert [item["image"] for item in found] == names
    reason = "not a readable image: its content is of no format that Pillow reads"
    assert found.pop(3) == {"image": "p/bad.png", "error": reason}
    assert captured.err == (
        f"wsdan: error: p/bad.png: {reason}\nwsdan: warning: 1 of 8 images could not be read\n"
    )
    rows = table(out)
    assert [row["path"] for row in rows] == [name.replace("\udcff", r"\udcff") for name in names]
    assert rows.pop(3)["error"] == reason
    classifier = Classifier("a.pt", "cpu")
    for item, row in zip(found, rows, strict=True):
        expected = classifier(item["image"]).to_dict()
        assert (item["label"], item["box"]) == (expected["label"], expected["box"])
        assert item["size"] == expected["size"]
        assert item["score"] == pytest.approx(expected["score"], abs=1e-5)
        assert row["prediction"] == item["label"].replace("\udce9", r"\udce9")
        assert float(row["mean_1"]) == pytest.approx(item["score"], abs=1e-5)
        assert [int(row[edge]) for edge in ("x1", "y1", "x2", "y2")] == item["box"]


def test_several_ranks_write_one_file(here, tmp_path):
    """The same bytes as a single process, in the order of the sources, and the same status."""
    arguments = ["p", "p/c.png", "p/**/*.jpg", "--batch-size", "2", "--workers", "0", "--csv"]
    assert predict(*arguments, tmp_path / "one.csv", "--save-crops", tmp_path / "c1") == 1

    def one(rank):
        options = ["--save-crops", tmp_path / "c2", "--json"]
        sys.stdout = io.StringIO()
        assert predict(*arguments, tmp_path / "two.csv", *options) == 1
        (tmp_path / f"{rank}.json").write_text(sys.stdout.getvalue())

    run_ranks(one)
    assert (tmp_path / "two.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert len((tmp_path / "0.json").read_text().splitlines()) == 10
    assert (tmp_path / "1.json").read_text() == ""
    crops = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("c1", "c2")]
    assert crops[0] == crops[1] and len(crops[0]) == 9


def test_top_and_threshold(here, capsys):
    assert predict("p/a.png", "--top", "2", "--threshold", "1", "--json") == 0
    (found,) = objects(capsys)
    assert (found["label"], len(found["top"])) == ("unknown", 2)
    assert predict("p/a.png", "--top", "9", "--json") == 0
    (found,) = objects(capsys)
    assert (found["label"], len(found["top"])) == (found["top"][0]["class"], 3)
    assert predict("p/a.png", "--threshold", "1") == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "p/a.png (80 x 30): unknown"
    assert (len(lines), lines[-1][:12]) == (5, "  object: x ")
    assert predict("p/a.png", "p/bad.png", "--top", "1") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("p/a.png: ") and lines[0].endswith(" %")
    assert lines[1:] == [
        "p/bad.png", "  not a readable image: its content is of no format that Pillow reads"
    ]  # fmt: skip
    assert predict("p/a.png", "--json", checkpoint="plain.pt") == 0
    assert objects(capsys)[0]["box"] is None


def test_csv_alone_prints_a_line(here, tmp_path, capsys):
    out = tmp_path / "out.csv"
    assert predict("p/a.png", "p/b.jpg", "--csv", out) == 0
    assert capsys.readouterr().out == f"2 images: {out}\n"


def test_tables_and_shards(here, tmp_path, capsys):
    make_shard(tmp_path / "s.tar", {"0.png": encoded("red"), "0.cls": b"1", "1.png": b"no image"})
    (tmp_path / "t.csv").write_text(f"path,label\n{here}/p/a.png,1\ngone.png,2\n")
    assert predict(tmp_path / "s.tar", tmp_path / "t.csv", "--json") == 1
    found = objects(capsys)
    assert [item["image"].rpartition("/")[2] for item in found] == [
        "0.png", "1.png", "a.png", "gone.png",
    ]  # fmt: skip
    assert ["error" in item for item in found] == [False, True, False, True]


def test_crops_are_cut_from_the_originals(here, tmp_path, capsys):
    """One for each image, also of the same image or name; what is above in a listing stays out."""
    crops = here / "p" / "crops"
    assert predict("p/sub/a.png", "p", "p/sub/a.png", "--json", "--save-crops", crops) == 1
    found = [item for item in objects(capsys) if "error" not in item]
    assert len(found) == len({item["crop"] for item in found}) == len(list(crops.iterdir())) == 8
    assert Path(found[0]["crop"]).name == "000000_a.jpg"
    for item in found:
        crop, original = Image.open(item["crop"]), Image.open(item["image"])
        box = item["box"]
        assert crop.size == (box[2] - box[0], box[3] - box[1])
        cut = np.asarray(original.crop(box), dtype=float)
        assert np.abs(np.asarray(crop, dtype=float) - cut).mean() < 16  # of noise, as JPEG
    text = refused(capsys, "predict", "--checkpoint", "a.pt", "p/a.png", "--save-crops", crops)
    assert "is not empty" in text
    for path in crops.iterdir():
        path.unlink()
    assert predict("p/a.png", "--top", "1", "--save-crops", crops) == 0
    assert capsys.readouterr().out.endswith(f" %, crop: {crops}/000000_a.jpg\n")
    (crops / "000000_a.jpg").unlink()
    crops.rmdir()


def test_a_crop_of_a_single_pixel(here, tmp_path):
    Image.new("RGB", (1, 3)).save(tmp_path / "tiny.png")
    assert predict(tmp_path / "tiny.png", "--save-crops", tmp_path / "c") == 0
    assert Image.open(tmp_path / "c" / "000000_tiny.jpg").width == 1


@pytest.mark.parametrize("module", ["wsdan.data.stream", "wsdan.inference.predict"])
def test_a_file_that_vanishes(module, here, tmp_path, monkeypatch, capsys):
    """Before it is read, and before its crop is cut."""
    Image.new("RGB", (40, 30)).save(tmp_path / "gone.png")

    def vanished(path, *arguments, **options):
        Path(path).unlink()
        return load_image(path, *arguments, **options)

    monkeypatch.setattr(f"{module}.load_image", vanished)
    assert predict(tmp_path / "gone.png", "--json", "--save-crops", tmp_path / "c") == 1
    (found,) = objects(capsys)
    assert found["error"] == "not a readable image: no such file"


def test_an_image_too_large_for_the_memory(here, monkeypatch, capsys):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr("wsdan.data.stream.load_image", full)
    assert predict("p/a.png", "--json") == 1
    assert "too little memory" in objects(capsys)[0]["error"]


def test_sources_are_listed_as_they_are_needed(here):
    """Of an endless list, no more than the batches in work."""
    listed = count()
    sources = (f"p/{NAMES[next(listed) % 2]}" for _ in count())
    classifier = Classifier("a.pt", "cpu")
    found = predictions(classifier, sources, batch_size=2, workers=0)
    outcomes = [outcome for batch in islice(found, 5) for outcome in batch]
    assert [outcome.index for outcome in outcomes] == list(range(10))
    assert next(listed) <= 12
    found.close()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["p/a.png", "--top", "0"], "--top must be at least 1; got 0"),
        (["p/a.png", "--threshold", "nan"], "--threshold must be in [0, 1]; got nan"),
        (["p/a.png", "--threshold", "1.1"], "--threshold must be in [0, 1]; got 1.1"),
        (["p/a.png", "--batch-size", "0"], "--batch-size must be at least 1; got 0"),
        (["p/a.png", "--workers", "-1"], "--workers must be at least 0; got -1"),
        (["p/gone.png"], "p/gone.png: not a readable image: no such file"),
        (["p/a.png", "--csv", "p/a.png"], "--csv: p/a.png exists; --overwrite replaces it"),
        (["p/a.png", "--csv", "p/a.png", "--overwrite"], "p/a.png would replace a source"),
        (["p/a.png", "--csv", "no/a.csv"], "there is no folder"),
        (["p/a.png", "--csv", "/dev/full"], "--csv: cannot write /dev/full: No space left"),
        (["p/a.png", "--save-crops", "a.pt"], "--save-crops: a.pt is no folder"),
        (["p/a.png", "--save-crops", "p"], "--save-crops: p is not empty"),
        (["p/a.png", "--save-crops", "/proc/x/y"], "--save-crops: cannot make /proc/x/y"),
    ],
)
def test_mistakes(arguments, text, here, capsys):
    before = (here / "p/a.png").read_bytes()
    assert text in refused(capsys, "predict", "--checkpoint", "a.pt", *arguments)
    assert (here / "p/a.png").read_bytes() == before


def test_no_crops_of_a_plain_classifier(here, tmp_path, capsys):
    arguments = ["--checkpoint", "plain.pt", "p/a.png", "--save-crops", tmp_path / "c"]
    assert "a plain classifier" in refused(capsys, "predict", *arguments)
    assert not (tmp_path / "c").exists()


def test_a_table_that_exists_is_replaced_whole_or_not_at_all(here, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.csv"
    out.write_text("old")
    arguments = ["p/a.png", "--csv", out]
    assert "exists" in refused(capsys, "predict", "--checkpoint", "a.pt", *arguments)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        text = refused(capsys, "predict", "--checkpoint", "a.pt", *arguments, "--overwrite")
    assert "cannot write" in text
    assert (out.read_text(), os.listdir(tmp_path)) == ("old", ["out.csv"])
    assert predict(*arguments, "--overwrite") == 0
    assert len(table(out)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("end", ["interrupt", "reader"])
def test_an_end_in_the_middle(end, here, tmp_path):
    """Ctrl-C, and a reader that leaves: a status, at most one line, and no process that stays."""
    (tmp_path / "list").write_text("p/a.png\n" * 5000)
    arguments = ["--checkpoint", "a.pt", "--json", "--workers", "2", "--batch-size", "1", "-"]
    with open(tmp_path / "list") as names:
        process = subprocess.Popen(
            [sys.executable, "-m", "wsdan", "predict", *arguments],
            stdin=names, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=environment(), start_new_session=True,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # if it was ignored
        )  # fmt: skip
    assert process.stdout.readline().startswith(b'{"image": "p/a.png"')
    if end == "interrupt":
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.read() is not None
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(timeout=20) == (130 if end == "interrupt" else 128 + signal.SIGPIPE)
    assert errors == (b"wsdan: interrupted\n" if end == "interrupt" else b"")
    for _ in range(50):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("processes of the command are left")
