"""The folder of readers: each file is a choice of --data, and nothing else has to be edited."""

import importlib
import importlib.util
import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import trees
from trees import LAYOUTS

from wsdan import config
from wsdan.data import readers
from wsdan.data.samples import ImageRecord, Listing
from wsdan.data.splits import open_split
from wsdan.errors import UserError

FOLDER = Path(readers.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))
NEW_READER = '''
"""All images in one folder per split, NAME_NUMBER.png."""

from wsdan.data.readers._layout import SPLIT_NAMES
from wsdan.data.samples import ImageRecord, Listing

LAYOUT = "train/ with NAME_NUMBER.png"


def recognises(root):
    """Whether train/ holds such images."""
    return any((root / "train").glob("*_*.png"))


def read(root, split):
    """The images of one split; the class is the file name before the number."""
    files = sorted((root / SPLIT_NAMES[split][0]).glob("*.png"))
    records = [ImageRecord(path, path.stem.partition("_")[0]) for path in files]
    return Listing(str(root), sorted({record.class_name for record in records}), records)
'''


def test_every_file_is_a_choice():
    assert config.DATA[0] == "synthetic"
    assert sorted(config.DATA[1:]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_reader_has_a_documented_read(name):
    module = importlib.import_module(f"wsdan.data.readers.{name}")
    read = module.read
    assert list(inspect.signature(read).parameters) == ["root", "split"]
    assert inspect.signature(read).return_annotation is Listing
    assert inspect.getdoc(read)
    assert module.__doc__
    assert list(inspect.signature(module.recognises).parameters) == ["root"]
    assert "\n" not in module.LAYOUT


def test_every_reader_is_tested():
    """Folders have tests of their own in test_data.py; all other layouts are in LAYOUTS."""
    assert sorted([*LAYOUTS, "folder"]) == NAMES


def test_a_new_file_is_a_new_choice(tmp_path, monkeypatch):
    """A copy of the configuration beside a folder of readers with one more file."""
    shutil.copytree(
        FOLDER, tmp_path / "data" / "readers", ignore=shutil.ignore_patterns("__pycache__")
    )
    (tmp_path / "data" / "readers" / "flat.py").write_text(NEW_READER)
    (tmp_path / "data" / "readers" / "_helper.py").write_text("")
    shutil.copy(config.__file__, tmp_path / "config.py")
    spec = importlib.util.spec_from_file_location("copied_config", tmp_path / "config.py")
    copied = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "copied_config", copied)
    spec.loader.exec_module(copied)
    assert sorted(copied.DATA) == sorted([*config.DATA, "flat"])

    for colour in trees.COLOURS:
        for split in ("train", "val"):
            trees.paint(tmp_path / split / f"{colour}_1.png", colour)
    monkeypatch.setattr(readers, "__path__", [str(tmp_path / "data" / "readers")])
    monkeypatch.delitem(sys.modules, "wsdan.data.readers.flat", raising=False)
    settings = copied.Config(data="flat", root=str(tmp_path)).resolved()
    split = open_split(settings, "val", open_split(settings, "train").classes)
    assert split.classes == list(trees.COLOURS)
    assert [trees.colour_of(sample) for sample in split.samples] == list(trees.COLOURS)
    sys.modules.pop("wsdan.data.readers.flat")


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_detected(name, tmp_path):
    root = LAYOUTS[name][0](tmp_path)
    if name == "csv":  # its images need not lie in folders that could be classes
        (root / "train").rename(root / "images")
    assert readers.detect(root) == name


def test_an_image_folder_and_the_other_layout_of_cars_are_detected(tmp_path):
    assert readers.detect(trees.make_tree(tmp_path / "a", val="test")) == "folder"
    assert readers.detect(trees.make_cars_annos(tmp_path / "b")) == "cars"


def mistake(root) -> str:
    with pytest.raises(UserError) as caught:
        readers.detect(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_of_several_layouts_or_none(tmp_path):
    root = trees.make_table(tmp_path / "both")
    assert "may be read as csv or folder; say which with --data csv" in mistake(root)
    assert "--root: no such folder: " in mistake(tmp_path / "nowhere")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "train.csv").write_text("id,breed\n1,a\n")
    for name in NAMES:
        assert f" {name}: " in mistake(tmp_path / "none")


def test_a_folder_that_is_nearly_a_dataset_says_the_mend(tmp_path):
    trees.make_tree(tmp_path / "outer" / "inner")
    (tmp_path / "outer" / "__MACOSX" / "train").mkdir(parents=True)
    assert f"Did you mean {tmp_path}/outer/inner? " in mistake(tmp_path / "outer")
    assert f"Did you mean {tmp_path}/outer/inner? " in mistake(tmp_path / "outer/inner/train")
    (tmp_path / "outer" / "inner" / "val").rename(tmp_path / "alone")
    line = mistake(tmp_path / "alone")  # classes, but no train/
    assert "Its folders hold images, as classes do; put them into" in line
    line = mistake(tmp_path / "outer" / "inner" / "train" / "red")
    assert "Images lie directly in it; move them to" in line


def test_detection_is_quick():
    """A mistake is told before torch, PIL and numpy are loaded, which takes seconds."""
    code = "import sys; from wsdan.data.readers import detect, names; import importlib\n"
    code += "for name in names(): importlib.import_module(f'wsdan.data.readers.{name}')\n"
    code += "print(sorted({'torch', 'PIL', 'numpy', 'torchvision'} & sys.modules.keys()))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_the_box_of_a_record_is_optional():
    assert ImageRecord(Path("a.png"), "a").box is None
