"""Objects behind addresses: reading by ranges, writing whole, faults, and errors in one line."""

import gc
import sys

import pytest
from runs import in_fork
from stores import WAIT

from wsdan.errors import UserError
from wsdan.remote import files, store
from wsdan.remote.addresses import RemotePath, is_remote
from wsdan.remote.mirror import Mirror

pytest.importorskip("fsspec")
CONTENT = bytes(range(256)) * 40
PATH = RemotePath("s3://bucket/folder/object")


@pytest.mark.parametrize(
    ("text", "remote"),
    [("s3://b/x", True), ("https://h/x", True), ("hf:ID", False), ("a/b", False), (None, False)],
)
def test_addresses(text, remote):
    assert is_remote(text) == remote


@pytest.mark.parametrize("fault", ["busy", "cut", pytest.param("stalled", marks=pytest.mark.slow)])
def test_reading_goes_on_after_a_fault(fault, s3, monkeypatch):
    s3.put("folder/object", CONTENT)
    if fault == "stalled":
        monkeypatch.setattr(store, "READ", WAIT)
    s3.faults = [fault]
    assert store.read_range(PATH, 300, 9000) == CONTENT[300:9000]
    s3.faults = [None, fault]
    assert store.read_whole(PATH) == CONTENT
    assert len(s3.requests) == 5


@pytest.mark.slow
def test_a_slow_link_is_waited_for(s3, monkeypatch):
    s3.put("folder/object", CONTENT)
    monkeypatch.setattr(store, "READ", WAIT)
    s3.faults = ["slow"]
    assert store.read_range(PATH, 0, len(CONTENT)) == CONTENT
    assert len(s3.requests) == 1


def test_a_fork_does_not_close_the_connections_of_its_parent(s3, monkeypatch):
    from s3fs import S3FileSystem

    def close(*_):
        closed.append(True)

    closed: list[bool] = []
    monkeypatch.setattr(S3FileSystem, "close_session", staticmethod(close))
    monkeypatch.setattr(store, "READ", 10 * WAIT)  # another file system than that of other tests
    s3.put("folder/object", CONTENT)
    assert store.read_range(PATH, 0, 10) == CONTENT[:10]

    def read():
        assert store.read_range(PATH, 0, 10) == CONTENT[:10]
        gc.collect()
        assert not closed

    assert in_fork(read) == 0


def test_an_upload_that_dies_leaves_the_old_object(s3):
    store.write_whole(PATH, CONTENT)
    s3.down = "cut upload"
    with pytest.raises(UserError, match="cannot be reached.* gave up after 5 attempts"):
        store.write_whole(PATH, CONTENT[::-1])
    s3.down = None
    assert store.read_whole(PATH) == CONTENT
    assert [str(entry.path) for entry in store.files_below(PATH.parent)] == [str(PATH)]
    s3.faults = ["cut upload"]
    store.write_whole(PATH, CONTENT[::-1])
    assert store.read_whole(PATH) == CONTENT[::-1]


def test_a_store_without_whole_uploads_gets_the_object_by_renaming(tmp_path, monkeypatch):
    from fsspec.implementations.local import LocalFileSystem

    path = RemotePath(f"file://{tmp_path}/new/object")
    store.write_whole(path, b"old")
    monkeypatch.setattr(store, "persistently", lambda _, access: access())
    monkeypatch.setattr(LocalFileSystem, "info", lambda *_, **__: {"size": 1})
    with pytest.raises(EOFError):
        store.write_whole(path, b"new one")
    assert (tmp_path / "new/object").read_bytes() == b"old"


def test_a_mirror_copies_later_what_it_could_not_copy(s3, tmp_path, capsys):
    for name in ("config.yaml", "metrics.jsonl", "last.pt", "best.pt"):
        (tmp_path / name).write_text(name)
    mirror = Mirror(tmp_path, "s3://bucket/run")
    s3.down = "busy"
    assert not mirror.update("last.pt", "best.pt")
    assert capsys.readouterr().err.count("\n") == 1
    s3.down = None
    assert mirror.update("last.pt")
    assert store.read_whole(RemotePath("s3://bucket/run/best.pt")) == b"best.pt"


@pytest.mark.parametrize(
    ("address", "fault", "text"),
    [
        ("s3://bucket/none", None, "no such file, folder or bucket"),
        ("s3://no-bucket/x", None, "no such file, folder or bucket"),
        ("s3://bucket/x", "denied", "access is forbidden (403)"),
        ("s3://bucket/x", "busy", "gave up after 5 attempts"),
        ("x://bucket/x", None, "no protocol x is known"),
        ("http://127.0.0.1:1/x", None, "cannot be reached"),
        ("hf://datasets", None, "refused: "),
    ],
)
def test_errors_are_one_line(address, fault, text, s3):
    s3.down = fault
    with pytest.raises(UserError) as caught:
        store.read_whole(RemotePath(address))
    assert text in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(address)


def test_missing_credentials_are_named(s3, monkeypatch):
    from s3fs import S3FileSystem

    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(UserError, match="no credentials were found; AWS_ACCESS_KEY_ID"):
        store.read_whole(PATH)
    S3FileSystem.clear_instance_cache()
    assert len(s3.requests) == 0


@pytest.mark.parametrize("missing", ["fsspec", "s3fs"])
def test_a_missing_package_is_named(missing, monkeypatch):
    from fsspec.registry import _registry

    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(_registry, "s3", raising=False)
    with pytest.raises(UserError, match=r"needs .*; pip install 'wsdan\[remote\]'"):
        store.read_whole(PATH)


def test_reads_that_follow_one_another_take_few_requests(s3):
    store.write_whole(PATH, CONTENT)
    s3.requests.clear()
    path = RemotePath(str(PATH), store.info(PATH).stamp)
    parts = [files.read_part(path, at, 100) for at in range(0, 10_000, 200)]
    assert parts == [CONTENT[at : at + 100] for at in range(0, 10_000, 200)]
    assert len(s3.requests) <= 3
    s3.requests.clear()
    assert files.read_part(path, 5, 10) == CONTENT[5:15]  # out of order: this range alone
    assert [bytes_ for _, _, bytes_ in s3.requests] == ["bytes=5-14"]
