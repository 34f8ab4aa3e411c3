"""The universal codebook: its error, its file, its one hash; and choices that end one by one, without a jump."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qat.kernels.geometry import vectors
from qat.modules.attach import quantize
from qat.modules.attached import encode_model
from qat.modules.upkeep import after_step, parameter_groups
from qat.recipe import RECIPES, Recipe
from qat.schemes.common.codebook import Codebook, nearest
from qat.schemes.common.universal_book import (
    PER_TENSOR,
    balanced_sample,
    book_sha256,
    kde_entries,
    load_book,
    save_book,
    universal_book,
)
from qat.schemes.universal import DROP_RATIO, UniversalQuantizer, finish, nearest_candidates, ratio_penalty
from workloads.errors import InputError
from workloads.format import parse_format
from workloads.plan import Plan

torch.set_num_threads(1)
SMALL = "vq-4x64-e4-s0"


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def error(entries: Tensor, num: int = 2000) -> float:
    x = gaussian(num, entries.shape[1], seed=99)
    return float((x - entries[nearest(x, entries)]).square().mean())


def make(name: str = SMALL, candidates: int = 8, shape: tuple[int, ...] = (8, 64)) -> tuple[UniversalQuantizer, Tensor]:
    weight = gaussian(*shape)
    recipe = RECIPES["universal"].model_copy(update={"candidates": candidates})
    return UniversalQuantizer(parse_format(name), weight, recipe, small_book(name)), weight


def small_book(name: str = SMALL) -> Codebook:
    return universal_book(parse_format(name), [gaussian(32, 64, seed=s) for s in range(3)], seed=5)


# --- the book ---


@pytest.mark.parametrize(
    ("d", "num", "scale", "expected"),
    [
        (8, 65536, 1.0, 0.0944),
        (16, 65536, 1.0, 0.339),
        (16, 65536, 0.8, 0.312),
        (8, 256, 1.0, 0.377),
        (8, 256, 0.8, 0.358),
    ],
)
def test_kernel_density_books_have_the_measured_error_on_gaussian_weights(d, num, scale, expected):
    entries = kde_entries(gaussian(60_000, d), num)
    assert error(scale * entries, 2000 if num > 256 else 10_000) == pytest.approx(expected, rel=0.03)


def test_its_rivals_have_theirs():
    weights = [gaussian(64, 1024, seed=s) for s in range(4)]
    kmeans = universal_book(parse_format("vq-8x256-e8-s0"), weights, "kmeans").stored()
    assert error(kmeans.integers * kmeans.unit, 10_000) == pytest.approx(0.327, rel=0.03)
    e8p = universal_book(parse_format("vq-8x65536-e8-s0"), [], "e8p").stored()
    assert error(e8p.integers * e8p.unit) == pytest.approx(0.0910, rel=0.03)


def test_draws_have_the_moments_of_the_kernel_density():
    points = torch.tensor([[-1.0, 0], [1, 0], [1, 0], [-1, 0]]) + torch.tensor([3.0, 2])
    drawn = kde_entries(points, 200_000)
    h = 4 ** (-1 / 6)
    torch.testing.assert_close(drawn.mean(0), torch.tensor([3.0, 2]), atol=0.01, rtol=0)
    torch.testing.assert_close(drawn.var(0), torch.tensor([1 + h * h, 0]), atol=0.02, rtol=0)


def test_every_tensor_counts_alike_whatever_its_size_or_magnitude():
    fmt = parse_format(SMALL)
    weights = [1e-3 * gaussian(100, 1200), 50 * gaussian(8, 40, seed=1), torch.zeros(8, 8)]
    found = balanced_sample(fmt, weights)
    assert len(found) == PER_TENSOR + 80
    torch.testing.assert_close(found[:PER_TENSOR].std(), found[PER_TENSOR:].std(), rtol=0.1, atol=0)
    with pytest.raises(ValueError, match="must have vectors"):
        balanced_sample(fmt, [torch.zeros(8, 8)])


@pytest.mark.parametrize(("name", "kind"), [("vq-4x16x2-e6-s0", "kde"), ("linear-4", "kde"), (SMALL, "e8p")])
def test_formats_that_do_not_fit_are_refused(name, kind):
    with pytest.raises(ValueError, match="must be"):
        universal_book(parse_format(name), [gaussian(8, 64)], kind)


def test_a_book_comes_back_from_its_file_bit_for_bit(tmp_path):
    book = small_book()
    save_book(book, tmp_path / "book.safetensors")
    again = load_book(tmp_path / "book.safetensors")
    assert torch.equal(book.stored().integers, again.stored().integers)
    assert torch.equal(book.stored().unit, again.stored().unit)
    assert book_sha256(book) == book_sha256(again) and (again.seed, again.fmt) == (5, book.fmt)
    assert book_sha256(small_book()) == book_sha256(book)
    save_book(again, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "book.safetensors").read_bytes()


def test_files_that_are_no_book_are_named(tmp_path):
    path = tmp_path / "book.safetensors"
    with pytest.raises(InputError, match=r"book\.safetensors"):
        load_book(path)
    save_book(small_book(), path)
    whole = path.read_bytes()
    for damaged, message in [
        (whole[:50], "whole file"),
        (whole[:-1] + bytes([whole[-1] ^ 1]), "sha256"),
        (whole.replace(b"vq-4x64-e4-s0", b"vq-4x32-e4-s0"), "tensors"),
        (whole.replace(b"vq-4x64-e4-s0", b"vq-4x64-?4-s0"), "unknown format"),
        (whole.replace(b"cimsim_book", b"cimsim_cook"), "header"),
    ]:
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=message):
            load_book(path)


def test_one_file_serves_several_networks_and_training_never_changes_it(tmp_path):
    networks = [nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4)), nn.Sequential(nn.Conv2d(4, 8, 3))]
    weights = [layer.weight for network in networks for layer in network if hasattr(layer, "weight")]
    fmt = parse_format(SMALL)
    save_book(universal_book(fmt, weights), tmp_path / "rom.safetensors")
    rom = book_sha256(load_book(tmp_path / "rom.safetensors"))
    inputs = [gaussian(8, 16), gaussian(2, 4, 5, 5)]
    for recipe in (RECIPES["universal"], Recipe()):  # another scheme must not touch it either
        for network, x in zip(networks, inputs, strict=True):
            model, book = copy.deepcopy(network), load_book(tmp_path / "rom.safetensors")
            quantize(model, Plan.uniform(model, SMALL), recipe=recipe, books={SMALL: book})
            optimizer = torch.optim.AdamW(parameter_groups(model, 0.1, 0.1))
            before = {name: one.codes for name, one in encode_model(model).items()}
            for step in range(3):
                optimizer.zero_grad()
                model(x).square().sum().backward()
                optimizer.step()
                after_step(model, step)
            finish(model)
            after = encode_model(model)
            assert any(not torch.equal(before[name], one.codes) for name, one in after.items())
            assert all(book_sha256(book) == rom and torch.equal(one.table, book.table()) for one in after.values())


# --- the choice ---


def test_candidates_are_the_nearest_different_entries():
    x, entries = gaussian(300, 4).mul(3).round(), gaussian(40, 4, seed=1).mul(2).round()  # with ties and repeats
    entries[7] = entries[3]
    found, distances = nearest_candidates(x, entries, 5)
    away = (x[:, None] - entries).square().sum(2)
    away[:, [bool((entries[:k] == entries[k]).all(1).any()) for k in range(40)]] = torch.inf
    expected = away.sort(dim=1, stable=True)
    torch.testing.assert_close(distances, expected.values[:, :5].sqrt())
    torch.testing.assert_close(away.gather(1, found.long()), distances.square())
    assert torch.equal(found[:, 0].long(), expected.indices[:, 0]) and found.dtype == torch.int32
    assert all(len(set(row)) == 5 for row in found.tolist())
    assert nearest_candidates(x, entries[:1], 5)[0].shape == (300, 1)


def test_padding_does_not_choose():
    entries = torch.tensor([[1.0, 1, 9, 9], [1, 2, 0, 0]])
    real = torch.tensor([[True, True, False, False]])
    assert nearest_candidates(torch.tensor([[1.0, 1, 0, 0]]), entries, 1, real)[0].tolist() == [[0]]
    assert nearest_candidates(torch.tensor([[1.0, 1, 0, 0]]), entries, 1)[0].tolist() == [[1]]


def test_ratios_start_in_proportion_to_nearness_and_sum_to_one():
    quantizer, weight = make()
    entries = quantizer.book.stored().integers
    v = vectors(weight / quantizer.scale[:, None], 4).flatten(0, 1)
    near = 1 / (v[:, None] - entries[quantizer.candidates.long()]).norm(dim=2)
    ratios = quantizer.ratios().detach()
    torch.testing.assert_close(ratios, near / near.sum(1, keepdim=True), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(ratios.sum(1), torch.ones(len(ratios)))


def test_the_scale_suits_the_nearest_entries_and_is_held():
    quantizer, weight = make("vq-8x256-e8-s0", shape=(64, 512))
    hard = quantizer.eval()(weight).detach()
    along = (hard * (weight - hard)).sum(1) / hard.square().sum(1)  # 0 where choice and scale have come to rest
    assert along.abs().mean() < 0.01
    relative = float((hard - weight).square().sum() / weight.square().sum())
    assert relative == pytest.approx(0.358, rel=0.03)  # the rescaled book of the table above
    scale = quantizer.scale.clone()
    with torch.no_grad():
        quantizer.logits.mul_(-1)
    assert torch.equal(quantizer.encode(weight).scale, scale)


@pytest.mark.parametrize("name", [SMALL, "vq-4x64-e4-s1"])
def test_the_logits_get_the_gradient_of_the_mixture_and_the_weight_none(name):
    quantizer, weight = make(name)
    for parameter in (weight.requires_grad_(), quantizer.logits):
        parameter.grad = None
    quantizer(weight).backward(gaussian(8, 64, seed=4))
    entries, multiples = quantizer.book.stored().integers, quantizer.multiples
    mixture = (quantizer.ratios()[..., None] * entries[quantizer.candidates.long()]).sum(1)
    value = (mixture if multiples is None else mixture * multiples).view(8, 64) * quantizer.scale[:, None]
    (expected,) = torch.autograd.grad(value, quantizer.logits, gaussian(8, 64, seed=4))
    assert quantizer.logits.grad is not None and weight.grad is not None and not weight.grad.any()
    torch.testing.assert_close(quantizer(weight), value)
    torch.testing.assert_close(quantizer.logits.grad, expected, rtol=1e-4, atol=1e-6)


def test_a_vector_freezes_above_the_ratio_without_a_jump_and_for_good():
    quantizer, weight = make()
    entries = (
        quantizer.book.stored().integers[quantizer.candidates.long()]
        * quantizer.scale.repeat_interleave(16)[:, None, None]
    )
    with torch.no_grad():
        quantizer.logits.mul_(torch.linspace(1, 40, 128)[:, None])
        ratios = quantizer.ratios()
        before = vectors(quantizer(weight), 4).flatten(0, 1)
        found = quantizer.after_step(weight, 0)
        after = vectors(quantizer(weight), 4).flatten(0, 1)
    frozen = quantizer.is_frozen
    assert torch.equal(frozen, ratios.amax(1) > 0.9999) and 0 < frozen.sum() < 128
    assert found == {"frozen": float(frozen.sum()), "vectors": 128.0}
    winner = entries[torch.arange(128), ratios.argmax(1)]
    farthest = (entries - winner[:, None]).norm(dim=2).amax(1)
    jump = (after - before).norm(dim=1)
    assert (jump[frozen] <= (1 - 0.9999) * farthest[frozen] + 1e-6).all()
    assert torch.equal(after[frozen], winner[frozen])

    weight.requires_grad_()
    quantizer(weight).backward(gaussian(8, 64, seed=4))
    assert not quantizer.logits.grad[frozen].any() and quantizer.logits.grad[~frozen].any()
    with torch.no_grad():
        quantizer.logits.copy_(gaussian(128, 8))  # whatever happens to the logits
        quantizer.after_step(weight, 1)
    assert quantizer.is_frozen[frozen].all()
    assert torch.equal(vectors(quantizer(weight), 4).flatten(0, 1)[frozen], winner[frozen])


def test_candidates_with_hardly_any_ratio_are_dropped_but_two_remain():
    quantizer, weight = make()
    with torch.no_grad():
        quantizer.logits.zero_()
        quantizer.logits[:, 2:] = -20
        quantizer.logits[0, 1:] = -8.5  # the first is at 0.9986: not frozen yet
    before = quantizer.ratios().detach()
    quantizer.after_step(weight, 0)
    assert not quantizer.is_frozen.any() and (quantizer.is_open.sum(1)[1:] == 2).all()
    assert (quantizer.is_open | (before < DROP_RATIO)).all()
    assert not quantizer.ratios().detach()[1:, 2:].any()


def test_finishing_makes_the_rest_of_the_choices_and_tells_how_many_were_made():
    model = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 4))
    quantize(model, Plan.uniform(model, SMALL), recipe=RECIPES["universal"], books={SMALL: small_book()})
    assert 0 < ratio_penalty(model).item() < 1
    found = [module for module in model.modules() if isinstance(module, UniversalQuantizer)]
    with torch.no_grad():
        found[0].logits[:16, 0] += 60
    after_step(model, 0)
    assert finish(model) == 16 / 40
    assert ratio_penalty(model).item() == 0
    x = gaussian(5, 16)
    assert torch.equal(model(x), model.eval()(x))  # training sees the stored weight from here on
    assert finish(model) == 1.0


def test_the_penalty_is_its_formula_and_ends_every_choice():
    model = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 4))
    quantize(model, Plan.uniform(model, SMALL), recipe=RECIPES["universal"], books={SMALL: small_book()})
    found = [module for module in model.modules() if isinstance(module, UniversalQuantizer)]
    ratios = np.concatenate([q.ratios().detach().numpy() for q in found])
    assert ratio_penalty(model).item() == pytest.approx((ratios * (1 - ratios)).sum(1).mean(), rel=1e-5)
    optimizer = torch.optim.Adam([q.logits for q in found], lr=0.5)
    frozen = []
    for step in range(100):
        optimizer.zero_grad()
        ratio_penalty(model).backward()
        optimizer.step()
        frozen.append(after_step(model, step)["frozen"])
    assert frozen == sorted(frozen) and frozen[-1] == 40 > frozen[0]


def test_statistics_report_the_choices():
    quantizer, weight = make()
    assert quantizer.statistics(weight)["frozen_share"] == 0 and quantizer.statistics(weight)["open_candidates"] == 8
    quantizer.finish()
    assert quantizer.statistics(weight)["frozen_share"] == 1 == quantizer.statistics(weight)["open_candidates"]
