"""The replacements of the published functions, in the published training steps."""

import random
import re
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import published_steps as published
import pytest
import torch
from golden import assert_gradient_parity, assert_parity, load, named
from pages import blocks_of
from paths import ROOT

from wsdan_kernels.compat import cal, fgir, guyuc, paper, wvinzh

# The draw of WS-DAN.PyTorch stands in its model, as it is.
GUYUC = SimpleNamespace(
    BAP=guyuc.BAP,
    CenterLoss=guyuc.CenterLoss,
    batch_augment=guyuc.batch_augment,
    choose_attention=published.chooser(1e-12),
)
FGIR = SimpleNamespace(
    BAP=fgir.BAP_Counterfactual,
    CenterLoss=cal.CenterLoss,
    batch_augment=fgir.batch_augment,
    choose_attention=cal.choose_attention,
)
STEPS = {
    "guyuc": (published.guyuc_step, published.GUYUC, GUYUC),
    "cal": (published.cal_step, published.CAL, cal),
    "fgir": (published.cal_step, published.FGIR, FGIR),
    "wvinzh": (published.wvinzh_step, published.WVINZH, wvinzh),
}
PAGE = {
    "guyuc": r"WS-DAN\.PyTorch", "cal": "CAL", "wvinzh": "WS_DAN_PyTorch", "fgir": "FGIR-Backbones",
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", list(STEPS))
def test_losses_step_by_step(name, dtype):
    step, loops, twin = STEPS[name]
    expected = published.losses(step, loops, dtype)
    found = published.losses(step, twin, dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for value, truth in zip(found, expected, strict=True):
        assert abs(float(value - truth)) <= tolerance * abs(float(truth))
    assert len({float(value) for value in expected}) == len(expected)  # the steps moved something


def test_wvinzh_first_step_bit_for_bit():
    step, loops, twin = STEPS["wvinzh"]
    (expected,) = published.losses(step, loops, torch.float64, steps=1)
    (found,) = published.losses(step, twin, torch.float64, steps=1)
    assert torch.equal(found, expected)


@named("wvinzh_center")
def test_wvinzh_centers(name):
    case = load(name)
    features = case["features"].clone().requires_grad_()
    centers, labels = case["centers"].clone(), case["labels"]
    for options in ((case["alfa"],), ()):  # by position, as by name in the steps
        if not options and case["alfa"] != 0.95:
            continue
        loss, diff = wvinzh.calculate_pooling_center_loss(features, centers, labels, *options)
        assert_parity(loss, torch.tensor(case["loss"]))
        assert_parity(diff, case["diff"])
    loss.backward()
    assert_parity(features.grad, case["grad_features"])
    for label in labels.unique():  # of the images with one label, the step of one is kept
        moved = centers[label] + diff[labels == label]
        truth = case["updated_centers"][label]
        assert min((moved - truth).abs().amax(1)) <= 1e-6


def test_wvinzh_defaults_and_single_views():
    """attention_crop and attention_drop draw one map each, mask2bbox none."""
    torch.manual_seed(0)
    maps, images = torch.rand(3, 4, 6, 6).square(), torch.randn(3, 3, 32, 32)
    features, centers = torch.randn(2, 8), torch.randn(3, 8)
    _, diff = wvinzh.calculate_pooling_center_loss(features, centers, torch.tensor([2, 0]))
    _, other = paper.calculate_pooling_center_loss(features, centers, torch.tensor([2, 0]), 0.05)
    torch.testing.assert_close(diff, other)
    for name in ("attention_crop", "attention_drop", "mask2bbox"):
        np.random.seed(1)
        view = getattr(wvinzh, name)(maps, images)
        other = getattr(paper, name)(maps, images, align_corners=False)
        assert view.shape == images.shape == other.shape
    assert_parity(view, other)  # the refined view, which draws nothing


@named("bap_cal")
def test_cal_pooling_of_evaluation(name):
    case = load(name)
    actual, counterfactual = cal.BAP().eval()(case["features"], case["attentions"])
    assert_parity(actual, case["output"])
    assert_parity(counterfactual, case["counterfactual"])


@pytest.mark.parametrize("pool", ["GAP", "GMP"])
@pytest.mark.parametrize("size", [6, 4])
def test_cal_draws_its_counterfactual_maps_as_published(pool, size):
    torch.manual_seed(0)
    features, maps = torch.randn(2, 3, 6, 6), torch.rand(2, 5, size, size)
    torch.manual_seed(1)
    actual, counterfactual = cal.BAP(pool)(features, maps)
    torch.manual_seed(1)
    fake = torch.empty(2, 5, 6, 6).uniform_(0, 2)
    assert_parity(counterfactual, published._pooled(features, fake, 1e-6))
    assert actual.shape == counterfactual.shape == (2, 15)


@named("fgir_bap")
def test_fgir_pooling(name):
    case = load(name)
    features = case["features"].clone().requires_grad_()
    attentions = case["attentions"].clone().requires_grad_()
    actual, counterfactual = fgir.BAP_Counterfactual().eval()(features, attentions)
    assert_parity(actual, case["output"])
    assert_parity(counterfactual, case["counterfactual"])
    actual.backward(case["grad_output"])
    wide = [case[key].double().requires_grad_() for key in ("features", "attentions")]
    published._pooled(*wide, case["eps"]).backward(case["grad_output"].double())
    assert_gradient_parity(features.grad, case["grad_features"], wide[0].grad)
    assert_gradient_parity(attentions.grad, case["grad_attentions"], wide[1].grad)


@named("fgir_views")
def test_fgir_views(name):
    case = load(name)
    done = set()
    for key in case:
        mode, _, options = key.partition("_theta")
        if mode not in ("crop", "drop", "cm") or not options:
            continue
        theta, padding = map(float, options.split("_pad"))
        views = fgir.batch_augment(case["images"], case["maps"], mode, theta, padding)
        assert_parity(views, case[key])
        done.add(mode)
    assert done == {"crop", "drop", "cm"}


def test_fgir_draws_a_threshold_for_each_image_of_a_pair():
    torch.manual_seed(0)
    maps, images = torch.rand(4, 1, 6, 5), torch.randn(4, 3, 24, 20)
    random.seed(3)
    drawn = torch.tensor([random.uniform(0.6, 0.8) for _ in range(4)])
    random.seed(3)
    found = fgir.batch_augment(images, maps, "cm", theta=(0.6, 0.8), padding_ratio=0)
    expected = fgir.batch_augment(images, maps, "cm", theta=drawn, padding_ratio=0)
    assert torch.equal(found, expected)
    alone = fgir.batch_augment(images[2:], maps[2:], "cm", theta=drawn[2:], padding_ratio=0)
    assert torch.equal(found[2:], alone)
    assert all(not torch.equal(image, other) for image, other in zip(found, images, strict=True))


def test_fgir_thresholds():
    """Of the mean, of the k-th value, of no position, drawn: against loops."""
    torch.manual_seed(0)
    maps, images = torch.rand(3, 1, 6, 5), torch.randn(3, 3, 24, 20)
    loops = published.FGIR.batch_augment
    peaks, means = maps.amax((1, 2, 3)), maps.mean((1, 2, 3))
    fifth = maps.flatten(1).sort(dim=1, descending=True).values[:, 4]
    for options, share in (({"percent_max": False}, means), ({"top_k": 5}, fifth)):
        for i in range(3):
            theta = 1.1 if "top_k" not in options else 0.5
            cut = fifth[i] / peaks[i] if "top_k" in options else theta * share[i] / peaks[i]
            found = fgir.batch_augment(images, maps, "crop", theta, **options)
            expected = loops(images[i : i + 1], maps[i : i + 1], "crop", cut)
            assert_parity(found[i : i + 1], expected)
    whole = fgir.batch_augment(images, maps, "crop", 5.0)
    assert_parity(whole, images)
    kept = fgir.batch_augment(torch.ones(3, 1, 6, 5), maps, "drop", top_k=5)
    assert kept.sum((1, 2, 3)).tolist() == [25.0] * 3


def test_fgir_mistakes():
    with pytest.raises(ValueError, match=r"images must be of an even B for 'cm', .*\(3, 3, 8, 8\)"):
        fgir.batch_augment(torch.rand(3, 3, 8, 8), torch.rand(3, 1, 4, 4), "cm")
    with pytest.raises(ValueError, match="mode must be 'crop', 'drop' or 'cm', but got 'zoom'"):
        fgir.batch_augment(torch.rand(2, 3, 8, 8), torch.rand(2, 1, 4, 4), "zoom")
    with pytest.raises(
        ValueError, match=r"attention_map must be of shape \(B, 1, h, w\) with B = 2"
    ):
        fgir.batch_augment(torch.rand(2, 3, 8, 8), torch.rand(2, 2, 4, 4))


@pytest.mark.parametrize("batch", [2, 3])
def test_one_tensor_is_not_unpacked(batch):
    """A step of CAL's with WS-DAN.PyTorch's BAP: an error, not rows taken for a pair."""
    pooled = guyuc.BAP()(torch.rand(batch, 3, 4, 4), torch.rand(batch, 5, 4, 4).requires_grad_())
    with pytest.raises(TypeError, match="unpacked: CAL's BAP, .* is wsdan_kernels.compat.cal.BAP"):
        _actual, _counterfactual = pooled
    assert pooled.shape == (batch, 15)
    assert len(pooled.unbind()) == batch
    for computed in (pooled * 100, pooled[0], pooled.detach(), torch.nn.functional.relu(pooled)):
        assert type(computed) is torch.Tensor
    (pooled * 100).sum().backward()


@pytest.mark.slow
def test_one_tensor_compiles():
    torch._dynamo.reset()
    features, maps = torch.rand(2, 3, 4, 4), torch.rand(2, 5, 4, 4)
    module = guyuc.BAP()
    compiled = torch.compile(lambda f, a: module(f, a) * 100, fullgraph=True, backend="eager")
    assert torch.equal(compiled(features, maps), module(features, maps) * 100)


@pytest.mark.parametrize("mode", ["crop", "drop"])
def test_theta_of_no_axes(mode):
    images, maps = torch.rand(3, 3, 16, 16), torch.rand(3, 1, 5, 5)
    for module in (guyuc, cal, fgir):
        expected = module.batch_augment(images, maps, mode, 0.5)
        for theta in (torch.tensor(0.5), torch.full((3,), 0.5), torch.tensor(0.5).double()):
            assert torch.equal(module.batch_augment(images, maps, mode, theta), expected)


@pytest.fixture
def fork(monkeypatch):
    """Modules of a fork of WS-DAN.PyTorch: models.wsdan, utils, and a script that imports them."""
    model, utils, script = ModuleType("models.wsdan"), ModuleType("utils"), ModuleType("train")
    model.BAP = type("BAP", (), {})
    utils.CenterLoss, utils.batch_augment = type("CenterLoss", (), {}), lambda images: images
    script.batch_augment, script.augment = utils.batch_augment, utils.batch_augment
    script.other = len
    for module in (ModuleType("models"), model, utils, script):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return model, utils, script


def test_install_replaces_and_undoes(fork):
    model, utils, script = fork
    before = [dict(vars(module)) for module in fork]
    with guyuc.install():
        assert model.BAP is guyuc.BAP
        assert utils.CenterLoss is guyuc.CenterLoss
        assert utils.batch_augment is script.batch_augment is guyuc.batch_augment
        assert script.augment is guyuc.batch_augment
        assert script.other is len
    assert [dict(vars(module)) for module in fork] == before
    installed = guyuc.install()  # for good
    assert model.BAP is guyuc.BAP
    installed.undo()
    with pytest.raises(RuntimeError, match="in the body"), guyuc.install():
        raise RuntimeError("in the body")
    assert [dict(vars(module)) for module in fork] == before


@pytest.mark.parametrize("name", list(PAGE))
def test_the_imports_of_the_page_run_the_published_step(name):
    """The names that a fork imports, in place of its own: the losses stay."""
    text = (ROOT / "docs" / "forks.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {PAGE[name]}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)[1]
    imports = [x.content for x in blocks_of(section) if "install" not in x.content]
    swapped = {}
    exec(imports[-1], swapped)
    swapped["BAP"] = swapped.pop("BAP_Counterfactual", swapped.get("BAP"))
    step, loops, _ = STEPS[name]
    stays = {"guyuc": {"choose_attention"}, "fgir": {"CenterLoss"}}.get(name, set())
    assert set(vars(loops)) - set(swapped) == stays
    mixed = SimpleNamespace(**{**vars(loops), **swapped})
    expected = published.losses(step, loops, torch.float64)
    for value, truth in zip(published.losses(step, mixed, torch.float64), expected, strict=True):
        assert abs(float(value - truth)) <= 1e-12 * abs(float(truth))


def test_the_line_of_the_page_installs(fork):
    page = (ROOT / "docs" / "forks.md").read_text(encoding="utf-8")
    (line,) = (block.content for block in blocks_of(page) if "install()" in block.content)
    exec(line, {})
    assert fork[0].BAP is guyuc.BAP and fork[2].batch_augment is guyuc.batch_augment


def test_install_names_what_is_not_there(fork):
    del fork[1].batch_augment
    with pytest.raises(ImportError, match="utils must define batch_augment, but has none"):
        guyuc.install()
    with pytest.raises(ImportError, match="no_such_model"):
        guyuc.install("no_such_model")
    del fork[1].CenterLoss
    fork[1].batch_augment = lambda images: images
    with guyuc.install():  # older versions have no CenterLoss
        assert not hasattr(fork[1], "CenterLoss")
