"""Soft clustering: its limits, its gradient through all rounds, and what is stored of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qat.kernels.geometry import vectors
from qat.modules.attach import quantize
from qat.modules.upkeep import after_step, parameter_groups, quantizer_parameters
from qat.recipe import RECIPES, Recipe
from qat.schemes import make_quantizer
from qat.schemes.common import clustering
from qat.schemes.common.clustering import Rule, cluster, cluster_gradients
from qat.schemes.common.codebook import Codebook
from qat.schemes.dkm import DkmQuantizer, GumbelQuantizer
from workloads.format import parse_format
from workloads.plan import Plan

torch.set_num_threads(1)


def recipe(temperature: float, iterations: int = 5, vector: str = "dkm") -> Recipe:
    changes = {"temperature": temperature, "iterations": iterations, "vector": vector}
    return RECIPES["dkm"].model_copy(update=changes)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Cluster(torch.autograd.Function):
    """The module's value and its gradient formula, as autograd checks them."""

    @staticmethod
    def forward(ctx, x, start, share, rule):
        value, ctx.trace = cluster(x, share, start, rule)
        ctx.save_for_backward(x, share)
        return value

    @staticmethod
    def backward(ctx, *grads):
        return *cluster_gradients(grads[0], *ctx.saved_tensors, ctx.trace), None, None


def plainly(x: Tensor, share: Tensor, start: Tensor, rule: Rule) -> Tensor:
    """The twin: the definition, for autograd, without parts, limits or early stop."""
    book, attention = start, torch.empty(0)
    for round_ in range(rule.iterations):
        logits = -(x[:, None] - book).square().sum(2) / rule.temperature
        if rule.noise is not None:
            logits = logits + rule.noise(round_, 0, (len(x), len(book)))
        attention = logits.softmax(1)
        book = (attention.T @ (share * x)) / (attention.T @ share)
    return attention @ book


def test_the_gradient_goes_through_all_rounds():
    x = gaussian(6, 2, seed=1).double().requires_grad_()
    start, share = (
        gaussian(3, 2, seed=2).double().requires_grad_(),
        torch.tensor([[1.0], [2], [0], [1], [1], [1]]).double(),
    )
    others = gaussian(3, 2, seed=3).double(), torch.tensor([[0.0], [0.5], [2]]).double()
    for rule in (Rule(0.7, 1), Rule(0.7, 3), Rule(0.7, 3, others=others)):
        assert torch.autograd.gradcheck(lambda x, start, rule=rule: Cluster.apply(x, start, share, rule), (x, start))


@pytest.mark.parametrize("keeps", [True, False])
def test_parts_and_recomputation_change_nothing(keeps, monkeypatch):
    x, start, share = gaussian(50, 4).double(), gaussian(8, 4, seed=1).double(), gaussian(50, 1).double().square()
    x.requires_grad_()
    rule, upstream = Rule(0.8, 4), gaussian(50, 4, seed=2).double()
    expected = plainly(x, share, start, rule)
    (of_x,) = torch.autograd.grad(expected, x, upstream)
    monkeypatch.setattr(clustering, "_PART_BYTES", 8 * 8 * 7)  # seven rows at a time
    monkeypatch.setattr(clustering, "MAX_BYTES", 1 << 20 if keeps else 0)
    value, trace = cluster(x.detach(), share, start, rule)
    assert len(trace.kept) == (4 if keeps else 0)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(cluster_gradients(upstream, x.detach(), share, trace)[0], of_x)


