"""Parity with the published implementations: their outputs stand in tests/golden (its README).

The full set of cases is larger than a repository should hold; where it is at hand, in
WSDAN_GOLDEN or in ../shared/golden, it is used too.
"""

import importlib.util
import random
from pathlib import Path

import numpy as np
import torch
from golden import (
    FOLDERS,
    assert_gradient_parity,
    assert_parity,
    check_refined_boxes,
    check_views,
    load,
    named,
    pooled_with_gradients,
    runnable,
)
from parity import GPU, deterministic

import wsdan_kernels as wk
from wsdan_kernels.compat import guyuc, paper

HERE = Path(__file__).parent


def test_the_gpus_kernels_are_among_what_runs():
    for op in ("bilinear_attention_pool", "center_loss", "update_centers_"):
        names = dict(runnable(op))
        assert names["reference"] == "cpu"
        if importlib.util.find_spec("triton") is not None:
            assert names["triton"] == GPU


def test_the_repository_holds_a_case_of_each_kind():
    kinds = {path.stem.rstrip("0123456789_") for path in FOLDERS[0].glob("*.npz")}
    assert kinds == {
        "bap_cal_eval",
        "bap_max_guyuc",
        "bap_mean_resized_attention_guyuc",
        "bap_mean_seed",
        "bap_mean_signed",
        "center_duplicates_accumulate",
        "center_seed",
        "crop_drop_guyuc",
        "crop_drop_seed",
        "crop_drop_wvinzh",
        "fgir_bap",
        "fgir_views",
        "refine_seed",
        "wvinzh_center",
    }


@named("bap_m")
def test_pooling_and_its_gradients(name):
    case = load(name)
    reduce = "max" if "max" in name else "mean"
    exact = pooled_with_gradients(case, reduce, "reference", torch.float64)
    for backend, device in runnable("bilinear_attention_pool"):
        with deterministic(filled=False):  # torch's resize has atomics in its gradient on a GPU
            output, *gradients = pooled_with_gradients(case, reduce, backend, device=device)
            again = pooled_with_gradients(case, reduce, backend, device=device)
        if backend != "reference":  # torch's scatter_add is not deterministic on every device
            assert all(map(torch.equal, (output, *gradients), again))
        assert_parity(output, case["output"])
        truths = (case["grad_features"], case["grad_attentions"])
        for value, truth, right in zip(gradients, truths, exact[1:], strict=True):
            assert_gradient_parity(value, truth, right)


@named("bap_m")
def test_compat_pooling_modules(name):
    case = load(name)
    module = guyuc.BAP("GMP" if "max" in name else "GAP")
    assert_parity(module(case["features"], case["attentions"]), case["output"])
    if name.startswith("bap_mean_s"):
        raw, scaled = paper.BAP()(case["features"], case["attentions"])
        assert_parity(raw, case["output"])
        assert_parity(scaled, 100 * case["output"])


@named("bap_cal")
def test_counterfactual_pooling_in_one_call(name):
    case = load(name)
    features, attentions = case["features"], case["attentions"]
    both = torch.cat((attentions, torch.ones_like(attentions)), dim=1)
    pooled = wk.bilinear_attention_pool(features, both, eps=case["eps"], groups=2)
    actual, counterfactual = pooled.chunk(2, dim=1)
    assert_parity(actual.flatten(1), case["output"])
    assert_parity(counterfactual.flatten(1), case["counterfactual"])
    assert_parity(guyuc.BAP(eps=case["eps"])(features, attentions), case["output"])


@named("crop_drop")
def test_views(name):
    for backend, device in runnable("attention_boxes"):
        check_views(name, backend, device)


@named("refine")
def test_refine(name):
    case = load(name)
    for backend, device in runnable("attention_boxes"):
        check_refined_boxes(case, backend, device)
    assert_parity(paper.mask2bbox(case["attentions"], case["images"]), case["crop"])


