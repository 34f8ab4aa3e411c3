"""Mixtures of formats and activation quantizers: values and gradients as the written formulas."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
import torch
from torch import Tensor

from qat.activations.quantizer import ActivationQuantizer
from qat.kernels.linear import dot
from qat.modules.mixture import Mixture
from qat.schemes import Quantizer, make_quantizer
from tests.helpers.gradients import gradients
from workloads.activation import whole_number
from workloads.errors import RunError
from workloads.format import parse_format

torch.set_num_threads(1)
MIX = ("linear-8", "linear-2", "vq-4x16-e4-s0", "d4-q4")


def mixture(**options) -> tuple[Mixture, Tensor]:
    weight = 0.1 * torch.randn((16, 6, 5, 5), generator=torch.Generator().manual_seed(0))
    mix = Mixture({name: make_quantizer(parse_format(name), weight) for name in MIX}, **options)
    mix.alpha.data.copy_(torch.tensor([0.3, -0.2, 0.5, 0.1]))
    return mix, weight


def candidate(mix: Mixture, name: str) -> Quantizer:
    found = mix.candidates[MIX.index(name)]
    assert isinstance(found, Quantizer)
    return found


def test_a_soft_mixture_and_its_gradients_are_the_written_sums():
    mix, weight = mixture()
    mix.temperature = 0.7
    mix.mask(["linear-8", "linear-2", "vq-4x16-e4-s0"])
    upstream, grad = gradients(mix, weight)
    alpha = mix.alpha.detach().clone().requires_grad_()
    p = (alpha[:3] / 0.7).softmax(0)
    values = [candidate(mix, name)(weight).detach() for name in MIX[:3]]
    expected = sum(p[f] * values[f] for f in range(3))
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(mix(weight), expected)
    expected.backward(upstream)
    torch.testing.assert_close(mix.alpha.grad, alpha.grad)
    assert torch.equal(grad, upstream)
    for f, name in enumerate(MIX[:3]):
        alone = make_quantizer(parse_format(name), weight)
        gradients(alone, weight)
        for mixed, single in zip(candidate(mix, name).parameters(), alone.parameters(), strict=True):
            assert single.grad is not None
            torch.testing.assert_close(mixed.grad, p.detach()[f] * single.grad)


def test_a_hard_mixture_is_one_candidate_with_the_gates_gradient():
    mix, weight = mixture(seed=3)
    names = [mix.sample(step) for step in range(400)]
    assert names == [mix.sample(step) for step in range(400)]
    share = np.array([names.count(name) for name in MIX]) / 400
    np.testing.assert_allclose(share, mix.probabilities().detach().numpy(), atol=0.08)
    chosen = mix.sample(0)
    torch.testing.assert_close(mix(weight), candidate(mix, chosen)(weight))
    upstream, _ = gradients(mix, weight)
    p = mix.probabilities().detach()
    along = torch.stack([(upstream * candidate(mix, name)(weight)).sum() for name in MIX]).detach()
    torch.testing.assert_close(mix.alpha.grad, p * (along - (p * along).sum()), rtol=1e-4, atol=1e-5)
    mix.soften()
    assert mix.weights().max() < 1


def test_a_masked_candidate_has_no_share_and_no_gradient():
    mix, weight = mixture()
    mix.mask(["linear-2", "d4-q4"])
    gradients(mix, weight)
    assert mix.probabilities()[[0, 2]].tolist() == [0, 0]
    assert mix.alpha.grad is not None and mix.alpha.grad[[0, 2]].tolist() == [0, 0]
    assert candidate(mix, "vq-4x16-e4-s0").trained()[0].grad is None
    assert mix.best() == "d4-q4"
    with pytest.raises(ValueError, match="must be some of"):
        mix.mask([])


def test_values_are_kept_for_refresh_every_training_steps():
    mix, weight = mixture(refresh_every=3)
    first = mix(weight)
    assert torch.equal(mix(2 * weight), first) and torch.equal(mix(2 * weight), first)
    assert not torch.equal(mix(2 * weight), first)
    torch.testing.assert_close(mix.eval()(weight), mixture()[0](weight))


def test_products_of_a_mixture_do_not_depend_on_the_number_of_threads():
    weight = 0.1 * torch.randn((256, 64, 3, 3), generator=torch.Generator().manual_seed(0))
    mix = Mixture({name: make_quantizer(parse_format(name), weight) for name in MIX})
    steps = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            mix.zero_grad()
            w = weight.clone().requires_grad_()
            value = mix(w)
            value.backward(torch.sin(100 * weight))
            steps.append([value, w.grad, *(parameter.grad for parameter in mix.parameters())])
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(*steps, strict=True))


@pytest.mark.parametrize("shape", [(5, 6, 3, 3), (7, 9000)])
def test_the_product_of_two_weights_is_the_twins(shape):
    a, b = torch.randn((2, *shape), generator=torch.Generator().manual_seed(0))
    expected = (a.double() * b.double()).sum()
    for other in (b, b.transpose(0, 1).contiguous().transpose(0, 1)):  # of the same layout, and of another
        torch.testing.assert_close(torch.tensor(dot(a, other)).double(), expected, rtol=1e-4, atol=1e-3)
    assert dot(a.double(), b.double()) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_activation_gradients_are_lsqs(bits):
    quantizer, x = ActivationQuantizer(whole_number(bits)), torch.randn(6, 3, 5)
    quantizer.calibrate(x)
    low, high = quantizer.bounds
    assert (low, high) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    upstream, grad = gradients(quantizer, x)
    ratio = x / quantizer.step.detach()
    is_inside = (ratio >= low) & (ratio <= high)
    integers = (ratio + 0.5).floor().clamp(low, high)
    torch.testing.assert_close(quantizer(x), integers * quantizer.step)
    assert torch.equal(grad, upstream * is_inside)
    slope = torch.where(is_inside, integers - ratio, integers)
    expected = (upstream * slope).sum() / sqrt(15 * max(high, 1))
    torch.testing.assert_close(quantizer.step.grad, expected, rtol=1e-4, atol=1e-5)


def test_bytes_over_255_pass_exactly():
    quantizer, images = ActivationQuantizer(whole_number(8)), torch.arange(256) / 255
    quantizer.freeze(1 / 255)
    quantizer.calibrate(images[:100])
    assert torch.equal(quantizer.integers(images), torch.arange(256.0))
    assert not quantizer.step.requires_grad and quantizer.bounds == (0, 255)


def test_calibration_finds_a_step_near_the_best():
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0)).relu()
    quantizer = ActivationQuantizer(whole_number(4))
    quantizer.calibrate(x)
    error = (quantizer(x).detach() - x).square().mean()
    for times in (0.8, 1.25):
        quantizer.step.data.mul_(times)
        assert (quantizer(x).detach() - x).square().mean() > error
        quantizer.step.data.div_(times)
    quantizer.freeze(0.5)
    assert float(quantizer.scale()) == 0.5 and not quantizer.step.requires_grad


def test_activations_need_calibration_on_finite_samples():
    quantizer = ActivationQuantizer(whole_number(8))
    with pytest.raises(RunError, match="calibrate the model first"):
        quantizer(torch.ones(3))
    with pytest.raises(ValueError, match="must be finite"):
        quantizer.calibrate(torch.tensor([float("nan")]))
    quantizer.calibrate(torch.zeros(5))
    assert (quantizer(torch.zeros(5)) == 0).all()
