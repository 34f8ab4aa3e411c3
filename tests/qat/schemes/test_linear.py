"""Linear schemes: LSQ, one bit and DoReFa as their papers have them, in every granularity; the kernel and its twin."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
import torch
from torch import Tensor

from qat.kernels.linear import quantize_rows, quantize_rows_torch, rows_gradient, rows_gradient_torch
from qat.quantizer import Quantizer
from qat.recipe import RECIPES, Recipe
from qat.schemes import make_quantizer
from qat.schemes.common.levels import LARGEST, levels_of, spread
from qat.schemes.dorefa import DorefaQuantizer
from qat.schemes.linear import LinearQuantizer
from tests.contracts.test_contract import by_codec
from tests.helpers.gradients import gradients
from workloads.format import parse_format

torch.set_num_threads(1)
GRANULARITIES = ["", "-t", "-g5", "-g5-t", "-odd", "-odd-t", "-odd-g5", "-odd-g5-t"]


def make(
    name: str, recipe: str | Recipe = "default", shape: tuple[int, ...] = (16, 6, 3, 3)
) -> tuple[Quantizer, Tensor]:
    weight = 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    recipe = RECIPES[recipe] if isinstance(recipe, str) else recipe
    return make_quantizer(parse_format(name), weight, recipe=recipe), weight


def lsq(name: str) -> tuple[LinearQuantizer, Tensor]:
    quantizer, weight = make(name)
    assert isinstance(quantizer, LinearQuantizer)
    return quantizer, weight


def multiples_of(quantizer: LinearQuantizer, weight: Tensor) -> Tensor:
    """The multiple of each weight, read off the stored codes: a sixteenth of it is its share of the step."""
    codes = quantizer.encode(weight).scale_codes
    if codes is None:
        return torch.full_like(weight, LARGEST)
    return spread(codes.float(), quantizer.fmt.group, weight.shape)


@pytest.mark.parametrize("layout", ["plain", "channels_last", "holes", "float64"])
@pytest.mark.parametrize("shape", [(7, 3), (5, 3, 4, 2), (4, 1, 6, 6), (2, 9000)])
@pytest.mark.parametrize("name", ["linear-2", "linear-8", "linear-1", "linear-3-odd"])
def test_the_kernel_equals_its_twin(name, shape, layout):
    levels, generator = levels_of(parse_format(name)), torch.Generator().manual_seed(sum(shape))
    w, grad = (5 * torch.randn(shape, generator=generator) for _ in range(2))
    w.flatten()[:5] = 0.25 * torch.tensor([levels.low, levels.high, 1.5, 2.0, -0.5])  # borders and ties
    scale = torch.rand(shape[0], generator=generator) + 0.5
    scale[0] = 0.25
    if layout == "channels_last" and len(shape) == 4:
        w, grad = (t.contiguous(memory_format=torch.channels_last) for t in (w, grad))
    if layout == "holes":
        w = torch.stack([w, w], -1)[..., 0]
    if layout == "float64":
        w, grad, scale = w.double(), grad.double(), scale.double()
    for s in (scale, scale[:1]):
        assert torch.equal(quantize_rows(w, s, levels), quantize_rows_torch(w, s, levels))
        (grad_w, slope), (twin_w, twin_slope) = (f(grad, w, s, levels) for f in (rows_gradient, rows_gradient_torch))
        assert torch.equal(grad_w, twin_w)
        torch.testing.assert_close(slope, twin_slope, rtol=1e-4, atol=1e-3)


def test_a_gradient_in_another_layout_is_read_by_position():
    levels, scale = levels_of(parse_format("linear-4")), torch.full((3,), 0.2)
    w, grad = torch.randn(3, 4, 5, 6).contiguous(memory_format=torch.channels_last), torch.randn(3, 4, 5, 6)
    fast, plain = rows_gradient(grad, w, scale, levels), rows_gradient_torch(grad, w, scale, levels)
    assert torch.equal(fast[0], plain[0])
    torch.testing.assert_close(fast[1], plain[1])


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_lsq_gradients_are_the_papers(bits, granularity):
    """Equations 3 and 5, with N the weights that share a step, and the step of a group its share of the step."""
    quantizer, weight = lsq(f"linear-{bits}{granularity}")
    assert quantizer.step is not None
    is_odd, is_shared = "odd" in granularity, granularity.endswith("-t")
    low, high = (1 - 2**bits, 2**bits - 1) if is_odd else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    quantizer.step.data.mul_(0.6)
    quantizer.step.data[0] *= -1  # only its size counts
    upstream, grad = gradients(quantizer, weight)
    share, expected = multiples_of(quantizer, weight) / LARGEST, torch.zeros(16)
    for o in range(16):
        ratio = weight[o] / (quantizer.step.detach()[0 if is_shared else o].abs() * share[o])
        is_inside = (ratio >= low) & (ratio <= high)
        level = 2 * (ratio / 2).floor() + 1 if is_odd else ratio.round()
        slope = torch.where(is_inside, level.clamp(low, high) - ratio, ratio.clamp(low, high))
        expected[o] = (upstream[o] * slope * share[o]).sum()
        torch.testing.assert_close(grad[o], upstream[o] * is_inside)
    if is_shared:
        expected = expected.sum(0, keepdim=True)
    expected = expected * quantizer.step.detach().sign() / sqrt(weight.numel() / len(expected) * high)
    torch.testing.assert_close(quantizer.step.grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("granularity", ["", "-t"])
def test_steps_start_as_the_paper_has_them(granularity):
    for bits in (2, 4):
        quantizer, weight = lsq(f"linear-{bits}{granularity}")
        sizes = weight.abs().mean((0, 1, 2, 3) if granularity else (1, 2, 3))
        torch.testing.assert_close(quantizer.step, (2 * sizes / sqrt(2 ** (bits - 1) - 1)).view(-1), check_dtype=False)
    quantizer, weight = lsq("linear-2-odd" + granularity)  # levels lie two steps apart
    between = 2 * weight.abs().mean((0, 1, 2, 3) if granularity else (1, 2, 3)) / sqrt(2)
    torch.testing.assert_close(2 * quantizer.step.detach(), between.view(-1))


@pytest.mark.parametrize(("name", "is_shared"), [("linear-1", False), ("linear-1-t", True)])
def test_one_bit_is_the_sign_times_the_mean_size(name, is_shared):
    quantizer, weight = lsq(name)
    size = weight.abs().mean() if is_shared else weight.abs().mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(quantizer(weight), weight.sign() * size)
    upstream, grad = gradients(quantizer, weight)
    assert torch.equal(grad, upstream) and not list(quantizer.parameters())
    assert quantizer.fmt.array_bits == 2  # plus and minus one


@pytest.mark.parametrize("name", ["linear-4-g5", "linear-1-g8", "linear-3-odd-g32", "linear-4-g7-t"])
@pytest.mark.parametrize("recipe", ["lsq", "searched-step", "ewgs"])
def test_groups_follow_their_sizes(name, recipe):
    """Half of the channels are large: their groups have large multiples, and the least error is less than without."""
    shape, grouped = (8, 40, 2, 2), parse_format(name)
    weight = 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    weight[:, :20] *= 8
    plain = parse_format(name.replace(f"-g{grouped.group}", ""))
    errors = []
    for fmt in (grouped, plain):
        quantizer = make_quantizer(fmt, weight, recipe=RECIPES[recipe])
        encoded = quantizer.encode(weight)
        np.testing.assert_array_equal(quantizer(weight).detach().numpy(), by_codec(encoded))
        errors.append((encoded.decode() - weight).square().sum())
        if fmt.group:
            multiples = encoded.scale_codes
            assert multiples is not None and multiples.shape == fmt.scale_shape(shape)
            assert multiples.min() >= 1 and multiples.max() == LARGEST
            quantizer.hold(encoded.scale)
            again = quantizer.encode(encoded.decode())
            assert torch.equal(again.codes, encoded.codes) and torch.equal(again.scale, encoded.scale)
    assert errors[0] < errors[1] or recipe != "searched-step"  # the others do not start at the least error


def test_multiples_are_kept_until_refreshed():
    quantizer, weight = lsq("linear-4-g6")
    first = quantizer.encode(weight).scale_codes
    other = weight.clone()
    other[:, :2] *= 20  # of each position's first two channels
    assert torch.equal(quantizer.encode(other).scale_codes, first)
    quantizer.refresh(other)
    codes = quantizer.encode(other).scale_codes
    assert codes is not None and not torch.equal(codes, first)
    assert "multiples" in quantizer.state_dict()


@pytest.mark.parametrize(
    ("name", "error"),
    [("linear-1-t", 0.3634), ("linear-2-odd-t", 0.1188), ("linear-3-odd-t", 0.03744), ("linear-4-odd-t", 0.01154)],
)
def test_the_searched_step_reaches_the_least_error_of_uniform_levels(name, error):
    """Normal weights, against table I of Max, Quantizing for minimum distortion (1960)."""
    weight = torch.randn((64, 2000), generator=torch.Generator().manual_seed(2))
    quantizer = make_quantizer(parse_format(name), weight, recipe=RECIPES["searched-step"])
    assert float((quantizer(weight).detach() - weight).square().mean()) == pytest.approx(error, rel=0.02)


@pytest.mark.parametrize("name", ["linear-2", "linear-4", "linear-4-odd", "linear-8-t"])
def test_no_neighbour_of_a_searched_step_is_better(name):
    quantizer, weight = make(name, "searched-step")
    assert isinstance(quantizer, LinearQuantizer) and quantizer.step is not None
    best = (quantizer(weight).detach() - weight).square().sum()
    assert best < (make(name)[0](weight).detach() - weight).square().sum()  # than LSQ's start
    for factor in (0.8, 1.2):
        quantizer.step.data.mul_(factor)
        assert (quantizer(weight).detach() - weight).square().sum() > best
        quantizer.step.data.div_(factor)


def test_a_held_step_is_not_trained_and_codes_are_counted():
    quantizer, weight = lsq("linear-2")
    quantizer.hold(torch.full((16,), 0.1))
    gradients(quantizer, weight)
    assert quantizer.step is not None and quantizer.step.grad is None
    assert (quantizer.encode(weight).scale == 0.1).all()
    assert quantizer.statistics(weight)["used_share"] == 1.0 and 1 < quantizer.statistics(weight)["perplexity"] <= 4
    assert lsq("linear-8")[0].statistics(torch.zeros(16, 6, 3, 3))["perplexity"] == pytest.approx(1)


@pytest.mark.parametrize("name", ["linear-2-odd", "linear-4-odd-t", "linear-3", "linear-2"])
def test_dorefa_weights_are_the_papers_times_one_number(name):
    quantizer, weight = make(name, "dorefa")
    assert isinstance(quantizer, DorefaQuantizer)
    bits, tanh = quantizer.fmt.code_bits, weight.tanh()
    if quantizer.fmt.is_odd:
        last = 2**bits - 1
        levels = 2 * ((tanh / (2 * tanh.abs().max()) + 0.5) * last).round() / last - 1
    else:
        last = 2 ** (bits - 1) - 1
        levels = (tanh / tanh.abs().max() * last).round() / last
    amplitude = (weight * levels).sum() / levels.square().sum()
    torch.testing.assert_close(quantizer(weight), amplitude * levels)
    torch.testing.assert_close(quantizer.amplitude, amplitude)
    assert len(quantizer.encode(weight).scale.unique()) == 1


@pytest.mark.parametrize("name", ["linear-2-odd", "linear-4-odd-t", "linear-3"])
def test_dorefa_gradients_are_those_of_the_formula_without_rounding(name):
    quantizer, weight = make(name, "dorefa")
    assert isinstance(quantizer, DorefaQuantizer)
    upstream, grad = gradients(quantizer, weight)
    smooth = weight.clone().requires_grad_()
    (quantizer.amplitude * smooth.tanh() / smooth.tanh().abs().max()).backward(upstream)
    torch.testing.assert_close(grad, smooth.grad)


def test_dorefa_with_one_bit_is_the_sign_times_the_layers_mean_size():
    quantizer, weight = make("linear-1", "dorefa")
    torch.testing.assert_close(quantizer(weight), weight.sign() * weight.abs().mean())
    upstream, grad = gradients(quantizer, weight)
    assert torch.equal(grad, upstream)
    with pytest.raises(ValueError, match="DoReFa has one range per layer"):
        make("linear-4-g32", "dorefa")
