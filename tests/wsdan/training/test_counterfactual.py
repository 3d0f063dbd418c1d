"""Counterfactual training against CAL's published computation (arXiv:2108.08728)."""

import pytest
import torch
from tape import NoWaiting
from torch.nn import functional as F

from wsdan.networks.model import WSDAN
from wsdan.training.objective import wsdan_objective

LABELS = torch.tensor([0, 1, 2, 1])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return WSDAN("tiny", num_classes=3, num_attentions=4)


def random_images(count=4, size=48):
    return torch.randn((count, 3, size, size), generator=torch.Generator().manual_seed(1))


def published_pass(model, images, fakes):
    """A forward pass as CAL defines it, with the random maps `fakes(maps)`.

    Returns the logits, the logits less those under the random maps, and the pooled features.
    """
    features = model.backbone(images)
    maps = model.attention(features)
    area = features.shape[2] * features.shape[3]

    def pooled(weights):
        product = torch.einsum("bmhw,bchw->bmc", weights, features).flatten(1) / area
        root = product.sign() * (product.abs() + model.pool.options["eps"]).sqrt()
        return F.normalize(root, dim=1)

    real, fake = pooled(maps), pooled(fakes(maps))
    logits = F.linear(100 * real, model.classifier.weight, model.classifier.bias)
    effect = logits - F.linear(100 * fake, model.classifier.weight, model.classifier.bias)
    return logits, effect, real


def published_loss(model, images, crops, drops, fakes):
    """CAL's loss: the raw view has weight 1/3, both other views 2/3, the effects 1."""
    raw_logits, raw_effect, pooled = published_pass(model, images, fakes)
    view_logits, view_effects, _ = published_pass(model, torch.cat([crops, drops]), fakes)
    centers = F.normalize(model.centers.centers[LABELS], dim=1)
    effects = torch.cat([raw_effect, view_effects])
    counterfactual = F.cross_entropy(effects, LABELS.repeat(3))
    loss = (
        F.cross_entropy(raw_logits, LABELS) / 3
        + F.cross_entropy(view_logits, LABELS.repeat(2)) * 2 / 3
        + counterfactual * 3 / 3
        + F.mse_loss(pooled, centers, reduction="sum") / len(images)
    )
    return loss, counterfactual


def uniform_maps(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda maps: torch.empty_like(maps).uniform_(0, 2, generator=generator)


def gradients(model) -> dict:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_the_loss_and_its_gradients_are_the_published_ones(model):
    images = random_images()
    model.centers.centers.normal_(generator=torch.Generator().manual_seed(5))
    centers = model.centers.centers.clone()
    uniforms = torch.rand((4, 4), generator=torch.Generator().manual_seed(2))
    result = wsdan_objective(
        model,
        images,
        LABELS,
        joint_views=True,
        counterfactual=1.0,
        uniforms=uniforms,
        generator=torch.Generator().manual_seed(3),
    )
    result["loss"].backward()
    found = gradients(model)
    model.zero_grad()
    model.centers.centers.copy_(centers)
    loss, counterfactual = published_loss(
        model, images, result["crops"], result["drops"], uniform_maps(3)
    )
    loss.backward()
    torch.testing.assert_close(result["loss"], loss)
    torch.testing.assert_close(result["counterfactual"], counterfactual)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("joint_views", [False, True])
def test_the_weight_of_the_term(model, joint_views):
    """The loss is what it is without the term, plus the weight times the term."""
    losses = {}
    model.eval()  # ones instead of random maps, and fixed statistics of batch norm
    for weight in (0.0, 0.25, 1.0):
        model.centers.centers.zero_()
        losses[weight] = wsdan_objective(
            model,
            random_images(),
            LABELS,
            joint_views=joint_views,
            counterfactual=weight,
            label_smoothing=0.1,
            uniforms=torch.full((4, 4), 0.5),
        )
    assert "counterfactual" not in losses[0.0]
    for weight in (0.25, 1.0):
        term = losses[weight]["counterfactual"]
        assert term > 0
        torch.testing.assert_close(losses[weight]["loss"], losses[0.0]["loss"] + weight * term)


def test_the_effect_in_evaluation_is_against_ones(model):
    model.eval()
    with torch.no_grad():
        output = model(random_images(), counterfactual=True)
        plain = model(random_images())
        logits, effect, _ = published_pass(model, random_images(), torch.ones_like)
    torch.testing.assert_close(output.effect, effect)
    torch.testing.assert_close(output.logits, logits)
    torch.testing.assert_close(output.logits, plain.logits)
    assert plain.effect is None


def test_random_maps_follow_the_generator(model):
    model.train()
    effects = [
        model(random_images(), True, torch.Generator().manual_seed(seed)).effect
        for seed in (4, 4, 5)
    ]
    assert torch.equal(effects[0], effects[1])
    assert not torch.equal(effects[0], effects[2])


def test_without_the_term_no_random_number_is_drawn(model):
    torch.manual_seed(7)
    wsdan_objective(model, random_images(), LABELS, uniforms=torch.full((4, 4), 0.5))
    drawn = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(1))


@pytest.mark.parametrize("attention", ["conv", "slice"])
def test_features_are_pooled_once(attention):
    """One pooling per forward pass, with both sets of maps."""
    torch.manual_seed(0)
    model = WSDAN("tiny", num_classes=3, num_attentions=4, attention=attention)
    shapes = []
    model.pool.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[1].shape[1]))
    wsdan_objective(model, random_images(), LABELS, counterfactual=1.0)
    assert shapes == [8, 8, 8]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_term_waits_for_nothing_and_reaches_every_weight(model, dtype):
    """In float32 and under autocast."""
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32), NoWaiting():
        result = wsdan_objective(model, random_images(), LABELS, counterfactual=1.0)
    assert result["counterfactual"].dtype == torch.float32
    result["counterfactual"].backward()
    for name, parameter in model.named_parameters():
        if name != "classifier.bias":  # the effect is a difference of logits
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name
