"""Post-training quantization: its formulas, what it gains, and that training starts from exactly what it chose."""

from __future__ import annotations

import copy
from math import prod

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import qat
from qat.kernels.geometry import vectors
from qat.modules.attach import quantize
from qat.modules.attached import attached
from qat.post_training.hessians import collect, columns_of
from qat.post_training.ptq import METHODS, ptq, ptq_weight, release
from qat.post_training.rounding import (
    candidates,
    compensated,
    hold_best_scale,
    inverse_factor,
    propagate,
    turned_hessian,
)
from qat.quantizer import Quantizer
from qat.recipe import RECIPES, Recipe
from qat.schemes import make_quantizer
from workloads.errors import InputError
from workloads.format import parse_format
from workloads.plan import Plan

torch.set_num_threads(1)
CASES = [
    ("linear-4", "default"), ("linear-3", "default"), ("linear-2", "default"), ("linear-4-t", "default"),
    ("linear-1", "default"), ("vq-4x256-e4-s0", "euclid"), ("vq-4x256-e4-s0", "cosine"), ("vq-4x64-e4-s1", "euclid"),
    ("vq-4x16x2-e6-s0", "euclid"), ("vq-8x256x2-e6-s0", "euclid"), ("e8-q4", "default"), ("d4-q4", "learned-scale"),
    ("e8-q4m2", "default"), ("e8-q2", "wrap"), ("linear-3-g32", "default"), ("linear-2-odd", "default"),
    ("e8-q4-h8", "default"), ("vq-4x64-e4-s0-h64", "euclid"), ("vq-4x16-e4-s0-out", "euclid"),
    ("vq-8x64-e4-s0-kernel", "cosine"), ("vq-4x64-e4-s1-abs-t", "euclid"), ("pool-128", "default"),
    ("pool-32-p0", "default"),
]  # fmt: skip
HEEDING = [("vq-4x256-e4-s0", "euclid"), ("vq-8x256-e4-s0", "cosine"), ("e8-q4", "default"), ("d4-q4", "default")]


