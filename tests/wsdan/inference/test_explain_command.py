"""`wsdan explain` from the command line."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from wsdan.checkpoint import save_checkpoint
from wsdan.cli import main
from wsdan.config import Config
from wsdan.networks.model import build_model


def saved(path: Path, **settings) -> str:
    torch.manual_seed(0)
    config = Config(
        data="folder", root="x", backbone="tiny", image_size=32, num_attentions=2, **settings
    ).resolved()
    save_checkpoint(path, config, ["cat", "dog"], {"model": build_model(config, 2).state_dict()})
    return str(path)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The present folder, with a.pt and photos/cat/1.jpg, photos/dog/1.jpg, photos/2.jpg."""
    saved(tmp_path / "a.pt")
    for name in ("cat/1.jpg", "dog/1.jpg", "2.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (90, 60, 30)).save(tmp_path / "photos" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def explained(capsys, *arguments: str, status: int = 0) -> tuple[str, str]:
    """What is printed to stdout and stderr."""
    capsys.readouterr()
    assert main(["explain", "--checkpoint", "a.pt", *arguments]) == status
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_a_folder_of_class_folders_and_a_bad_image(folder, capsys):
    (folder / "photos" / "dog" / "bad.jpg").write_bytes(b"no image")
    (folder / "photos" / "notes.txt").write_text("left out")
    out, err = explained(capsys, "photos", "--json", "--top", "1", status=1)
    found = [json.loads(line) for line in out.splitlines()]
    assert [item["image"] for item in found] == [
        "photos/2.jpg", "photos/cat/1.jpg", "photos/dog/1.jpg", "photos/dog/bad.jpg",
    ]  # fmt: skip
    assert [item.get("truth") for item in found] == [None, "cat", "dog", None]
    assert "not a readable image" in found[3]["error"] and "figure" not in found[3]
    assert err.startswith("wsdan: error: photos/dog/bad.jpg") and err.count("\n") == 1
    figures = [item["figure"] for item in found[:3]]
    assert figures == ["explained/2.png", "explained/cat-1.png", "explained/dog-1.png"]
    for figure, item in zip(figures, found, strict=False):
        with Image.open(figure) as image:
            assert image.width == 1500
        assert len(item["top"]) == 1 and item["parts"][0]["number"] == 1
    _, err = explained(capsys, "photos/2.jpg", status=2)
    assert "--out: explained/2.png exists; pass --overwrite to replace it" in err
    (folder / "photos" / "dog" / "bad.jpg").unlink()
    (folder / "photos" / "none").mkdir()
    out, err = explained(capsys, ".", "photos/none", "--overwrite", "--json", status=1)
    assert len(out.splitlines()) == 3  # without the figures below the present folder
    assert "photos/none: holds no image" in err
    out, _ = explained(capsys, "photos/2.jpg", "--overwrite", "--truth", "dog")
    assert out.startswith("photos/2.jpg: ") and ("(right)" in out or "(it is dog)" in out)


def test_a_figure_replaces_no_image(folder, capsys):
    image = folder / "a.png"
    Image.new("RGB", (40, 30)).save(image)
    before = image.read_bytes()
    (folder / "link").symlink_to(folder)
    for out in (".", "link", str(folder)):
        _, err = explained(capsys, "a.png", "--out", out, "--overwrite", status=2)
        assert "a.png would replace an image; name another folder" in err
    assert image.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos/2.jpg", "photos/../photos/2.jpg"], "two images would have the figure photos-2"),
        (["photos/2.jpg", "--out", "a.pt/x"], "--out: cannot make the folder a.pt/x"),
        (["photos/2.jpg", "--truth", "bird"], "--truth: 'bird' is no class of the checkpoint"),
        (["photos/2.jpg", "--top", "0"], "--top must be from 1 to 10; got 0"),
        (["empty"], "empty: holds no image"),
        (["photos/2.jpg", "none.jpg"], "none.jpg: not a readable image: no such file"),
        (["photos/2.jpg", "--checkpoint", "plain.pt"], "plain classifier, which has no attention"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(folder, capsys, arguments, message):
    (folder / "empty").mkdir()
    saved(folder / "plain.pt", method="baseline")
    _, err = explained(capsys, *arguments, status=2)
    assert message in err and err.count("\n") == 1
    assert not list(folder.rglob("*.png"))
