"""Lattice codes on weights: measured errors, scales that no neighbour beats, steps learned by the formula."""

from __future__ import annotations

from itertools import pairwise
from math import sqrt

import numpy as np
import pytest
import torch

from qat.kernels.geometry import per_channel, root_mean_square, vectors
from qat.recipe import RECIPES
from qat.schemes.lattice import LatticeQuantizer
from workloads.format import parse_format

torch.set_num_threads(1)


def gaussian(shape: tuple[int, ...] = (16, 64), seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("d4-q2", 0.361), ("d4-q3", 0.173), ("d4-q4", 0.1024), ("e8-q2", 0.325), ("e8-q3", 0.156), ("e8-q4", 0.0929),
     ("e8p", 0.091), ("e8-r4", 0.191), ("z4-q4", 0.1195), ("a2-q4", 0.115), ("e8-q4-h64", 0.0929)],
)  # fmt: skip
def test_the_error_on_gaussian_weights_is_the_codes(name, expected):
    w = gaussian((8, 8000))
    value = LatticeQuantizer(parse_format(name), w)(w).detach()
    assert float((value - w).square().mean() / w.square().mean()) == pytest.approx(expected, rel=0.03)


def test_a_rotation_makes_heavy_tails_gaussian():
    w = torch.from_numpy(np.random.default_rng(0).standard_t(3, (16, 1024)).astype(np.float32))
    errors = []
    for name in ("e8-q4", "e8-q4-h256"):
        value = LatticeQuantizer(parse_format(name), w)(w).detach()
        errors.append(float((value - w).square().mean() / w.square().mean()))
    assert errors[1] < 0.105 < errors[0]


def test_the_searched_scale_beats_its_neighbours():
    w = gaussian()
    quantizer = LatticeQuantizer(parse_format("e8-q4"), w)
    best, factor = (quantizer(w) - w).square().flatten(1).sum(1), quantizer.factor.clone()
    for times in (0.8, 1.25):
        quantizer.factor.copy_(factor * times)
        assert (quantizer(w) - w).square().flatten(1).sum(1).mean() > best.mean()
    quantizer.refresh(w)
    assert torch.equal(quantizer.factor, factor)


@pytest.mark.parametrize(("name", "radix", "digits"), [("e8-q4", 4, 1), ("e8-q4m2", 4, 2), ("d4-q2", 2, 1)])
def test_the_published_scale_is_c_b_deviations(name, radix, digits):
    w = gaussian()
    quantizer = LatticeQuantizer(parse_format(name), w, RECIPES["sigma"])
    scaled = root_mean_square(w, quantizer.fmt) / (quantizer.scale(w) * quantizer.code.grid)
    torch.testing.assert_close(scaled, torch.full((16,), 0.15 * (radix**digits - 1)))


@pytest.mark.parametrize("name", ["d4-q4", "e8-q4", "e8-q3-t"])
def test_the_gradient_of_a_learned_step_is_lsqs_on_blocks(name):
    w = gaussian().requires_grad_()
    quantizer = LatticeQuantizer(parse_format(name), w.detach(), RECIPES["learned-scale"])
    assert quantizer.step is not None
    quantizer.step.data.mul_(0.7)  # some blocks are overloaded
    upstream = gaussian(seed=1)
    quantizer(w).backward(upstream)
    assert torch.equal(w.grad, upstream)
    scale = quantizer.scale(w.detach())
    ratio = w.detach() / per_channel(scale, w)
    d = quantizer.code.dimension
    blocks = vectors(ratio, d).flatten(0, 1) / quantizer.code.grid
    overloaded = torch.from_numpy(quantizer.code.encode(blocks.numpy())[1])
    assert 0 < overloaded.float().mean() < 1
    z = vectors(quantizer.project(w.detach()).integers, d).flatten(0, 1)
    slope = torch.where(overloaded[:, None], z, z - vectors(ratio, d).flatten(0, 1)) * vectors(upstream, d).flatten(
        0, 1
    )
    per_output = slope.view(16, -1).sum(1)
    expected = per_output / sqrt(64) if len(scale) > 1 else per_output.sum(0, keepdim=True) / sqrt(w.numel())
    torch.testing.assert_close(quantizer.step.grad, expected, rtol=1e-4, atol=1e-5)


def test_scales_grow_until_the_overload_is_bounded():
    w = gaussian()
    quantizer = LatticeQuantizer(parse_format("e8-q4"), w, RECIPES["low-overload"])
    shares = [quantizer.after_step(w, step)["overload_share"] for step in range(30)]
    assert shares[0] > 0.1 and shares[-1] <= 0.01
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(shares))
    assert shares[-1] == quantizer.overload(w)