@named("crop_drop_guyuc")
def test_compat_batch_augment(name, monkeypatch):
    case = load(name)
    rows = torch.arange(case["images"].shape[0])
    for column, mode in enumerate(("crop", "drop")):
        maps = case["attentions"][rows, case["picks"][:, column]][:, None]
        thetas = iter(case["thetas"][:, column].tolist())
        monkeypatch.setattr(random, "uniform", lambda low, high, thetas=thetas: next(thetas))
        limits = (0.4, 0.6) if mode == "crop" else (0.2, 0.5)
        views = guyuc.batch_augment(case["images"], maps, mode=mode, theta=limits)
        assert_parity(views, case[mode])
    mean = case["attentions"].mean(1, keepdim=True)
    refined = guyuc.batch_augment(case["images"], mean, theta=0.1, padding_ratio=0.05)
    assert_parity(refined, case["refined"])


@named("crop_drop_seed")
def test_compat_listing(name, monkeypatch):
    """The listing's functions, steered to the recorded picks and thresholds."""
    case = load(name)
    weights = case["attentions"].mean((2, 3)).sqrt().double()
    ends = weights.cumsum(1) / weights.sum(1, keepdim=True)
    middles = ends - weights / weights.sum(1, keepdim=True) / 2
    uniforms = middles.gather(1, case["picks"]).numpy()
    images, attentions = case["images"], case["attentions"]

    def steer(columns):
        thetas = iter(case["thetas"][:, columns].flatten().tolist())
        monkeypatch.setattr(np.random, "random_sample", lambda shape: uniforms[:, columns])
        monkeypatch.setattr(random, "uniform", lambda low, high: next(thetas))

    for function in (paper.attention_crop_drop, paper.attention_crop_drop2):
        steer([0, 1])
        crops, drops = function(attentions, images)
        assert_parity(crops, case["crop"])
        assert torch.equal(drops, case["drop"])
    steer([0])
    assert_parity(paper.attention_crop(attentions, images), case["crop"])
    steer([1])
    assert torch.equal(paper.attention_drop(attentions, images), case["drop"])


def test_compat_draws_like_the_published_loop():
    """The same seeds pick the same maps as numpy.random.choice does in the published loop."""
    attentions = torch.rand((6, 5, 4, 4), generator=torch.Generator().manual_seed(0))
    weights = attentions.mean((2, 3)).sqrt().double()
    weights = (weights / weights.sum(1, keepdim=True)).numpy()
    np.random.seed(3)
    expected = [[np.random.choice(5, 1, p=row)[0] for _ in range(2)] for row in weights]
    np.random.seed(3)
    (first, second), _ = paper._draw(attentions, ((0.4, 0.6), (0.2, 0.5)))
    for b, (i, j) in enumerate(expected):
        assert torch.equal(first[b], attentions[b, i])
        assert torch.equal(second[b], attentions[b, j])


@named("center")
def test_centers(name):
    case = load(name)
    beta = case["beta"]
    for backend, device in (("auto", "cpu"), *runnable("center_loss")):
        features, centers, labels = (
            case[key].to(device, copy=True) for key in ("features", "centers", "labels")
        )
        loss = wk.center_loss(features.requires_grad_(), centers, labels, backend=backend)
        loss.backward()
        assert_parity(loss.cpu(), torch.tensor(case["loss"]))
        if "grad_features" in case:
            assert_parity(features.grad.cpu(), case["grad_features"])
        detached = features.detach()
        updated = wk.update_centers_(centers, detached, labels, beta=beta, backend=backend)
        assert_parity(updated.cpu(), case["updated_centers"])
    centers, labels = case["centers"], case["labels"]
    twin_loss, diff = paper.calculate_pooling_center_loss(case["features"], centers, labels, beta)
    assert_parity(twin_loss, torch.tensor(case["loss"]))
    assert_parity(diff, case["diff"])


def test_compat_center_loss():
    """WS-DAN.PyTorch's CenterLoss against its definition."""
    outputs = torch.randn(4, 7, generator=torch.Generator().manual_seed(1))
    targets = torch.ones(4, 7)
    expected = sum((outputs[b] - targets[b]).square().sum() for b in range(4)) / 4
    torch.testing.assert_close(guyuc.CenterLoss()(outputs, targets), expected)