def correlated(inputs: int, groups: int = 1, seed: int = 0) -> Tensor:
    """H [g, I, I] of rectified sums of a few hidden variables, each input with a size of its own."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn((groups, 1024, inputs // 2), generator=generator)
    x = hidden @ torch.randn((groups, inputs // 2, inputs), generator=generator) / inputs**0.5
    x = (x + 0.3 * torch.randn(x.shape, generator=generator)).relu()
    x = (x * torch.empty((groups, 1, inputs)).uniform_(0.1, 1, generator=generator)).double()
    return x.mT @ x


def make(name: str, recipe: str, shape: tuple[int, ...] = (64, 128)) -> tuple[Quantizer, Tensor]:
    weight = 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return make_quantizer(parse_format(name), weight, recipe=RECIPES[recipe]), weight


def channel_errors(quantized: Tensor, weight: Tensor, hessian: Tensor) -> Tensor:
    """|X (q - w)^T|^2 of each channel, of one group."""
    error = (quantized - weight).detach().double()
    return ((error @ hessian[0]) * error).sum(1)


def output_error(quantized: Tensor, weight: Tensor, hessian: Tensor) -> float:
    """|X (q - w)^T|^2 over |X w^T|^2."""
    error, rows = (vectors(w.detach().double(), 1).reshape(len(hessian), -1, hessian.shape[-1])
                   for w in (quantized - weight, weight))  # fmt: skip
    return float(((error @ hessian) * error).sum() / ((rows @ hessian) * rows).sum())


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_gptq_lowers_the_output_error_and_the_forward_is_what_is_stored(name, recipe):
    (quantizer, weight), hessian = make(name, recipe), correlated(128)
    nearest = output_error(quantizer.encode(weight).decode(), weight, hessian)
    latent = ptq_weight(quantizer, weight, hessian)
    value, stored = quantizer(latent), quantizer.encode(latent).decode()
    assert torch.equal(value, stored)
    assert output_error(value, weight, hessian) < 0.85 * nearest
    if name != "vq-8x256x2-e6-s0":  # sums of too many entries to try all: a decoded vector may encode to another
        assert torch.equal(latent, value)


@pytest.mark.parametrize("shape", [(48, 5, 3, 3), (12, 70)])
@pytest.mark.parametrize(
    ("name", "recipe"), [*CASES[1:4], *CASES[5:11], ("vq-9x16-e4-s0-kernel", "cosine"), ("vq-4x16-e4-s0-out", "cosine")]
)
def test_the_weights_value_is_what_was_chosen_padded_vectors_too(name, recipe, shape):
    (quantizer, weight), hessian = make(name, recipe, shape), correlated(prod(shape[1:]))
    other, ours = copy.deepcopy(quantizer), turned_hessian(hessian, weight.shape, quantizer.fmt)
    hold_best_scale(other, weight, ours)
    chosen, _ = compensated(other, weight, ours)
    latent = ptq_weight(quantizer, weight, hessian)
    assert torch.equal(quantizer.project(latent).integers, chosen)


@pytest.mark.parametrize("name", ["linear-3", "vq-4x16-e4-s0", "d4-q4"])
def test_the_blocked_propagation_is_the_plain_one(name):
    """The twin solves for the best later weights anew after each choice, from the Hessian of what is left."""
    (quantizer, weight), hessian = make(name, "euclid", (6, 264)), correlated(264)
    quantizer.hold(quantizer.encode(weight).scale)
    assert quantizer.held is not None
    scale, d, table = quantizer.held, quantizer.fmt.vector_length, candidates(quantizer)
    damped = hessian[0] + 0.01 * hessian[0].diagonal().mean() * torch.eye(264)
    rows, expected = weight.double().clone(), torch.zeros_like(weight)
    for j in range(0, 264, d):
        own, later = slice(j, j + d), slice(j + d, None)
        part, left = rows[:, own], damped[j:, j:].inverse()
        if table is None:
            expected[:, own] = (part / scale[:, None]).float().round().clamp(-4, 3) * scale[:, None]
        else:
            error = part[:, None] / scale[:, None, None] - table
            cost = torch.einsum("okd,de,oke->ok", error, left[:d, :d].inverse(), error)
            expected[:, own] = table[cost.argmin(1)] * scale[:, None]
        rows[:, later] -= (part - expected[:, own]) @ left[:d, :d].inverse() @ left[:d, d:]
    found = propagate(quantizer, weight.double()[None], inverse_factor(hessian))[0] * scale[:, None]
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["linear-4", "linear-2-g16", "vq-4x256-e4-s0", "vq-4x16x2-e6-s0", "e8-q2", "d4-q4-h4"])
def test_with_inputs_alike_and_uncorrelated_each_choice_is_the_nearest(name):
    quantizer, weight = make(name, "euclid")
    hessian = 7 * torch.eye(128, dtype=torch.float64)[None]
    found = {method: ptq_weight(copy.deepcopy(quantizer), weight, hessian, method) for method in METHODS[1:]}
    assert all(torch.equal(found["gptq"], latent) for latent in found.values())
    error = output_error(found["gptq"], weight, hessian)
    scales = [quantizer.encode(weight).scale * factor for factor in (0.4, 0.6, 0.8, 0.9, 1, 1.1, 1.3)]
    for scale in scales:
        quantizer.hold(scale)
        assert error <= output_error(quantizer(weight), weight, hessian)


@pytest.mark.parametrize("name", ["linear-8", "linear-3", "linear-2-t", "vq-4x16-e4-s0-flat", "e8-q2-h8", "pool-128"])
def test_clipping_finds_the_scale_of_least_output_error_and_then_fits_it(name):
    (quantizer, weight), hessian = make(name, "default"), correlated(128)
    own = quantizer.encode(weight)
    tried = []
    for factor in (1, *(2 ** (k / 8) for k in range(-20, 5))):
        quantizer.hold(own.scale * factor)
        tried.append(channel_errors(quantizer(weight), weight, hessian))
    best = torch.stack(tried if own.scale.numel() > 1 else [error.sum() for error in tried]).amin(0).sum()
    latent = ptq_weight(quantizer, weight, hessian, "clip")
    found = channel_errors(quantizer(latent), weight, hessian).sum()
    assert found <= best * (1 + 1e-6) < channel_errors(own.decode(), weight, hessian).sum()
    assert quantizer.held is not None
    quantizer.hold(quantizer.held * 1.01)  # the codes stay, the scale was the best for them
    assert channel_errors(quantizer(latent * 1.01), weight, hessian).sum() > found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "recipe"), HEEDING)
def test_choices_by_the_diagonal_lower_the_weighted_error_and_gptq_the_whole(name, recipe, seed):
    (quantizer, weight), hessian = make(name, recipe), correlated(128, seed=seed)
    diagonal = hessian.diagonal(dim1=1, dim2=2).diag_embed()
    nearest = quantizer.encode(weight).decode()
    weighted = ptq_weight(copy.deepcopy(quantizer), weight, hessian, "hessian")
    assert output_error(weighted, weight, diagonal) < 0.97 * output_error(nearest, weight, diagonal)
    whole = ptq_weight(quantizer, weight, hessian, "gptq")
    assert output_error(whole, weight, hessian) < output_error(weighted, weight, hessian)


@pytest.mark.parametrize(("groups", "shape"), [(4, (8, 4, 3, 3)), (12, (12, 1, 3, 3)), (1, (8, 3, 3, 3))])
@pytest.mark.parametrize("name", ["linear-2", "vq-4x16-e4-s0", "e8-q2"])
def test_each_group_of_a_convolution_has_its_own_hessian(name, groups, shape):
    (quantizer, weight), inputs = make(name, "euclid", shape), shape[1] * 9
    hessian = correlated(inputs, groups)
    nearest = output_error(quantizer.encode(weight).decode(), weight, hessian)
    latent = ptq_weight(quantizer, weight, hessian)
    assert torch.equal(quantizer(latent), quantizer.encode(latent).decode())
    assert output_error(quantizer(latent), weight, hessian) < nearest
    if name == "linear-2":  # a scale per channel: groups know nothing of each other
        per_group = shape[0] // groups
        own = make_quantizer(quantizer.fmt, weight[-per_group:])
        assert torch.equal(ptq_weight(own, weight[-per_group:], hessian[-1:]), latent[-per_group:])


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(4, 8, (3, 2), stride=2, groups=2, padding=(2, 0)),
        nn.Conv2d(4, 4, 3, dilation=2, groups=4, padding="same", padding_mode="reflect"),
        nn.Conv1d(4, 6, 5, stride=3, padding=2, padding_mode="circular"), nn.Conv3d(4, 2, 2, groups=2),
    ],
)  # fmt: skip
def test_columns_times_weights_are_the_layers_outputs(layer):
    x = torch.randn(2, 4, *[9] * len(layer.kernel_size), dtype=torch.float64)
    layer = copy.deepcopy(layer).double()
    out = layer(x) - layer.bias.view(-1, *[1] * len(layer.kernel_size))
    rows = vectors(layer.weight, 1).reshape(layer.groups, -1, layer.weight[0].numel())
    found = torch.stack([(rows @ columns).flatten(0, 1) for columns in columns_of(layer, x)])
    torch.testing.assert_close(found.view_as(out), out)


class Small(nn.Module):
    """Plain, depthwise and linear, the last one used twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, stride=2, groups=16)
        self.norm = nn.BatchNorm2d(16)
        self.last = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.depthwise(self.first(x).relu())).relu().mean((2, 3))
        return self.last(self.last(x).relu())


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    coarse = [torch.randn((16, 3, 5, 5), generator=generator) for _ in range(3)]
    return [(functional.interpolate(x, scale_factor=2.0, mode="bilinear"), torch.zeros(16)) for x in coarse]


