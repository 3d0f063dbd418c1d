"""Where the weights of a run come from: published ones, and what is said where there are none."""

import urllib.request
from urllib.error import HTTPError, URLError

import pytest
import torch
from runs import refused
from trees import make_tree

from wsdan.config import Config
from wsdan.errors import UserError
from wsdan.networks.backbones import build_backbone
from wsdan.networks.model import describe_start
from wsdan.networks.weights import PublishedWeights, fetch_weights

OTHERS = "--weights FILE takes a file of yours, --no-pretrained starts from random weights"


@pytest.fixture
def no_network(monkeypatch) -> list[str]:
    """No server can be reached; the addresses that were asked for."""
    asked = []

    def unreachable(request, *_, **__):
        asked.append(getattr(request, "full_url", request))
        raise URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    return asked


@pytest.mark.parametrize(
    ("settings", "pretrained", "text"),
    [
        ({"data": "folder", "root": "x"}, True, "starting from ImageNet weights"),
        ({"data": "cub", "root": "x", "method": "baseline"}, True, "from ImageNet weights"),
        ({"data": "folder", "root": "x", "pretrained": False}, False, "from random weights"),
        ({"data": "folder", "root": "x", "weights": "a.pth"}, False, "starting from a.pth"),
        ({"data": "folder", "root": "x", "backbone": "tiny"}, False, "from random weights"),
        ({}, False, "from random weights"),
        ({"backbone": "resnet18"}, False, "from random weights"),
        ({"backbone": "resnet18", "pretrained": True}, True, "from ImageNet weights"),
        ({"data": "folder", "root": "x", "resume": True, "out": "y"}, True, "resuming"),
    ],
)
def test_photographs_start_from_published_weights(settings, pretrained, text):
    config = Config(**settings).resolved()
    assert config.pretrained is pretrained
    assert config.resolved() == config
    assert text in describe_start(config)


def test_offline_one_line_names_the_file_and_the_ways_out(
    no_network, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    root = make_tree(tmp_path / "data")
    command = ["train", "--data", "folder", "--root", root, "--backbone", "resnet18", "--no-plots"]
    error = refused(capsys, *command, "--workers", "0", "--out", tmp_path / "out")
    url = "https://download.pytorch.org/models/resnet18-f37072fd.pth"
    assert f"--pretrained: cannot fetch {url} (<urlopen error no route to host>); put" in error
    assert f"put the file into {tmp_path}/hub/checkpoints; {OTHERS}" in error
    assert no_network == [url]


def test_an_unreachable_hub_is_asked_once(no_network, tmp_path, monkeypatch, capsys):
    timm = pytest.importorskip("timm", reason="timm is an extra")
    hub = pytest.importorskip("huggingface_hub", reason="comes with timm")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(timm, "create_model", None)  # it would retry for half a minute
    url = "https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors"
    with pytest.raises(UserError) as caught:
        build_backbone("timm/resnet18:2", pretrained=True)
    assert f"cannot fetch {url} (<urlopen error no route to host>); {OTHERS}" in str(caught.value)
    assert capsys.readouterr().out == f"downloading {url}\n"
    assert no_network == [url]


def test_a_backbone_without_published_weights(no_network):
    pytest.importorskip("timm", reason="timm is an extra")
    with pytest.raises(UserError, match=f"no weights of timm/botnet50ts_256 are known; {OTHERS}"):
        build_backbone("timm/botnet50ts_256", pretrained=True)
    assert no_network == []


@pytest.mark.parametrize("cached", [True, False])
def test_a_cached_file_needs_no_server(cached, monkeypatch, capsys):
    """And a server that refuses HEAD requests has answered."""
    asked, network = [], torch.nn.Linear(2, 2)

    def refusing(request, *_, **__):
        asked.append(request.get_method())
        raise HTTPError(request.full_url, 403, "Forbidden", None, None)

    monkeypatch.setattr(urllib.request, "urlopen", refusing)
    state = fetch_weights(PublishedWeights("x", lambda: network, "https://x.org/a.pth", cached))
    assert torch.equal(state["weight"], network.weight)
    assert asked == ([] if cached else ["HEAD"])
    assert bool(capsys.readouterr().out) is not cached
