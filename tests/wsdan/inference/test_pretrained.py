"""Classifiers as folders in the Hugging Face convention, on disk and on a hub that stands in."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from paths import ROOT
from runs import refused
from training import assert_same

pytest.importorskip("safetensors")
pytest.importorskip("huggingface_hub")

import huggingface_hub
from huggingface_hub import errors
from safetensors.torch import load_file, save_file

from wsdan import Classifier
from wsdan.checkpoint import load_checkpoint, save_checkpoint
from wsdan.cli import main
from wsdan.config import Config
from wsdan.errors import UserError
from wsdan.networks.model import build_model

CLASSES = ["a b", "caf\udce9", "d|_e"]  # the second was no UTF-8
METRICS = {"raw": 50.0, "raw_top5": 100.0, "refined": 62.5, "mean": 75.0, "images": 8}
FILES = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}


def new_state(config: Config) -> dict:
    """The state of a model whose batch norms and centers are not those of a new one."""
    model = build_model(config, len(CLASSES))
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.add_(torch.rand_like(value) * 0.1)
    return model.state_dict()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of one epoch: best.pt with averaged weights, and metrics.jsonl."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("run")
    config = Config(
        "folder", str(root), image_size=32, backbone="tiny", num_attentions=2, workers=0, ema=0.9
    ).resolved()
    save_checkpoint(root / "best.pt", config, CLASSES, {"model": new_state(config)})
    content = torch.load(root / "best.pt")
    content["ema"] = new_state(config)
    torch.save(content, root / "best.pt")
    return root


@pytest.fixture
def measured(run, monkeypatch):
    """The run's checkpoint, which says that it was saved at the end of epoch 0."""
    lines = [{"epoch": 0, "loss": 1.0, **{f"val_{k}": v for k, v in METRICS.items()}}]
    lines += [{"epoch": 1, "val_raw": 99.0}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run / "metrics.jsonl").write_text("half a li\n[]\n" + text)
    progress = {"epoch": 1, "seen": 0}

    def load(path, device="cpu"):
        return {**load_checkpoint(path, device), "ranks": [{"progress": progress}]}

    monkeypatch.setattr("wsdan.inference.pretrained.load_checkpoint", load)
    return run / "best.pt", progress


@pytest.fixture
def folder(run, tmp_path):
    Classifier(run / "best.pt").save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def images() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(256, size=(40, 50, 3), dtype=np.uint8) for _ in range(3)]


def assert_same_results(found: Classifier, expected: Classifier) -> None:
    for ours, theirs in zip(found(images()), expected(images()), strict=True):
        assert (ours.top, ours.box) == (theirs.top, theirs.box)
        assert np.array_equal(ours.attention, theirs.attention)


@pytest.mark.parametrize("raw_weights", [False, True])
def test_a_round_trip(raw_weights, run, tmp_path):
    classifier = Classifier(run / "best.pt", raw_weights=raw_weights)
    classifier.config = dataclasses.replace(classifier.config, refine_threshold=0.3)
    classifier.save_pretrained(tmp_path / "new" / "saved")
    assert {path.name for path in (tmp_path / "new" / "saved").iterdir()} == FILES
    loaded = Classifier.from_pretrained(tmp_path / "new" / "saved")
    assert loaded.classes == CLASSES
    assert loaded.config == dataclasses.replace(classifier.config, root=None)
    assert_same_results(loaded, classifier)
    state = torch.load(run / "best.pt")["model" if raw_weights else "ema"]
    assert any(name.startswith("centers.") for name in state)
    assert_same(load_file(tmp_path / "new" / "saved" / "model.safetensors"), state)
    loaded.save_pretrained(tmp_path / "again")
    for name in FILES:
        again = (tmp_path / "again" / name).read_bytes()
        assert again == (tmp_path / "new" / "saved" / name).read_bytes()


