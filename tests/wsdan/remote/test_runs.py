"""Runs on remote images: as on the same files of a disk, whatever the network does."""

import os
import re
import shutil
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from pages import blocks_of, run_shell
from paths import ROOT
from runs import SMALL, acting_at, assert_same_end, metrics_of, refused
from stores import FileHandler, files_of, serving
from trees import make_shards, make_table, make_tree

import wsdan.training.run
from wsdan.checkpoint import load_checkpoint
from wsdan.cli import main
from wsdan.config import Config
from wsdan.data.images import load_image
from wsdan.data.splits import open_split
from wsdan.remote import store
from wsdan.remote.addresses import RemotePath

pytest.importorskip("fsspec")
# Never twice within the requests of one access: it succeeds in the end.
FAULTY = [None, None, None, "cut", None, None, None, None, "busy", None] * 10
TRAIN = [*SMALL, "--backbone", "tiny", "--no-pretrained", "--batch-size", "2", "--epochs", "2"]
TRAIN += ["--workers", "0"]


def listed(data, root, split="train"):
    return open_split(Config(data=data, root=str(root)).resolved(), split)


@pytest.mark.parametrize(
    ("data", "make"), [("folder", make_tree), ("csv", make_table), ("webdataset", make_shards)]
)
def test_layouts_are_those_of_a_disk(data, make, s3, upload, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    make(root)
    address = upload(root)
    for folder in ("", "train/", "train/blue/"):  # as consoles make them
        s3.put(f"data/{folder}", b"")
    for split in ("train", "val"):
        local, remote = listed(data, root, split), listed(data, address, split)
        assert remote.classes == local.classes
        assert [sample[1:] for sample in remote.samples] == [sample[1:] for sample in local.samples]
        names = [str(sample.source).replace(address, str(root)) for sample in remote.samples]
        assert names == [str(sample.source) for sample in local.samples]


def test_a_shard_is_indexed_once_as_long_as_it_is_the_same(s3, upload, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    address = upload(make_shards(root))
    with ThreadPoolExecutor(2) as pool:  # two processes do the same
        first, second = pool.map(partial(listed, "webdataset"), [address] * 2)
    assert first == second
    fetched = [path for _, path, part in s3.requests if part is not None]
    assert sorted(fetched) == ["/bucket/data/train-000.tar", "/bucket/data/train-001.tar"]
    s3.requests.clear()
    assert listed("webdataset", address) == first
    assert not any(part for _, _, part in s3.requests)
    content = (root / "train-000.tar").read_bytes().replace(b"blue\n", b"teal\n")
    s3.put("data/train-000.tar", content)  # of the same size
    assert listed("webdataset", address).classes == ["blue", "green", "red", "teal"]


@pytest.mark.slow
def test_a_run_stopped_and_resumed_from_its_mirror_is_that_of_the_disk(
    s3, upload, tmp_path, monkeypatch
):
    root = tmp_path / "data"
    root.mkdir()
    address = upload(make_shards(root))
    whole, broken, other = (tmp_path / name for name in ("whole", "broken", "other"))
    assert main([*TRAIN, "--root", str(root), "--out", str(whole)]) == 0
    run = [*TRAIN, "--root", address, "--workers", "1", "--mirror", "s3://bucket/run"]
    with monkeypatch.context() as patch:
        stop = partial(os.kill, os.getpid(), signal.SIGTERM)
        patch.setattr(wsdan.training.run, "build_step", acting_at(2, stop))
        s3.faults = FAULTY
        assert main([*run, "--out", str(broken)]) == 128 + signal.SIGTERM
    assert main([*run, "--out", str(other)]) == 2  # the mirror holds a run
    s3.faults = FAULTY[::-1]
    assert main([*run, "--out", str(other), "--resume"]) == 0
    assert_same_end(other, whole)
    remote = load_checkpoint("s3://bucket/run/last.pt")
    assert remote["ranks"][0]["progress"]["epoch"] == 2
    assert main(["eval", "--checkpoint", "s3://bucket/run/best.pt", "--workers", "1"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["training", "evaluation"])
def test_a_network_that_is_gone_ends_the_run_which_resumes(
    moment, s3, upload, tmp_path, monkeypatch, capsys
):
    """The list is of this machine, its images are not."""
    root, lists = tmp_path / "data", tmp_path / "lists"
    address = upload(make_table(root))
    lists.mkdir()
    for path in root.glob("*.csv"):
        text = re.sub("^(?=train|val)", f"{address}/", path.read_text(), flags=re.M)
        (lists / path.name).write_text(text)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main([*TRAIN, "--data", "csv", "--root", str(root), "--out", str(whole)]) == 0
    run = [*TRAIN, "--root", str(lists), "--skip-bad-images", "--out", str(broken)]
    with monkeypatch.context() as patch:
        step = {"training": 2, "evaluation": 6}[moment]  # the sixth is an epoch's last
        patch.setattr(wsdan.training.run, "build_step", acting_at(step, partial(s3.fail, "busy")))
        capsys.readouterr()
        assert main(run) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"wsdan: error: {address}/")
    assert f"{broken}/last.pt holds the run up to its last step; to go on: wsdan train" in error
    progress = load_checkpoint(broken / "last.pt")["ranks"][0]["progress"]
    assert progress["seen"] == 2 * step and progress["trained"] == (moment == "evaluation")
    s3.fail(None)
    assert main([*run, "--resume"]) == 0
    assert metrics_of(broken) == metrics_of(whole)
    assert all(record["bad"] == 0 for record in metrics_of(broken))


@pytest.mark.slow
def test_a_network_that_is_gone_in_a_loading_process(s3, upload, tmp_path, capsys):
    root = tmp_path / "data"
    root.mkdir()
    address = upload(make_tree(root))
    s3.faults = [None] * 3 + ["busy"] * 1000
    assert main([*TRAIN, "--root", address, "--workers", "1", "--out", str(tmp_path / "a")]) == 2
    assert "gave up after 5 attempts" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_csv_lists_and_checkpoints_of_a_web_server(tmp_path, capsys):
    pytest.importorskip("aiohttp")
    make_table(tmp_path / "data")
    with serving(files_of(tmp_path)) as url:  # of no listings
        run = tmp_path / "run"
        data = ["--root", f"{url}/data"]
        assert main([*TRAIN, *data, "--epochs", "1", "--out", str(run)]) == 0
        checkpoint = f"{url}/run/best.pt?signature={'x' * 300}"
        assert main(["eval", "--checkpoint", checkpoint, "--workers", "1"]) == 0
        (run / "best.pt").write_bytes((run / "best.pt").read_bytes()[:5000])
        assert "looked for train.csv alone" in refused(capsys, *TRAIN, "--root", url)
        error = refused(capsys, "eval", "--checkpoint", checkpoint)
        assert f"checkpoint {url}/run/best.pt?" in error and "truncated or not ours" in error
        assert "tells neither ETag nor time" in refused(
            capsys, *TRAIN, *data, "--cache", "disk", "--out", tmp_path / "other"
        )


@pytest.mark.slow
def test_the_commands_of_the_page_run(s3, upload, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    upload(make_tree(tmp_path / "birds", 2), "birds")
    shutil.copy(tmp_path / "birds/val/red/0.png", "image.jpg")
    first, second = blocks_of((ROOT / "docs/training/remote.md").read_text())
    run_shell(first.content.replace("BUCKET", "bucket"))
    shutil.move("runs", "elsewhere")
    capsys.readouterr()
    run_shell(second.content.replace("BUCKET", "bucket"))  # the run is done: it is evaluated
    assert "3 classes" in capsys.readouterr().out
    for name in ("last.pt", "best.pt", "config.yaml"):
        found, expected = (Path(folder, "birds", name) for folder in ("runs", "elsewhere"))
        assert found.read_bytes() == expected.read_bytes()


def test_a_web_server_without_range_requests(tmp_path, monkeypatch, capsys):
    pytest.importorskip("aiohttp")
    make_tree(tmp_path / "tree")
    root = tmp_path / "shards"
    root.mkdir()
    make_shards(root)
    with serving(files_of(tmp_path, FileHandler)) as url:
        local, remote = listed("folder", tmp_path / "tree"), listed("folder", f"{url}/tree")
        assert [sample[1:] for sample in remote.samples] == [sample[1:] for sample in local.samples]
        content = load_image(remote.samples[-1].source, 10_000).tobytes()
        assert content == load_image(local.samples[-1].source, 10_000).tobytes()
        monkeypatch.setattr(store, "CHUNK", 1000)
        shard = RemotePath(f"{url}/shards/val-000.tar")
        assert store.read_whole(shard) == (root / "val-000.tar").read_bytes()
        shards = [*TRAIN, "--root", f"{url}/shards", "--out", str(tmp_path / "run")]
        assert main(shards) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{url}/shards/" in error and "its server takes no range requests" in error


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--out", "s3://bucket/run"], "--out: 's3://bucket/run' is an address, and --out a place"),
        (["--mirror", "https://h/run"], "--mirror: 'https://h/run' can be read, not written"),
        (["--mirror", "run"], "--mirror must be an address, such as s3://BUCKET/RUN; got 'run'"),
        (["--data", "cub", "--root", "memory://a"], "--data cub: is read from a folder of this"),
        (["--root", "memory://none"], "--root: no such folder or bucket: memory://none"),
        (["--weights", "s3://b/w.pt"], "--weights: s3://b/w.pt: is an address, which only --root"),
    ],
)
def test_mistakes_are_one_line(options, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*TRAIN, *options]) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1


def test_paths_of_this_machine_load_no_client(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    run = [*TRAIN, "--root", str(make_tree(tmp_path / "data", 2))]
    assert main([*run, "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    assert main(["eval", "--checkpoint", str(tmp_path / "run/best.pt"), "--workers", "0"]) == 0