@pytest.mark.parametrize(
    ("name", "recipe"),
    [("linear-3", "default"), ("linear-1", "default"), ("vq-4x16-e4-s0", "euclid"), ("vq-4x16-e4-s0", "cosine"),
     ("e8-q4", "default"), ("d4-q4", "learned-scale")],
)  # fmt: skip
def test_a_model_gains_and_trains_on_from_there(name, recipe):
    images, errors, models = batches(), {}, {}
    wanted = Small().eval()(images[0][0])
    for method in ("nearest", "gptq"):
        model = Small()
        assert ptq(model, Plan.uniform(model, name), images, method, recipe=RECIPES[recipe]) is model
        assert model.training and not model._forward_hooks.keys() & model.last._forward_hooks.keys()
        models[method], errors[method] = model, float((model.eval()(images[0][0]) - wanted).square().mean().detach())
    assert errors["gptq"] < errors["nearest"]
    model = models["gptq"].train()
    before = {layer: encoded.codes for layer, encoded in qat.encode_model(model).items()}
    values = {one.name: one.quantizer(one.weight) for one in attached(model)}
    release(model)
    for one in attached(model):
        assert one.quantizer.held is None
        if recipe != "euclid":
            torch.testing.assert_close(one.quantizer(one.weight), values[one.name], rtol=1e-4, atol=1e-6)
    optimizer = torch.optim.Adam(qat.parameter_groups(model, 1e-2))
    losses, target = [], 1 - wanted.detach()  # far from what it gives: PTQ left little to learn of the rest
    for step in range(20):
        loss = (model.eval()(images[0][0]) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        qat.after_step(model, step)
        losses.append(float(loss.detach()))
    assert min(losses) < losses[0]
    after = qat.encode_model(model)
    assert any(not torch.equal(after[layer].codes, codes) for layer, codes in before.items())


def test_the_same_seed_gives_the_same_bytes_and_nearest_is_quantize():
    runs = [ptq(Small(), Plan.uniform(Small(), "vq-4x16-e4-s0"), batches(), seed=5) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*(run.state_dict().values() for run in runs), strict=True))
    plan = Plan.uniform(Small(), "vq-4x16-e4-s0")
    plain, nearest = quantize(Small(), plan, seed=5), ptq(Small(), plan, batches(), "nearest", seed=5)
    assert all(torch.equal(a, nearest.state_dict()[key]) for key, a in plain.state_dict().items())