def test_at_no_temperature_a_round_is_a_step_of_lloyd():
    x, start = gaussian(200, 3), gaussian(5, 3, seed=1)
    value, trace = cluster(x, torch.ones(200, 1), start, Rule(1e-30, 1))
    nearest = ((x.numpy()[:, None] - start.numpy()) ** 2).sum(2).argmin(1)
    means = np.stack([x.numpy()[nearest == j].mean(0) for j in range(5)])
    np.testing.assert_allclose(trace.books[-1], means, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(value, means[nearest], rtol=1e-5, atol=1e-6)


def test_at_no_temperature_soft_and_stored_weights_are_equal_once_the_clusters_rest():
    fmt, weight = parse_format("vq-4x16-e8-s0"), gaussian(16, 64)
    quantizer = DkmQuantizer(fmt, weight, recipe(1e-30, 100))
    for step in range(3):
        quantizer(weight)
        quantizer.after_step(weight, step)
    soft, hard = quantizer(weight), quantizer.eval()(weight)
    assert (soft - hard).abs().max() < 0.02  # what rounding entries to 8 bits costs
    assert not quantizer.train()(weight.requires_grad_()).sum().backward() and torch.isfinite(weight.grad).all()


def test_rounds_end_when_no_entry_moves():
    centres = torch.tensor([[9.0, 0], [-9, 0], [0, 9]])
    x = (centres[:, None] + 0.1 * gaussian(3, 20, 2)).flatten(0, 1)
    assert len(cluster(x, torch.ones(60, 1), centres, Rule(0.01, 100))[1].masses) == 2  # there, and not further
    assert len(cluster(gaussian(60, 2), torch.ones(60, 1), centres, Rule(0.5, 4))[1].masses) == 4


@pytest.mark.parametrize("temperature", [1e-30, 1e-6, 1.0])
def test_vectors_far_from_every_entry_stay_finite_and_entries_without_attention_stay(temperature):
    x, start = 1e4 + gaussian(40, 4), torch.cat([gaussian(3, 4), torch.full((1, 4), -1e6)])
    value, trace = cluster(x, torch.ones(40, 1), start, Rule(temperature, 3))
    of_x, of_start = cluster_gradients(torch.ones_like(x), x, torch.ones(40, 1), trace)
    assert all(torch.isfinite(t).all() for t in (value, of_x, of_start))
    assert torch.equal(trace.books[-1][3], start[3]) and not trace.masses[-1][3]


@pytest.mark.parametrize(("name", "shape"), [("vq-4x16-e8-s0", (8, 64)), ("vq-4x16-e4-s1", (6, 3, 2, 3))])
def test_a_weight_is_its_mixture_and_gets_its_gradient(name, shape):
    """Against autograd, with the channel scales as constants; (6, 3, 2, 3) has padding and scale codes."""
    fmt, weight = parse_format(name), gaussian(*shape)
    quantizer = DkmQuantizer(fmt, weight, recipe(0.3, 3))
    latent = weight.clone().requires_grad_()
    out = quantizer(latent)
    out.backward(gaussian(*shape, seed=3))
    saved = quantizer.project(weight).saved

    def by_hand(w: Tensor) -> Tensor:
        scale = saved.weight_scale.view(-1, *[1] * (w.dim() - 1))
        x = vectors(w / scale, 4).flatten(0, 1) / saved.stretch
        rows = plainly(x, saved.share, quantizer.book.entries.detach(), Rule(0.3, 3)) * saved.stretch
        return rows.view(len(w), -1)[:, : w[0].numel()] * saved.value_scale[:, None]

    twin = weight.clone().requires_grad_()
    expected = by_hand(twin)
    in_rows = out.movedim(1, -1).reshape(len(out), -1)
    torch.testing.assert_close(in_rows, expected, rtol=1e-4, atol=1e-5)
    (of_twin,) = torch.autograd.grad(expected, twin, gaussian(*shape, seed=3).movedim(1, -1).reshape(len(out), -1))
    torch.testing.assert_close(latent.grad, of_twin, rtol=1e-3, atol=1e-4)


def test_the_scale_of_a_channel_is_restored():
    fmt, weight, factor = parse_format("vq-4x16-e8-s0"), gaussian(8, 64), 2.0 ** torch.arange(-4, 4)[:, None]
    first = DkmQuantizer(fmt, weight, recipe(0.3))
    second = DkmQuantizer(fmt, weight * factor, recipe(0.3))
    assert torch.equal(first(weight) * factor, second(weight * factor))


def test_the_book_is_no_parameter_and_is_left_where_the_last_forward_ended():
    fmt, weight = parse_format("vq-4x16-e8-s0"), gaussian(8, 64)
    quantizer = DkmQuantizer(fmt, weight, recipe(0.3, 2))
    before = quantizer.book.entries.detach().clone()
    assert quantizer.trained() == () and not quantizer.book.entries.requires_grad
    assert quantizer.after_step(weight, 0) == {}  # nothing was seen
    quantizer.eval()(weight)
    assert quantizer.after_step(weight, 0) == {} and torch.equal(quantizer.book.entries, before)
    quantizer.train()(weight)
    end = quantizer.project(weight).saved.trace.books[-1]
    assert torch.equal(quantizer.book.entries, before)  # a forward changes nothing that a forward depends on
    assert quantizer.after_step(weight, 0) == {"rounds": 2.0}
    torch.testing.assert_close(quantizer.book.entries.detach(), end)


def test_layers_that_share_a_book_cluster_all_their_vectors_together():
    fmt, weights = (
        parse_format("vq-4x16-e8-s0"),
        [gaussian(8, 64), 5 * gaussian(4, 32, seed=1), gaussian(6, 20, seed=2)],
    )
    book = Codebook.fit(fmt, weights)
    layers = [DkmQuantizer(fmt, w, recipe(0.5, 1), book) for w in weights]
    for step in range(200):
        for quantizer, weight in list(zip(layers, weights, strict=True))[: 2 if step % 3 == 2 else 3]:
            quantizer(weight)  # the third layer rests at times, and still counts
        for quantizer, weight in zip(layers, weights, strict=True):
            quantizer.after_step(weight, step)
    own = [quantizer.project(weight).saved for quantizer, weight in zip(layers, weights, strict=True)]
    x, share = torch.cat([one.x for one in own]), torch.cat([one.share for one in own])
    value, trace = cluster(x, share, book.entries.detach(), Rule(0.5, 1))
    torch.testing.assert_close(trace.books[-1], book.entries.detach(), atol=1e-3, rtol=0)  # at rest, all together
    torch.testing.assert_close(book.sums, trace.sums, atol=1e-2, rtol=0)
    alone = [cluster(one.x, one.share, book.entries.detach(), one.trace.rule)[0] for one in own]
    torch.testing.assert_close(torch.cat(alone), value, atol=1e-3, rtol=0)


def test_a_step_counts_once_however_often_its_weights_are_read():
    fmt, weight = parse_format("vq-4x16-e8-s0"), gaussian(8, 64)
    first, second = (DkmQuantizer(fmt, weight, recipe(0.3, 2)) for _ in range(2))
    for step in range(3):
        first(weight)
        second(weight)
        second(weight)
        first.after_step(weight, step)
        second.after_step(weight, step)
        assert torch.equal(first.book.sums, second.book.sums)
        assert torch.equal(first.book.entries, second.book.entries)
    assert torch.equal(first.book.sums, first.sums)
    assert first.book.counts.sum().item() == pytest.approx(8 * 16, rel=1e-5)  # of this step alone


@pytest.mark.parametrize("sharing", ["layer", "network"])
def test_training_moves_the_weights_and_what_is_stored_follows(sharing):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    x = gaussian(64, 8)
    y = torch.stack([x[:, 0] * x[:, 1], x[:, 2].abs(), x[:, 3], x[:, 4:].sum(1)], 1)
    plan = Plan.uniform(model, "vq-4x16-e8-s0").model_copy(update={"sharing": sharing})
    quantize(model, plan, recipe=RECIPES["dkm"])
    assert not any(parameter.requires_grad for parameter in quantizer_parameters(model))
    optimizer = torch.optim.Adam(parameter_groups(model, 0.03))
    losses = []
    for step in range(60):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        assert after_step(model, step)["rounds"] >= 2
    assert losses[-1] < 0.2 * losses[0]
    with torch.no_grad():
        assert (model.eval()(x) - y).square().mean().item() == pytest.approx(losses[-1], rel=0.05)


def test_gumbel_noise_repeats_for_a_step_and_changes_with_it():
    fmt, weight = parse_format("vq-4x16-e8-s0"), gaussian(8, 64)
    first, second = (GumbelQuantizer(fmt, weight, recipe(0.3, 2, "gumbel")) for _ in range(2))
    values = []
    for step in range(2):
        value = first(weight)
        assert torch.equal(value, second(weight)) and torch.equal(value, first(weight))
        values.append(value)
        first.after_step(weight, step)
        second.after_step(weight, step)
    second.book.load_state_dict(first.book.state_dict())
    second.steps.zero_()
    assert not torch.equal(first(weight), second(weight))  # one book, two steps
    assert torch.equal(first.eval()(weight), second.eval()(weight))  # what is stored has no noise


def test_gumbel_draws_entries_as_often_as_the_softmax_says():
    rule = GumbelQuantizer(parse_format("vq-4x16-e8-s0"), gaussian(8, 64), recipe(1.0, 1, "gumbel")).rule()
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5])
    assert rule.noise is not None
    drawn = (logits + rule.noise(0, 0, (100_000, 4))).argmax(1)
    torch.testing.assert_close(torch.bincount(drawn) / 1e5, logits.softmax(0), atol=0.005, rtol=0)


