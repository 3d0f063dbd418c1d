"""Runs on remote images: as on the same files of a disk, whatever the network does."""

import os
import signal
from functools import partial

import pytest
from runs import SMALL, acting_at, assert_same_end, metrics_of
from stores import files_of, serving
from trees import make_shards, make_table, make_tree

import wsdan.training.run
from wsdan.checkpoint import load_checkpoint
from wsdan.cli import main
from wsdan.config import Config
from wsdan.data.splits import open_split

pytest.importorskip("fsspec")
TRAIN = [*SMALL, "--backbone", "tiny", "--no-pretrained", "--batch-size", "2", "--epochs", "2"]


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
    for split in ("train", "val"):
        local, remote = listed(data, root, split), listed(data, address, split)
        assert remote.classes == local.classes
        assert [sample[1:] for sample in remote.samples] == [sample[1:] for sample in local.samples]
        names = [str(sample.source).replace(address, str(root)) for sample in remote.samples]
        assert names == [str(sample.source) for sample in local.samples]


def test_a_shard_is_indexed_once(s3, upload, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    address = upload(make_shards(root))
    first = listed("webdataset", address)
    assert any(part for _, _, part in s3.requests)
    s3.requests.clear()
    assert listed("webdataset", address) == first
    assert not any(part for _, _, part in s3.requests)


@pytest.mark.slow
def test_a_run_stopped_and_resumed_from_its_mirror_is_that_of_the_disk(
    s3, upload, tmp_path, monkeypatch
):
    root = tmp_path / "data"
    root.mkdir()
    address = upload(make_shards(root))
    whole, broken, other = (tmp_path / name for name in ("whole", "broken", "other"))
    assert main([*TRAIN, "--root", str(root), "--workers", "0", "--out", str(whole)]) == 0
    run = [*TRAIN, "--root", address, "--workers", "1", "--mirror", "s3://bucket/run"]
    with monkeypatch.context() as patch:
        stop = partial(os.kill, os.getpid(), signal.SIGTERM)
        patch.setattr(wsdan.training.run, "build_step", acting_at(2, stop))
        s3.faults = [None, "cut", None, "busy"] * 10
        assert main([*run, "--out", str(broken)]) == 128 + signal.SIGTERM
    assert main([*run, "--out", str(other)]) == 2  # the mirror holds a run
    s3.faults = [None, "busy", None, "cut"] * 10
    assert main([*run, "--out", str(other), "--resume"]) == 0
    assert_same_end(other, whole)
    remote = load_checkpoint("s3://bucket/run/last.pt")
    assert remote["ranks"][0]["progress"]["epoch"] == 2
    assert main(["eval", "--checkpoint", "s3://bucket/run/best.pt", "--workers", "1"]) == 0


@pytest.mark.slow
def test_a_network_that_is_gone_ends_the_run_which_resumes(
    s3, upload, tmp_path, monkeypatch, capsys
):
    root = tmp_path / "data"
    root.mkdir()
    address = upload(make_tree(root))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main([*TRAIN, "--root", str(root), "--workers", "0", "--out", str(whole)]) == 0
    run = [*TRAIN, "--root", address, "--workers", "0", "--skip-bad-images", "--out", str(broken)]
    with monkeypatch.context() as patch:
        gone = acting_at(2, lambda: setattr(s3, "down", "busy"))
        patch.setattr(wsdan.training.run, "build_step", gone)
        capsys.readouterr()
        assert main(run) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"wsdan: error: {address}/train/")
    assert f"{broken}/last.pt holds the run up to its last step" in error
    assert load_checkpoint(broken / "last.pt")["ranks"][0]["progress"]["seen"] == 4
    s3.down = None
    assert main([*run, "--resume"]) == 0
    assert metrics_of(broken) == metrics_of(whole)
    assert all(record["bad"] == 0 for record in metrics_of(broken))


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
    with serving(files_of(tmp_path)) as url:
        run = tmp_path / "run"
        data = ["--data", "csv", "--root", f"{url}/data"]
        assert main([*TRAIN, *data, "--workers", "0", "--epochs", "1", "--out", str(run)]) == 0
        checkpoint = f"{url}/run/best.pt"
        assert main(["eval", "--checkpoint", checkpoint, "--workers", "1"]) == 0
        capsys.readouterr()
        (run / "best.pt").write_bytes((run / "best.pt").read_bytes()[:5000])
        assert main(["eval", "--checkpoint", checkpoint]) == 2
    assert f"checkpoint {checkpoint}: truncated or not ours" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--out", "s3://bucket/run"], "--out is a folder of this machine; --mirror ADDRESS"),
        (["--mirror", "run"], "--mirror must be an address, such as s3://BUCKET/RUN; got 'run'"),
        (["--data", "cub", "--root", "memory://a"], "--data cub: is read from a folder of this"),
        (["--root", "memory://none"], "memory://none: no dataset found; looked for train.csv"),
    ],
)
def test_mistakes_are_one_line(options, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*TRAIN, *options]) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1


def test_paths_of_this_machine_load_no_client(tmp_path):
    import subprocess
    import sys

    code = (
        "import sys; from wsdan.data.readers import detect; "
        "from wsdan.checkpoint import load_checkpoint; from wsdan.data.images import load_image; "
        "detect(sys.argv[1]); print('fsspec' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(make_tree(tmp_path))]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "False\n"