def test_a_layer_learns_from_inputs_that_quantized_layers_before_it_give():
    model, images = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)), [torch.randn(64, 16)]
    latent = model.state_dict()["2.weight"].clone()
    fresh = quantize(copy.deepcopy(model), plan := Plan.uniform(model, "linear-2"))
    ptq(model, plan, images)
    last = list(attached(model))[1]
    seen = collect(model, {id(last.quantizer)}, [(images[0],)], lambda x: x @ x.mT)[id(last.quantizer)]
    expected = ptq_weight(list(attached(fresh))[1].quantizer, latent, seen)
    assert torch.equal(last.weight.detach(), expected)


def test_embeddings_stay_nearest():
    model = nn.Sequential(nn.Embedding(10, 16), nn.Linear(16, 8))
    before = model.state_dict()["0.weight"].clone()
    ptq(model, Plan.uniform(model, "vq-4x16-e4-s0"), [torch.arange(10)])
    assert torch.equal({one.name: one.weight for one in attached(model)}["0"], before)


def test_a_weight_tied_to_an_embedding_learns_from_its_linear_layer_alone():
    model = nn.Sequential(nn.Embedding(16, 16), nn.Linear(16, 16), nn.Linear(16, 16))
    model[2].weight = model[0].weight
    before = model.state_dict()["0.weight"].clone()
    ptq(model, Plan.uniform(model, "linear-2"), [torch.arange(16)])
    tied = {one.name: one for one in attached(model)}
    assert tied["0"].quantizer is tied["2"].quantizer
    assert not torch.equal(tied["0"].weight, before)


def test_attention_is_done_projection_by_projection():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    x, plan = torch.randn(8, 5, 16), Plan.uniform(model, "linear-2")
    wanted = model(x)
    nearest, gptq = (ptq(copy.deepcopy(model), plan, x, method) for method in ("nearest", "gptq"))
    assert (gptq(x) - wanted).square().mean() < (nearest(x) - wanted).square().mean()


def test_inputs_that_are_never_there_do_no_harm():
    (quantizer, weight), hessian = make("linear-3", "default"), correlated(128)
    hessian[:, 5:40], hessian[:, :, 5:40] = 0, 0
    assert torch.isfinite(ptq_weight(quantizer, weight, hessian)).all()
    assert torch.isfinite(ptq_weight(quantizer, weight, torch.zeros(1, 128, 128))).all()


@pytest.mark.parametrize(
    ("name", "recipe", "message"),
    [
        ("vq-4x16-e4-s0-flat", Recipe(), "without -flat"),
        ("linear-4", RECIPES["dorefa"], "scheme dorefa"), ("vq-4x16-e4-s0", RECIPES["dkm"], "scheme dkm"),
    ],
)  # fmt: skip
def test_what_gptq_does_not_serve_is_refused_before_anything_changes(name, recipe, message):
    model = nn.Sequential(nn.Linear(128, 128))
    with pytest.raises(InputError, match=message):
        ptq(model, Plan.uniform(model, name), [torch.randn(4, 128)], recipe=recipe)
    assert not list(attached(model))
    with pytest.raises(ValueError, match=message):
        ptq_weight(make_quantizer(parse_format(name), torch.randn(128, 128), recipe=recipe), torch.randn(128, 128),
                   correlated(128))  # fmt: skip


def test_unknown_methods_unseen_layers_and_turned_layers_are_named():
    model, plan = nn.Sequential(nn.Linear(8, 8)), Plan.uniform(nn.Sequential(nn.Linear(8, 8)), "linear-4")
    with pytest.raises(InputError, match="method = 'best': must be one of nearest, hessian, clip, gptq"):
        ptq(model, plan, [torch.randn(4, 8)], "best")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="batches: must hold at least one"):
        ptq(model, plan, [])
    turned = nn.Sequential(nn.ConvTranspose1d(8, 8, 2))
    with pytest.raises(InputError, match=r"layers\.0: is a ConvTranspose1d"):
        ptq(turned, Plan.uniform(turned, "linear-4"), [torch.randn(1, 8, 8)])
    with pytest.raises(InputError, match=r"layers\.0: its inputs must be finite"):
        ptq(model, plan, torch.full((4, 8), torch.nan))
    model.add_module("unseen", nn.Identity())
    model[1].layer = nn.Linear(8, 8)
    with pytest.raises(InputError, match=r"layers\.unseen\.layer: no batch reaches it"):
        ptq(model, Plan.uniform(model, "linear-4"), [torch.randn(4, 8)])
    assert not list(attached(model))