def test_a_plain_classifier_of_grey_images(tmp_path):
    config = Config(
        "folder", ".", image_size="32x40", in_channels=1, backbone="tiny", method="baseline"
    ).resolved()
    save_checkpoint(tmp_path / "a.pt", config, CLASSES, {"model": new_state(config)})
    classifier = Classifier(tmp_path / "a.pt")
    classifier.save_pretrained(tmp_path / "saved")
    assert_equal_raw = [result.top for result in classifier(images())]
    loaded = Classifier.from_pretrained(tmp_path / "saved")
    assert [result.top for result in loaded(images())] == assert_equal_raw
    preprocessor = json.loads((tmp_path / "saved" / "preprocessor_config.json").read_text())
    assert preprocessor["image_mean"] == [0.449] and not preprocessor["do_convert_rgb"]
    assert preprocessor["size"] == {"height": 37, "width": 46}
    assert preprocessor["crop_size"] == {"height": 32, "width": 40}
    assert "A plain classifier" in (tmp_path / "saved" / "README.md").read_text()


def test_nothing_private_is_written(folder, run):
    for name in ("config.json", "README.md"):
        assert str(run) not in (folder / name).read_text()
    assert "root" not in json.loads((folder / "config.json").read_text())["wsdan"]["settings"]


def test_the_card_holds_what_was_measured(measured, tmp_path):
    path, progress = measured
    classifier = Classifier(path)
    classifier.save_pretrained(tmp_path / "a")
    card = huggingface_hub.ModelCard.load(tmp_path / "a" / "README.md")
    results = {item.metric_name: item.metric_value for item in card.data.eval_results}
    assert results == {
        "top-1 accuracy, raw view": 0.5,
        "top-1 accuracy, refined view": 0.625,
        "top-1 accuracy, mean of both": 0.75,
    }
    assert card.data.library_name == "wsdan"
    assert "| raw view | 50.00 % | 100.00 % |" in card.text
    assert "8 validation images" in card.text and r"d\|\_e" in card.text
    Classifier.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    # Other weights, other settings, and an epoch that was not at its end: no figure is theirs.
    Classifier(path, raw_weights=True).save_pretrained(tmp_path / "c")
    classifier.config = dataclasses.replace(classifier.config, refine_threshold=0.9)
    classifier.save_pretrained(tmp_path / "d")
    progress["seen"] = 4
    Classifier(path).save_pretrained(tmp_path / "e")
    progress.update(seen=0, epoch=3)
    Classifier(path).save_pretrained(tmp_path / "f")
    for name in "cdef":
        text = (tmp_path / name / "README.md").read_text()
        assert "Not measured" in text and "model-index" not in yaml.safe_load(text.split("---")[1])


