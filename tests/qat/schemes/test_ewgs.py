"""EWGS: values and gradients of its published form, written with autograd; its output scales and its curvature."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qat.activations.inputs import attach_inputs, calibrate
from qat.activations.schemes import EwgsActivation
from qat.modules.attach import quantize
from qat.modules.attached import attached
from qat.recipe import RECIPES, Recipe
from qat.schemes import make_quantizer
from qat.schemes.ewgs import EwgsQuantizer
from qat.training.ewgs import curvatures, match_outputs, update_deltas
from tests.helpers.gradients import gradients
from tests.qat.schemes.test_linear import make
from workloads.activation import whole_number
from workloads.format import parse_format
from workloads.plan import LayerPlan, Plan

torch.set_num_threads(1)
EWGS = RECIPES["ewgs"]


class Discretizer(torch.autograd.Function):
    """Rounds [0, 1] to `last` + 1 levels; backward g (1 + d sign(g) (x_n - x_q)), equation 3 of the paper."""

    @staticmethod
    def forward(ctx: Any, normal: Tensor, last: int, delta: float) -> Tensor:
        rounded = (normal * last).round() / last
        ctx.error, ctx.delta = normal - rounded, delta
        return rounded

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0] * (1 + ctx.delta * grads[0].sign() * ctx.error), None, None


def published(x: Tensor, bounds: tuple[Tensor, Tensor, Tensor], bits: int, delta: float) -> Tensor:
    """The weight as the paper has it, with lower and upper bound and output scale."""
    lower, upper, scale = (part.view(-1, 1, 1, 1) for part in bounds)
    normal = ((x - lower) / (upper - lower)).clamp(0, 1)
    return scale.abs() * 2 * (Discretizer.apply(normal, 2**bits - 1, delta) - 0.5)


@pytest.mark.parametrize("delta", [0.0, 0.2])
@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("granularity", ["", "-t"])
def test_values_and_gradients_are_the_papers(bits, granularity, delta):
    quantizer, weight = make(f"linear-{bits}-odd{granularity}", Recipe(linear="ewgs", ewgs_factor=delta))
    assert isinstance(quantizer, EwgsQuantizer)
    learned = (quantizer.lower, quantizer.upper, quantizer.output_scale)
    quantizer.lower.data.mul_(0.5)  # some weights lie outside
    quantizer.upper.data.mul_(0.7)
    quantizer.output_scale.data[0] *= -1
    upstream, grad = gradients(quantizer, weight)
    twin = [part.detach().clone().requires_grad_() for part in (weight, *learned)]
    value = published(twin[0], (twin[1], twin[2], twin[3]), bits, delta)
    torch.testing.assert_close(quantizer(weight), value)
    value.backward(upstream)
    torch.testing.assert_close(grad, twin[0].grad)
    for own, other in zip(learned, twin[1:], strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_bounds_start_at_three_deviations_and_the_size_is_kept():
    quantizer, weight = make("linear-2-odd-t", EWGS)
    assert isinstance(quantizer, EwgsQuantizer)
    bound = 3 * weight.std(correction=0)
    torch.testing.assert_close(quantizer.upper.detach()[0], bound)
    torch.testing.assert_close(quantizer.lower.detach()[0], -bound)
    torch.testing.assert_close(_mean_norm(quantizer(weight).detach()), _mean_norm(weight))
    quantizer, weight = make("linear-2-t", EWGS)  # integers: -2, -1, 0 and 1 are levels
    assert isinstance(quantizer, EwgsQuantizer)
    torch.testing.assert_close(quantizer.upper.detach(), -quantizer.lower.detach() / 2)
    assert quantizer.encode(weight).integers().min() == -2 and (quantizer(torch.zeros(16, 6, 3, 3)) == 0).all()


def _mean_norm(w: Tensor) -> Tensor:
    return w.flatten(1).norm(dim=1).mean()


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 5))


def quantized(fmt: str, recipe: Recipe = EWGS, activation: str = "int4") -> tuple[nn.Module, Tensor]:
    model, x = network(), torch.randn(12, 2, 6, 6, generator=torch.Generator().manual_seed(4))
    layer = LayerPlan(format=fmt, activation=activation)
    quantize(model, Plan(network="net", layers={"0": layer, "3": layer}), recipe=recipe)
    return model, x


@pytest.mark.parametrize("fmt", ["linear-2-odd-t", "linear-2-odd"])
def test_output_scales_keep_the_mean_size_of_a_layers_outputs(fmt):
    (model, x), floats = quantized(fmt), network()
    bits = dict.fromkeys(("0", "3"), whole_number(4))
    attach_inputs(model, bits, x[:1], EWGS)
    calibrate(model, x)
    match_outputs(model, x)
    first = next(iter(attached(model))).quantizer
    with torch.no_grad():  # the input of the first layer is known: the quantized images
        images = model[0].input_quantizer_0(x)
        of_float = nn.functional.conv2d(images, floats[0].weight)
        of_quantized = nn.functional.conv2d(images, first(floats[0].weight))
    sizes = [out.abs().mean() if fmt.endswith("-t") else out.abs().mean((0, 2, 3)) for out in (of_float, of_quantized)]
    torch.testing.assert_close(*sizes)
    assert model.training and all(one.quantizer.kept is None for one in attached(model))


def test_curvatures_are_the_hessians_diagonal():
    torch.manual_seed(5)
    a = torch.randn(4, 4)
    a, x, y = a @ a.T, torch.randn(4, requires_grad=True), torch.randn(3, requires_grad=True)
    value = (x @ a @ x) / 2 + (y**4).sum() + x[0] * y[0]
    (of_x, grad_x), (of_y, grad_y) = curvatures(value, [x, y], 4000, seed=0)
    torch.testing.assert_close(of_x, a.diagonal(), rtol=0.1, atol=0.3)
    torch.testing.assert_close(of_y, 12 * y.detach() ** 2, rtol=0.1, atol=0.1)
    torch.testing.assert_close(grad_x, (a @ x + y[0] * torch.eye(4)[0]).detach())
    torch.testing.assert_close(grad_y, (4 * y**3).detach() + x.detach()[0] * torch.eye(3)[0])
    again = curvatures((x @ a @ x) / 2, [x], 2, seed=1), curvatures((x @ a @ x) / 2, [x], 2, seed=1)
    assert torch.equal(again[0][0][0], again[1][0][0])
    flat = curvatures(x.sum(), [x], 3, seed=0)
    assert (flat[0][0] == 0).all()


def test_deltas_are_trace_over_three_deviations_of_the_gradient():
    """One linear layer and a squared loss: H = 2 / (N O) x^T x for each output, here with white inputs exactly."""
    torch.manual_seed(6)
    layer, x = nn.Linear(8, 3, bias=False), torch.linalg.qr(torch.randn(32, 8))[0] * 32**0.5
    target = torch.randn(32, 3)
    model = nn.Sequential(layer)
    quantize(model, Plan(network="net", layers={"0": LayerPlan(format="linear-2-odd-t")}), recipe=EWGS)
    quantizer = next(iter(attached(model))).quantizer
    assert isinstance(quantizer, EwgsQuantizer)
    update_deltas(model, lambda: (model(x) - target).square().mean())
    slope = 2 * float(quantizer.output_scale.detach())  # of the weight in x_q
    value = quantizer(layer.parametrizations.weight.original).detach().requires_grad_()
    (x @ value.T - target).square().mean().backward()
    assert value.grad is not None
    expected = (slope**2 * 2 / 3) / (3 * slope * value.grad.std())  # the mean of H's diagonal is 2 / O
    torch.testing.assert_close(quantizer.delta, expected)


def test_deltas_of_weights_and_activations_follow_a_network_and_leave_all_else():
    model, x = quantized("linear-2-odd")
    attach_inputs(model, dict.fromkeys(("0", "3"), whole_number(4)), x[:1], EWGS)
    calibrate(model, x)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    labels = torch.arange(12) % 5
    update_deltas(model, lambda: nn.functional.cross_entropy(model(x), labels))
    owners = [m for m in model.modules() if isinstance(m, EwgsQuantizer | EwgsActivation)]
    assert len(owners) == 4 and sum(float(m.delta) > 0 for m in owners) >= 2
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.endswith("delta") for name in changed)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_models_without_ewgs_and_weights_that_do_not_train_have_no_deltas_to_follow():
    (model, x), (other, _) = quantized("linear-2", RECIPES["lsq"]), quantized("linear-2-odd")
    update_deltas(model, lambda: model(x).square().mean())
    other.requires_grad_(False)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    update_deltas(other, lambda: other(x).square().mean())
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_scaled_gradients_leave_points_between_levels_faster():
    """Of two weights with the same gradient, the one that has further to go to its level moves more."""
    quantizer = make_quantizer(
        parse_format("linear-2-odd-t"), torch.randn(4, 64), recipe=Recipe(linear="ewgs", ewgs_factor=0.5)
    )
    assert isinstance(quantizer, EwgsQuantizer)
    for part, value in zip((quantizer.lower, quantizer.upper, quantizer.output_scale), (-3.0, 3.0, 3.0), strict=True):
        part.data.fill_(value)
    w = torch.tensor([[1.0, 1.5, 0.5]], requires_grad=True)  # the level is 1
    quantizer(w).sum().backward()
    assert w.grad is not None
    torch.testing.assert_close(w.grad[0], torch.tensor([1.0, 1 + 0.5 * 0.5 / 6, 1 - 0.5 * 0.5 / 6]))
