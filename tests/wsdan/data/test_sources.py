"""The listing of sources: what stands for which images, in which order, read how far."""

import io
import os
import sys
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image
from trees import encoded, make_shard

from wsdan.data.samples import TarMember
from wsdan.data.sources import Listing, Unreadable, check_sources
from wsdan.errors import UserError


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """The present folder: images, other files, hidden ones, folders and links into loops."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "b.png",
        "a[1].png",
        "d/z.jpg",
        "d/e/x.JPG",
        "d/e/y.jpg",
        ".hidden.png",
        "d/._z.jpg",
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(name, "PNG")
    Image.new("RGB", (4, 4)).save("d/bare", "PNG")
    for name in ("d/notes.txt", "d/none", "n/readme.md"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("text")
    Path("d/e/up").symlink_to("..")
    Path("d/again").symlink_to("e")
    Path("d/self").symlink_to("self")
    return tmp_path


def listed(*sources: str, **options) -> list[str]:
    return [
        f"{entry.name}: {entry.reason}" if isinstance(entry, Unreadable) else str(entry)
        for entry in Listing(list(sources), **options)
    ]


def stdin(monkeypatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def refusal(*sources: str) -> str:
    with pytest.raises(UserError) as caught:
        check_sources(list(sources))
    return str(caught.value)


IN_D = ["d/bare", "d/z.jpg", "d/again/x.JPG", "d/again/y.jpg"]


@pytest.mark.parametrize("name", ["d", "d/", "./d", "d/e/up"])
def test_a_folder_each_real_folder_once(tree, name):
    """Its own files first, by name; a file without a suffix by its content."""
    assert listed(name) == [path.replace("d/", f"{Path(name)}/", 1) for path in IN_D]
    found = Listing([name])
    assert len(list(found)) == 4
    assert ".txt 1" in found.notes[0] and found.notes[0].startswith(f"{name}: files left out")


def test_files_and_folders_in_the_order_given_also_twice(tree):
    assert listed("b.png", "d", "b.png", "a[1].png") == ["b.png", *IN_D, "b.png", "a[1].png"]


def test_a_folder_without_images_is_told_in_its_place(tree):
    text = "n: holds no image (files left out, which are no images for Pillow: 1, of which .md 1)"
    assert listed("b.png", "n", "b.png") == ["b.png", text, "b.png"]
    assert refusal("n") == text
    check_sources(["n", "b.png"])
    make_shard(Path("n/s.tar"), {})
    assert listed("n")[0].endswith("its shards are n/*.tar")


def test_a_folder_that_cannot_be_listed(tree, monkeypatch):
    scandir = os.scandir

    def refusing(path):
        if str(path) == "d/again":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert listed("d") == ["d/bare", "d/z.jpg", "d/again: cannot be listed: Permission denied"]


def test_a_folder_to_skip(tree):
    state = os.stat("d/e")
    assert listed("d", skip=(state.st_dev, state.st_ino)) == IN_D[:2]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.png", ["a[1].png", "b.png"]),
        ("d/?.jpg", ["d/z.jpg"]),
        ("[d]", IN_D),  # a folder, as when the shell expands it
        ("**/*.jpg", ["d/z.jpg", "d/again/y.jpg"]),
        ("d/**", ["d/bare", "d/none", "d/notes.txt", "d/self", "d/z.jpg", *IN_D[2:]]),
        ("**/again/**/[xy].*", IN_D[2:]),
        ("[d]/**/x.JPG", ["d/again/x.JPG"]),
    ],
)
def test_patterns_that_the_shell_did_not_expand(tree, pattern, expected):
    assert listed(pattern) == expected
    assert listed(str(tree / pattern)) == [str(tree / path) for path in expected]


@pytest.mark.parametrize(
    "content",
    [
        b"b.png\nd/z.jpg\n",
        b"b.png\r\n\r\n  \nd/z.jpg\r\n",
        b"\xef\xbb\xbfb.png\nd/z.jpg",
        b"b.png\0d/z.jpg\0",
        b"\n\nb.png\n\n\nd/z.jpg\n\n",
    ],
)
def test_a_list_on_standard_input(tree, monkeypatch, content):
    stdin(monkeypatch, content)
    assert listed("-") == ["b.png", "d/z.jpg"]


def test_names_of_a_list_are_taken_literally(tree, monkeypatch):
    stdin(monkeypatch, b"a[1].png\n*.png\n \xff.png\nd\na\0b.png\n")
    assert listed("b.png", "-") == ["b.png", "a[1].png", "*.png", " \udcff.png", *IN_D, "a\0b.png"]
    stdin(monkeypatch, b"x\ny.png\0b.png")  # after a line break a NUL ends no name
    assert listed("-") == ["x", "y.png\0b.png"]
    stdin(monkeypatch, b"\r\n")
    assert listed("-") == ["-: standard input names no file"]


def test_names_are_read_as_they_come(tree, monkeypatch):
    """Across the pieces in which a pipe gives them, and before its end."""
    reader, writer = os.pipe()
    with open(reader, "rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
        found = iter(Listing(["-"]))
        os.write(writer, b"b.png\nd/z")
        assert next(found) == "b.png"
        os.write(writer, b".jpg\n")
        assert next(found) == "d/z.jpg"
        os.close(writer)
        assert list(found) == []


def test_a_list_that_is_none(tree, monkeypatch):
    stdin(monkeypatch, b"x" * 200_000)
    with pytest.raises(UserError, match="no list of names"):
        listed("-")

    class Folder(io.BytesIO):
        def read1(self, size):
            raise IsADirectoryError(21, "Is a directory")

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Folder()))
    with pytest.raises(UserError, match="standard input cannot be read: Is a directory"):
        listed("-")


def test_the_column_path_of_a_table(tree):
    Path("d/t.csv").write_bytes(
        b'\xef\xbb\xbflabel, path\r\nx,z.jpg\r\n\r\ny," e/\xff, 1.jpg"\r\nz,\r\n'
        b"w,/abs.png,more\r\nv\r\n"
    )
    assert listed("d/t.csv") == [
        "d/z.jpg", "d/e/\udcff, 1.jpg", "d/t.csv, row 3: its path is empty", "/abs.png",
        "d/t.csv, row 5: its path is empty",
    ]  # fmt: skip
    Path("t.CSV").write_text("path\nb.png\n")
    assert listed("t.CSV") == ["b.png"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "t.csv: its header must have a column path; got nothing"),
        ("name,label\nb.png,1\n", "t.csv: its header must have a column path; got name,label"),
        ("path\n", "t.csv: holds no row"),
        ("path\n" + "x" * 200_000, "t.csv, row 1: field larger than field limit (131072)"),
    ],
)
def test_a_table_that_cannot_be_read(tree, content, text):
    Path("t.csv").write_text(content)
    assert listed("t.csv") == [text]
    assert refusal("t.csv") == text


def test_the_images_of_a_shard(tree):
    """KEY.jpg without its masks; other images of a sample that has no such; whatever the labels."""
    members = {
        "a/0.cls": b"1", "a/0.mask.png": encoded("red"), "a/0.png": encoded("blue"),
        "a/1.left.png": encoded("red"), "a/1.right.png": encoded("red"), "a/._2.png": b"",
        "a/3.png": b"damaged", "a/3.json": b"{}",
    }  # fmt: skip
    make_shard(Path("s.tar"), members)
    found = list(Listing(["s.tar"]))
    assert all(isinstance(entry, TarMember) for entry in found)
    assert list(map(str, found)) == [
        "s.tar/a/0.png", "s.tar/a/1.left.png", "s.tar/a/1.right.png", "s.tar/a/3.png",
    ]  # fmt: skip
    content = Path("s.tar").read_bytes()
    assert content[found[0].offset :][: found[0].size] == members["a/0.png"]


def test_damaged_and_compressed_shards(tree):
    make_shard(Path("s.tar"), {f"{i}.png": encoded("red") for i in range(3)})
    content = bytearray(Path("s.tar").read_bytes())
    content[1024 + 150] ^= 1  # in the second header
    Path("s.tar").write_bytes(content)
    *images, damage = listed("s.tar", "b.png")[:-1]
    assert images == ["s.tar/0.png", "s.tar/2.png"]
    assert damage.startswith("s.tar: not an uncompressed, whole tar file: at offset 1024")
    Path("e.tar").write_bytes(bytes(10240))
    assert listed("e.tar") == ["e.tar: holds no image"]
    Path("s.tar.gz").write_bytes(b"")
    assert refusal("s.tar.gz") == "s.tar.gz: shards must be uncompressed .tar files"


def test_shards_and_tables_are_read_as_far_as_needed(tree):
    make_shard(Path("s.tar"), {"0.png": encoded("red")})
    with open("s.tar", "r+b") as file:
        file.truncate(1024)  # as of a shard that is still being written
    assert [str(entry) for entry in islice(Listing(["s.tar"]), 1)] == ["s.tar/0.png"]
    Path("t.csv").write_text("path\na\n" + "x" * 200_000)
    assert list(islice(Listing(["t.csv"]), 1)) == ["a"]


@pytest.mark.parametrize(
    ("sources", "text"),
    [
        (["gone.png"], "gone.png: not a readable image: no such file"),
        (["b.png", "gone"], "gone: not a readable image: no such file"),
        (["-", "gone"], "gone: not a readable image: no such file"),
        (["b.png", "*.gif"], "*.gif: no file has such a name"),
        (["**/x.gif"], "**/x.gif: no file has such a name"),
        (["d/self"], "d/self: not a readable image: Too many levels of symbolic links"),
        (["pipe"], "pipe: not a readable image: is no regular file but a FIFO"),
        (["-", "b.png", "-"], "standard input, -, can be read only once"),
        (["*\0"], "SOURCE: '*\\x00' holds a character that no file's name can hold"),
    ],
)
def test_mistakes_are_told_first(tree, sources, text):
    os.mkfifo("pipe")
    assert refusal(*sources) == text


def test_what_is_there_is_no_mistake(tree):
    check_sources(["b.png", "a[1].png", "d", "**/*.jpg", "-", "d/notes.txt"])