def test_gumbel_gradients_see_the_noise_of_their_forward():
    x, start, share = gaussian(30, 4).requires_grad_(), gaussian(8, 4, seed=1), torch.ones(30, 1)
    quantizer = GumbelQuantizer(parse_format("vq-4x16-e8-s0"), gaussian(8, 64), recipe(0.8, 3, "gumbel"))
    rule, upstream = quantizer.rule()._replace(others=None), gaussian(30, 4, seed=2)
    expected = plainly(x, share, start, rule)
    (of_x,) = torch.autograd.grad(expected, x, upstream)
    value, trace = cluster(x.detach(), share, start, rule)
    quantizer.after_step(gaussian(8, 64), 0)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(cluster_gradients(upstream, x.detach(), share, trace)[0], of_x, rtol=1e-4, atol=1e-5)


def test_several_books_and_foreign_books_are_refused():
    with pytest.raises(ValueError, match="2 codebooks per vector: must be 1 for dkm"):
        DkmQuantizer(parse_format("vq-4x16x2-e6-s0"), gaussian(8, 64), recipe(0.1))
    book = Codebook.fit(parse_format("vq-4x16-e5-s0"), [gaussian(8, 64)])
    with pytest.raises(ValueError, match="must be the same"):
        DkmQuantizer(parse_format("vq-4x16-e4-s0"), gaussian(8, 64), recipe(0.1), book)


@pytest.mark.parametrize("vector", ["dkm", "gumbel"])
def test_a_step_does_not_depend_on_the_number_of_threads(vector):
    weight, steps = gaussian(64, 72, 3, 3), []  # more than torch sums on one thread
    fmt = parse_format("vq-8x64-e8-s0")
    entries = gaussian(64, 8, seed=1)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            rule = recipe(0.05, 2, vector)
            quantizer = make_quantizer(fmt, weight, Codebook(fmt, entries, recipe=rule), rule)
            w = weight.clone().requires_grad_()
            value = quantizer(w)
            value.backward(torch.sin(100 * weight))
            quantizer.after_step(weight, 0)
            steps.append([value, w.grad, *quantizer.state_dict().values(), quantizer.encode(weight).codes])
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(*steps, strict=True))
