"""Several ranks train as one process does: equal losses, and equal centers in every rank."""

import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from runs import SMALL, acting_at, finished, metrics_of, ranks, torchrun
from trees import make_tree

import wsdan.training.run
from wsdan.checkpoint import load_checkpoint
from wsdan.cli import main
from wsdan.data import loaders
from wsdan.data.samplers import EpochBatchSampler, RankBatchSampler
from wsdan.distributed import _unique_prefix
from wsdan.errors import UserError

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch has no distributed package"
)
RECIPE = ["--optimizer", "sgd", "--lr", "1e-2", "--schedule", "step", "--warmup", "0"]


def succeeded(done) -> str:
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "images", "accumulate", "options"),
    [
        ("plain", "16", 1, []), ("plain64", "48", 1, []), ("plain64", "48", 2, []),
        ("plain64", "48", 2, ["--calmix", "1"]),
    ],
)  # fmt: skip
def test_two_ranks_equal_one_of_twice_the_batch(
    network, images, accumulate, options, tmp_path, monkeypatch
):
    """Losses to 1e-6, accuracies exactly: two steps per epoch in float32, six in float64.

    In float32 a later step may see one box a pixel wider: where a map lies within rounding of its
    threshold.
    """
    monkeypatch.setenv("NETWORK", network)
    monkeypatch.setenv("FEW_IMAGES", images)
    command = ["train", "--image-size", "32", "--attention", "slice", "--num-attentions", "4"]
    command += ["--no-plots", *options]
    command += [*RECIPE, "--accumulate", str(accumulate), "--ema", "0.9", "--log-images", "0"]
    command += ["--epochs", "1" if network == "plain" else "2", "--eval-every", "2"]
    one, two = tmp_path / "one", tmp_path / "two"
    size = ["--batch-size", str(8 // accumulate)]
    succeeded(finished(*command, *size, "--out", str(one), script="equal_ranks.py"))
    size = ["--batch-size", str(4 // accumulate)]
    printed = succeeded(ranks(*command, *size, "--out", str(two), script="equal_ranks.py"))
    assert printed.count("ranks are equal") == len(metrics_of(one))
    assert printed.count("mean of both") == 1  # one rank prints
    for found, expected in zip(metrics_of(two), metrics_of(one), strict=True):
        assert set(found) == set(expected)
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=1e-6), name
    centers = [load_checkpoint(out / "last.pt")["model"]["centers.centers"] for out in (two, one)]
    torch.testing.assert_close(*centers, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_two_ranks_with_batch_norm_stay_equal_and_resume(tmp_path):
    """A whole network, an odd number of validation images, loader workers; then one rank."""
    out = tmp_path / "out"
    command = [*SMALL, "--batch-size", "4", "--workers", "1", "--out", str(out), "--epochs"]
    printed = succeeded(ranks(*command, "2", script="equal_ranks.py"))
    assert printed.count("ranks are equal") == 2
    assert "48 images of 16 classes to train on, 17 to validate" in printed
    assert "2 processes of batch 4" in printed
    assert "on 17 images" in printed
    assert len(load_checkpoint(out / "last.pt")["ranks"]) == 2
    printed = succeeded(ranks(*command, "3", "--resume"))
    assert "epoch 3/3" in printed
    succeeded(finished(*command, "4", "--batch-size", "8", "--resume"))
    assert [record["epoch"] for record in metrics_of(out)] == [0, 1, 2, 3]


@pytest.mark.slow
def test_more_ranks_resume_after_the_last_step_of_an_epoch(tmp_path, monkeypatch):
    """One process is stopped in the epoch's last step; of the two that resume, one has no sums."""
    command = [*SMALL, "--log-images", "0", "--epochs", "1", "--out", str(tmp_path)]
    stop = partial(os.kill, os.getpid(), signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(loaders, "SYNTHETIC_TRAIN", 48)
        patch.setattr(loaders, "SYNTHETIC_VAL", 17)
        patch.setattr(wsdan.training.run, "build_step", acting_at(6, stop))
        assert main(command) == 143
    first = load_checkpoint(tmp_path / "last.pt")["ranks"][0]["progress"]
    succeeded(ranks(*command, "--batch-size", "4", "--resume"))
    (record,) = metrics_of(tmp_path)
    assert record["loss"] == pytest.approx(float(first["totals"]["loss"]) / 6)
    assert record["val_images"] == 17


@pytest.mark.slow
def test_a_killed_worker_restarts_the_group_from_last(tmp_path, monkeypatch):
    """It ends as an undisturbed run of two processes, bit for bit."""
    command = [*SMALL, "--batch-size", "4", "--epochs", "2", "--save-every", "1"]
    command += ["--log-images", "0"]
    monkeypatch.setenv("DIE_AT", "9")  # in the second epoch
    done = torchrun(
        *command, "--out", str(tmp_path / "killed"), script="dying_worker.py",
        options=("--max-restarts", "1"),
    )  # fmt: skip
    printed = succeeded(done)
    assert "SIGKILL" in done.stderr or "-9" in done.stderr, done.stderr[-2000:]
    assert printed.count("writing to") == 2
    succeeded(ranks(*command, "--out", str(tmp_path / "whole")))
    assert metrics_of(tmp_path / "killed") == metrics_of(tmp_path / "whole")
    states = [load_checkpoint(tmp_path / name / "last.pt") for name in ("killed", "whole")]
    for name, value in states[1]["model"].items():
        assert torch.equal(states[0]["model"][name], value), name


@pytest.mark.slow
def test_only_the_first_process_needs_the_folder(tmp_path, monkeypatch):
    """To resume on machines that share no disk."""
    monkeypatch.setenv("DISKS", str(tmp_path))
    command = [*SMALL, "--batch-size", "4", "--out", "out", "--log-images", "0", "--epochs"]
    succeeded(ranks(*command, "1", script="own_disks.py"))
    command = ["train", "--resume", "--out", "out", "--epochs", "2"]  # the first has config.yaml
    succeeded(ranks(*command, script="own_disks.py"))
    assert [record["epoch"] for record in metrics_of(tmp_path / "0/out")] == [0, 1]
    assert not list((tmp_path / "1").iterdir())


def test_a_restarted_group_uses_a_new_prefix():
    """In a store that holds the keys of dead processes, whichever rank comes first."""
    server = torch.distributed.TCPStore("localhost", 0, is_master=True)

    def join(rank: int, seconds: float) -> str:
        store = torch.distributed.TCPStore("localhost", server.port, is_master=False)
        time.sleep(seconds)
        return _unique_prefix(store, rank, 3)

    prefixes = []
    with ThreadPoolExecutor(3) as threads:
        for waits in ((0, 0, 0), (0.3, 0, 0), (0, 0, 0.3)):
            found = set(threads.map(join, range(3), waits))
            assert len(found) == 1
            prefixes += found
    assert len(set(prefixes)) == 3


@pytest.mark.slow
def test_mistakes_under_torchrun(tmp_path):
    command = [*SMALL, "--epochs", "1"]
    done = ranks(*command, TORCHELASTIC_MAX_RESTARTS="1")
    assert done.returncode == 2
    assert "torchrun --max-restarts needs --out" in done.stderr
    done = ranks(*command, "--batch-size", "30", "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "make steps of 60 images, but there are 48 to train on" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_ranks_share_an_epoch_without_overlap():
    whole = EpochBatchSampler(50, 8, seed=3)
    halves = [EpochBatchSampler(50, 4, seed=3, rank=rank, world_size=2) for rank in (0, 1)]
    for epoch in (0, 1):
        for batches in (whole, *halves):
            batches.set_epoch(epoch)
        steps = list(zip(*map(list, halves), strict=True))
        assert [one + two for one, two in steps] == list(whole)
        assert len(whole) == 6
    whole.set_epoch(1, start_step=4)
    assert list(whole) == [one + two for one, two in steps[4:]]


@pytest.mark.parametrize(("length", "world"), [(17, 2), (5, 8), (0, 2), (12, 3)])
def test_no_validation_image_is_counted_twice(length, world):
    shards = [RankBatchSampler(length, 4, rank=rank, world_size=world) for rank in range(world)]
    seen = [draw.index for shard in shards for batch in shard for draw in batch]
    assert sorted(seen) == list(range(length))
    assert [len(list(shard)) for shard in shards] == [len(shard) for shard in shards]


def test_a_short_epoch_is_one_step_of_one_process():
    assert [len(batch) for batch in EpochBatchSampler(5, 8, seed=0)] == [5]
    with pytest.raises(UserError, match="make steps of 8 images, but there are 5 to train on"):
        EpochBatchSampler(5, 4, seed=0, world_size=2)


@pytest.mark.slow
def test_ranks_with_other_images_are_told_so(tmp_path, monkeypatch):
    """And where only one process fails, the others say why, without a traceback of theirs."""
    monkeypatch.setenv("DISKS", str(tmp_path))
    for disk in ("0", "1"):
        make_tree(tmp_path / disk / "data")
    command = [*SMALL, "--data", "folder", "--root", "data", "--backbone", "tiny", "--workers", "0"]
    command += ["--batch-size", "2", "--epochs", "1", "--no-pretrained", "--out", "out"]
    removed = tmp_path / "1/data/train/red/1.png"
    kept = removed.rename(tmp_path / "kept.png")

    def failed(*text: str) -> None:
        done = ranks(*command, script="own_disks.py")
        assert done.returncode == 2, done.stderr
        lines = done.stderr.splitlines()
        assert all(line.startswith("wsdan: error: ") for line in lines), done.stderr
        assert len(lines) == 2 and all(sum(part in line for line in lines) for part in text)

    failed(
        "process 1 reads other images than process 0: 11 train images, 12 val images of 3 classes "
        f"below {tmp_path / '1/data'}",
        f"process 0: 12 train images, 12 val images of 3 classes below {tmp_path / '0/data'}",
    )
    removed.write_bytes(kept.read_bytes()[:100])  # only its own process reads it, and fails
    for name in ("blue", "green", "red"):
        for path in (tmp_path / "1/data/train" / name).iterdir():
            path.write_bytes(b"none")
    failed("not a readable image", "another process of the run has ended: process 1: ")
    shutil.rmtree(tmp_path / "1/data/val")  # before the processes have met
    failed("has no val/ or test/", "another process of the run has ended: process 1: ")