def test_saving_replaces_nothing_unasked(run, folder, monkeypatch, tmp_path):
    classifier = Classifier(run / "best.pt")
    with pytest.raises(UserError, match=r"holds config\.json, .*; overwrite=True replaces them"):
        classifier.save_pretrained(folder)
    (folder / "config.json").write_text("old")
    classifier.save_pretrained(folder, overwrite=True)
    assert_same_results(Classifier.from_pretrained(folder), classifier)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to .*file: "):
        classifier.save_pretrained(tmp_path / "file")
    shutil.copy(run / "best.pt", tmp_path / "a.pt")
    changing = Classifier(tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes(b"other")
    with pytest.raises(UserError, match=r"a\.pt has changed since it was loaded"):
        changing.save_pretrained(tmp_path / "b")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for call in (lambda: classifier.save_pretrained(tmp_path / "c"), lambda: Classifier(folder)):
        with pytest.raises(UserError, match=r"needs safetensors; pip install 'wsdan\[hub\]'$"):
            call()


def edited(folder, **entries):
    """Replace entries of config.json, or of its own part of it; None removes one."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    for name, value in entries.items():
        part = content if name in content else content["wsdan"]
        part[name] = value
        if value is None:
            del part[name]
    path.write_text(json.dumps(content))


def rewritten(folder, change):
    """Replace the weights by those that `change` makes of them, with their digest."""
    import hashlib

    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path)
    edited(folder, weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def flipped(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def settings_with(folder, **changes):
    own = json.loads((folder / "config.json").read_text())["wsdan"]
    edited(folder, settings={**own["settings"], **changes})


HOSTILE = {
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "is not JSON"),
    "no UTF-8": (lambda f: (f / "config.json").write_bytes(b'{"\xff"}'), "is not JSON"),
    "nested": (lambda f: (f / "config.json").write_text("[" * 10**5), "is not JSON"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "must hold a JSON object"),
    "large": (lambda f: (f / "config.json").write_text(" " * 10**7 + "{}"), "more than 10000000"),
    "of another program": (lambda f: (f / "config.json").write_text("{}"), "save_pretrained of w"),
    "of a list": (lambda f: edited(f, wsdan=[]), "save_pretrained of wsdan"),
    "of a later version": (lambda f: edited(f, version=2), "version must be 1; got 2"),
    "version True": (lambda f: edited(f, version=True), "version must be 1; got True"),
    "no classes": (lambda f: edited(f, id2label=None), "id2label must have a class"),
    "a gap": (lambda f: edited(f, id2label={"0": "a", "2": "b"}), "id2label must have a class"),
    "class numbers": (lambda f: edited(f, id2label={"0": 1, "1": 2}), "classes must be a list"),
    "twice": (lambda f: edited(f, id2label={"0": "a", "1": "a"}), "classes must be a list of two"),
    "fewer": (lambda f: edited(f, id2label={"0": "a", "1": "b"}), "weights do not fit its model"),
    "no settings": (lambda f: edited(f, settings=None), "config must be a dict; got None"),
    "a bad setting": (lambda f: settings_with(f, num_attentions="x"), "must be of type int"),
    "a range": (lambda f: settings_with(f, refine_threshold=7), r"must be in \[0, 1\]; got 7"),
    "infinity": (lambda f: settings_with(f, pool_eps=float("inf")), "must be a finite number"),
    "a backbone": (lambda f: settings_with(f, backbone="no"), "backbone"),
    "a lack": (lambda f: edited(f, settings={"backbone": "tiny"}), "config has no "),
    "metrics": (lambda f: edited(f, metrics={"raw": "x"}), "metrics must be finite numbers"),
    "NaN": (lambda f: edited(f, metrics={"raw": float("nan")}), "metrics must be finite numbers"),
    "no digest": (lambda f: edited(f, weights_sha256=None), "damaged: its SHA-256"),
    "a flipped bit": (lambda f: flipped(f / "model.safetensors"), "damaged: its SHA-256"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "safetensors: no such file"),
    "a missing tensor": (
        lambda f: rewritten(f, lambda w: {k: w[k] for k in w if k != "classifier.bias"}),
        "do not fit its model",
    ),
    "another shape": (
        lambda f: rewritten(f, lambda w: {k: v[:1] if v.dim() else v for k, v in w.items()}),
        "do not fit its model",
    ),
    "complex": (
        lambda f: rewritten(f, lambda w: {k: v + 0j for k, v in w.items()}), "name and its tensor",
    ),
    "no tensor": (lambda f: rewritten(f, lambda w: {}), "must be weights by name"),
    "another size": (
        lambda f: settings_with(f, image_size=64),
        r'preprocessor_config.json: size must be \{"height": 73, .* as config.json says',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_folders_that_are_damaged_or_hostile(name, folder):
    damage, message = HOSTILE[name]
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        Classifier.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value) or name == "a backbone"


@pytest.mark.parametrize("data", [b"", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}"])
def test_files_that_are_no_safetensors(data, folder):
    import hashlib

    (folder / "model.safetensors").write_bytes(data)
    edited(folder, weights_sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(UserError, match="cannot be read: |must be weights by name") as caught:
        Classifier(folder)
    assert "\n" not in str(caught.value)


def test_what_is_no_folder_of_a_classifier(run, tmp_path):
    for path, message in (
        (tmp_path, "holds no config.json"),
        (run / "best.pt", r"is a file; Classifier\(FILE\) loads"),
        (tmp_path / "none" / "at all", "no such folder"),
        ("a\0b", "holds a character"),
    ):
        with pytest.raises(UserError, match=message):
            Classifier.from_pretrained(path)


# What huggingface_hub's errors keep of an answer.
RESPONSE = SimpleNamespace(headers={}, request=None, status_code=404)


@pytest.fixture
def hub(folder, monkeypatch):
    """A hub with the repository user/birds; the arguments of the last download."""
    asked = {}

    def download(name, **options):
        asked.clear()
        asked.update(options)
        if name != "user/birds":
            raise errors.RepositoryNotFoundError("404 Client Error.\n\nMore", response=RESPONSE)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def test_the_hub(hub, run):
    expected = Classifier(run / "best.pt")
    assert_same_results(
        Classifier.from_pretrained("user/birds", revision="v1", token="t"), expected
    )
    assert (hub["revision"], hub["token"]) == ("v1", "t")
    assert set(hub["allow_patterns"]) == FILES
    assert_same_results(Classifier("hf:user/birds@v2"), expected)
    assert hub["revision"] == "v2"
    for call in (Classifier.from_pretrained, lambda name: Classifier("hf:" + name)):
        with pytest.raises(UserError, match=r"^hf:user/none: .*no such repository") as caught:
            call("user/none")
        assert "\n" not in str(caught.value)


def test_a_hub_that_cannot_be_reached(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True, raising=False)
    with pytest.raises(UserError, match=r"^hf:user/birds: no such folder, nor .*reached$"):
        Classifier.from_pretrained("user/birds", cache_dir=tmp_path)
    with pytest.raises(UserError, match=r"^hf:a--b: .*a--b") as caught:  # no name of a repository
        Classifier.from_pretrained("a--b", cache_dir=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.GatedRepoError("Gated\n!", response=RESPONSE), "grant you access"),
        (errors.RevisionNotFoundError("404\n!", response=RESPONSE), "no such revision"),
        (errors.OfflineModeIsEnabled("off\nline"), "HF_HUB_OFFLINE is set"),
        (ConnectionError("broken\npipe"), "hf:user/birds: broken$"),
        (PermissionError(), "hf:user/birds: PermissionError$"),
    ],
)
def test_errors_of_the_hub(error, message, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=message):
        Classifier.from_pretrained("user/birds")


def test_pushing(run, monkeypatch):
    calls = []

    class Api:
        def __init__(self, **options):
            calls.append(options)

        def create_repo(self, name, **options):
            calls.append((name, options))
            return f"https://hub/{name}"

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            calls.append((repo_id, {path.name for path in ROOT.joinpath(folder_path).iterdir()}))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    classifier = Classifier(run / "best.pt")
    assert classifier.push_to_hub("user/birds", private=True, token="t") == "https://hub/user/birds"
    assert calls[0]["token"] == "t"
    assert calls[1] == ("user/birds", {"private": True, "exist_ok": True})
    assert calls[2] == ("user/birds", FILES)
    monkeypatch.setattr(Api, "create_repo", lambda *_, **__: 1 / 0)
    error = errors.HfHubHTTPError("403 Forbidden\nno", response=RESPONSE)
    monkeypatch.setattr(Api, "create_repo", lambda *_, **__: (_ for _ in ()).throw(error))
    with pytest.raises(UserError, match=r"^hf:user/birds: .*403 Forbidden$"):
        classifier.push_to_hub("user/birds")


def test_the_command_line(hub, folder, run, tmp_path, capsys):
    from PIL import Image

    Image.fromarray(images()[0]).save(tmp_path / "a.png")
    lines = []
    for source in (run / "best.pt", folder, "hf:user/birds"):
        capsys.readouterr()
        arguments = ["--checkpoint", str(source), "--device", "cpu", "--json"]
        assert main(["predict", *arguments, str(tmp_path / "a.png")]) == 0
        lines.append(json.loads(capsys.readouterr().out))
    assert lines[0] == lines[1] == lines[2]
    image = str(tmp_path / "a.png")
    assert "no such repository" in refused(capsys, "predict", "--checkpoint", "hf:x/y", image)
    assert "expected hf:ID" in refused(capsys, "predict", "--checkpoint", "hf:", image)
    assert "data folder needs --root" in refused(capsys, "eval", "--checkpoint", folder)
    (folder / "config.json").write_text("{}")
    assert "config.json: was not" in refused(capsys, "predict", "--checkpoint", folder, image)
