"""Chains of operators and the model under torch.compile and torch.export."""

import pytest
import torch

import wsdan_kernels as wk
from wsdan import WSDAN
from wsdan.training.objective import training_views

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()


def step(features, attentions, images, uniforms, centers, labels):
    """Every operator of a training step, in its order."""
    pooled = wk.bilinear_attention_pool(features, attentions).flatten(1)
    picks = wk.sample_attention(attentions, 2, uniforms=uniforms)
    rows = torch.arange(attentions.shape[0])
    crops, drops = wk.attention_crop_drop(
        images,
        attentions[rows, picks[:, 0]],
        attentions[rows, picks[:, 1]],
        crop_threshold=0.5,
        drop_threshold=0.3,
    )
    views, boxes = wk.attention_refine(images, attentions)
    loss = wk.center_loss(pooled, centers, labels)
    wk.update_centers_(centers, pooled, labels)
    return loss + pooled.sum() + crops.mean() + drops.mean() + views.mean(), boxes


def test_a_whole_step_with_dynamic_shapes():
    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch, size in ((2, 4), (3, 5), (5, 7)):
        results = []
        for function in (step, compiled):
            generator = torch.Generator().manual_seed(batch)
            features = torch.randn(batch, 3, size, size, generator=generator, requires_grad=True)
            attentions = torch.rand(batch, 4, size, size, generator=generator, requires_grad=True)
            images = torch.rand(batch, 3, 8 * size, 8 * size, generator=generator)
            uniforms = torch.rand(batch, 2, generator=generator)
            centers = torch.randn(6, 12, generator=generator)
            labels = torch.randint(6, (batch,), generator=generator)
            loss, boxes = function(features, attentions, images, uniforms, centers, labels)
            loss.backward()
            results.append((loss.detach(), boxes, features.grad, attentions.grad, centers))
        for eager, traced in zip(*results, strict=True):
            torch.testing.assert_close(traced, eager)


def test_the_random_draws_are_traced():
    compiled = torch.compile(wk.sample_attention, fullgraph=True, backend="aot_eager")
    for batch in (2, 3):  # the second size is traced as one that may change
        picks = compiled(torch.rand(batch, 3, 4, 4), 50)
        assert picks.shape == (batch, 50)
        assert set(picks.unique().tolist()) == {0, 1, 2}


def test_the_training_views_are_traced():
    compiled = torch.compile(training_views, fullgraph=True, backend="aot_eager")
    for batch in (2, 3):
        views = compiled(torch.rand(batch, 3, 32, 32), torch.rand(batch, 3, 4, 4))
        assert [view.shape for view in views] == [(batch, 3, 32, 32)] * 2


def test_the_model_compiles_and_exports():
    torch.manual_seed(0)
    model = WSDAN("tiny", num_classes=4, num_attentions=4).eval()
    images = torch.rand(2, 3, 64, 64)
    expected = model(images).logits.detach()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images).logits, expected)
    program = torch.export.export(model, (images,)).module()
    torch.testing.assert_close(program(images).logits, expected)
