"""Quantizers of activations: each scheme's values and gradients as published, calibration, and any module at all."""

from __future__ import annotations

from math import pi, sqrt

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cimsim.integer.forward import run
from qat.activations.clipping import aciq_step, laplace_clip, normal_clip, searched_step, sigma_step
from qat.activations.inputs import INPUT, activation_quantizers, attach_inputs, calibrate
from qat.activations.quantizer import ActivationQuantizer
from qat.activations.schemes import ACTIVATIONS, EwgsActivation, PactQuantizer, TokenQuantizer, make_activation
from qat.modules.attach import quantize, unquantize
from qat.recipe import RECIPES, Recipe
from qat.storage.export import export
from tests.helpers.gradients import gradients
from tests.helpers.trained_digits import DATA, network, trained
from workloads.activation import FP8, ActivationFormat, parse_activation, whole_number
from workloads.errors import InputError
from workloads.networks.zoo import build, example_input
from workloads.plan import LayerPlan, Plan

torch.set_num_threads(1)
STATIC = [name for name in ACTIVATIONS if name != "token"]


def samples(is_signed: bool, shape: tuple[int, ...] = (6, 50), seed: int = 0) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x if is_signed else x.relu()


def calibrated(name: str, bits: int, x: Tensor, **fields) -> ActivationQuantizer:
    quantizer = make_activation(whole_number(bits), recipe=Recipe.model_validate({"activation": name, **fields}))
    quantizer.calibrate(x)
    return quantizer


@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("name", STATIC)
def test_the_value_is_the_step_times_an_integer_that_the_chip_holds(name, is_signed):
    x = samples(is_signed)
    quantizer = calibrated(name, 4, x)
    assert bool(quantizer.is_signed) is is_signed
    low, high = (-8, 7) if is_signed else (0, 15)
    integers = (x / quantizer.scale() + 0.5).floor().clamp(low, high)
    assert torch.equal(quantizer.integers(x), integers)
    assert torch.equal(quantizer(x), integers * quantizer.scale())
    assert {f"{name}" for name, _ in quantizer.named_parameters()} == {quantizer.learned}


@pytest.mark.parametrize("bits", [2, 4])
def test_pact_gradients_are_the_papers(bits):
    """y = 0, x or a; dy/dx is 1 inside; dy/da is 1 where x >= a, else 0; and the decay of a."""
    x, decay = samples(False), 0.3
    x[0, :3] = torch.tensor([-0.2, 0.0, 0.9])
    quantizer = calibrated("pact", bits, x.relu(), pact_decay_factor=decay)
    assert isinstance(quantizer, PactQuantizer)
    quantizer.bound.data.fill_(0.9)
    torch.testing.assert_close(quantizer.scale(), torch.tensor(0.9 / (2**bits - 1)))
    upstream, grad = gradients(quantizer, x)
    assert torch.equal(grad, upstream * ((x >= 0) & (x < 0.9)))
    torch.testing.assert_close(quantizer.bound.grad, upstream[x >= 0.9].sum() + decay * 0.9)


def test_pact_clips_signed_data_on_both_sides():
    x = samples(True)
    quantizer = calibrated("pact", 3, x, pact_decay_factor=0)
    assert isinstance(quantizer, PactQuantizer)
    quantizer.bound.data.fill_(-0.9)  # only its size counts
    upstream, grad = gradients(quantizer, x)
    below = -0.9 * 4 / 3  # the grid reaches one step further down
    assert torch.equal(grad, upstream * ((x > below) & (x < 0.9)))
    expected = -(upstream[x >= 0.9].sum() - 4 / 3 * upstream[x <= below].sum())
    torch.testing.assert_close(quantizer.bound.grad, expected)
    torch.testing.assert_close(torch.stack(quantizer(x).detach().aminmax()), torch.tensor([below, 0.9]))


@pytest.mark.parametrize("delta", [0.0, 0.2])
@pytest.mark.parametrize("is_signed", [False, True])
def test_ewgs_gradients_are_the_papers_on_a_grid_without_offset(is_signed, delta):
    x = samples(is_signed)
    quantizer = calibrated("ewgs", 3, x, ewgs_factor=delta)
    assert isinstance(quantizer, EwgsActivation)
    quantizer.bound.data.mul_(0.7)
    upper, (low, high) = quantizer.bound.detach(), quantizer.bounds
    lower = upper * low / high
    normal = ((x - lower) / (upper - lower)).clamp(0, 1)
    rounded = (quantizer(x).detach() - lower) / (upper - lower)
    upstream, grad = gradients(quantizer, x)
    is_inside = (x >= lower) & (x <= upper)
    scaled = upstream * (1 + delta * upstream.sign() * (normal - rounded)) * is_inside
    torch.testing.assert_close(grad, scaled)
    expected = (upstream * quantizer(x).detach() / upper).sum() - (scaled * x / upper).sum()
    torch.testing.assert_close(quantizer.bound.grad, expected, rtol=1e-4, atol=1e-4)


def test_ewgs_without_a_factor_is_lsq_but_for_the_size_of_its_parameter():
    x = samples(True)
    ewgs, lsq = calibrated("ewgs", 3, x, ewgs_factor=0), calibrated("lsq", 3, x)
    assert torch.equal(gradients(ewgs, x)[1], gradients(lsq, x)[1])
    assert ewgs.size.grad is not None and lsq.size.grad is not None
    torch.testing.assert_close(ewgs.size.grad * 3, lsq.size.grad * sqrt(50 * 3), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("is_signed", "high"), [(False, 15), (True, 7)])
def test_dorefa_clips_at_one_and_learns_nothing(is_signed, high):
    x = 3 * samples(is_signed)
    quantizer = calibrated("dorefa", 4, x)
    assert float(quantizer.scale()) == pytest.approx(1 / high) and quantizer(x).max() == 1
    assert not any(parameter.requires_grad for parameter in quantizer.parameters())
    upstream, grad = gradients(quantizer, x)
    assert torch.equal(grad, upstream * ((x <= 1) & (x >= (-8 / 7 if is_signed else 0))))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_half_precision_is_quantized_as_single_precision_is(name, dtype):
    """Under autocast too: the same integers, and a gradient of the step that does not overflow."""
    x = 20 * samples(True, (64, 500))
    quantizer, twin = (calibrated(name, 8, x, ewgs_factor=0.5) for _ in range(2))
    half = x.to(dtype)
    upstream = torch.full_like(half, 3.0)
    narrow, broad = half.clone().requires_grad_(), half.float().requires_grad_()
    with torch.autocast("cpu", dtype):
        out = quantizer(narrow)
    out.backward(upstream)
    expected = twin(broad)
    expected.backward(upstream.float())
    assert out.dtype == narrow.grad.dtype == dtype and torch.equal(out, expected.to(dtype))
    assert torch.equal(quantizer.integers(half), twin.integers(half.float()))
    assert torch.equal(narrow.grad, broad.grad.to(dtype))
    for ours, theirs in zip(quantizer.parameters(), twin.parameters(), strict=True):
        assert (ours.grad is theirs.grad is None) or (torch.equal(ours.grad, theirs.grad) and ours.grad.isfinite())


@pytest.mark.parametrize("shape", [(4, 10), (2, 5, 8)])
def test_each_token_has_the_step_of_its_largest_value(shape):
    x = samples(True, shape) * torch.logspace(-3, 3, shape[-2])[:, None]
    x[0, ..., :] = 0
    quantizer = make_activation(whole_number(4), recipe=RECIPES["token"])
    value = quantizer(x)  # needs no calibration
    for token, quantized in zip(x.reshape(-1, shape[-1]), value.reshape(-1, shape[-1]), strict=True):
        step = token.abs().max() / 7
        if step > 0:
            torch.testing.assert_close(quantized, (token / step + 0.5).floor() * step)
        else:
            assert not quantized.any()
    upstream, grad = gradients(quantizer, x)
    assert torch.equal(upstream, grad) and not list(quantizer.parameters())
    assert torch.equal(quantizer.integers(x).abs().amax(-1) == 7, x.abs().amax(-1) > 0)


def test_no_chip_has_a_step_per_token():
    with pytest.raises(InputError, match=r"fc\.input: has a step per token, and a chip's requantization is static"):
        TokenQuantizer(whole_number(8), source="fc.input").scale()
    with pytest.raises(InputError, match="int1: must be an integer of 2 bits or more"):
        TokenQuantizer(whole_number(1))
    formats = dict.fromkeys(("conv1", "conv2", "fc"), whole_number(8))
    with pytest.raises(InputError, match=r"layers\.conv1 is a Conv2d, .*must be Linear layers"):
        attach_inputs(trained(), formats, torch.zeros(1, 1, 8, 8), RECIPES["token"])


def test_a_step_per_token_is_not_exported():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    plan = Plan(network="net", layers={"0": LayerPlan(format="linear-4"), "2": LayerPlan(format="linear-4")})
    x = samples(True, (4, 6))
    quantize(model, plan, recipe=RECIPES["token"], example_input=x[:1])
    calibrate(model, x)
    assert torch.isfinite(model(x)).all()
    with pytest.raises(InputError, match="input: has a step per token"):
        export(model.eval(), plan, x[:1])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradients_of_gradients_pass_where_values_do(name):
    """The Hessian that EWGS asks for: all but the rounding is as without quantizer."""
    x = samples(True, (3, 4)).requires_grad_()
    quantizer = calibrated(name, 8, samples(True, (3, 4), seed=1), ewgs_factor=0)
    (grad,) = torch.autograd.grad((quantizer(x) ** 2).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), x)
    low, high = (end * quantizer.scale() for end in quantizer.bounds) if name != "token" else (-9, 9)
    torch.testing.assert_close(second, 2.0 * ((x >= low) & (x <= high)))


def test_closed_form_clips_are_those_of_the_paper():
    """Banner et al., NeurIPS 2019, section 3.1: clips for 2, 3 and 4 bits."""
    assert [round(laplace_clip(2**bits), 2) for bits in (2, 3, 4)] == pytest.approx([2.83, 3.89, 5.03], abs=0.011)
    assert [round(normal_clip(2**bits), 2) for bits in (2, 3, 4)] == pytest.approx([1.71, 2.15, 2.55], abs=0.011)


@pytest.mark.parametrize("density", [torch.distributions.Laplace(0.0, 0.5), torch.distributions.Normal(0.0, 2.0)])
@pytest.mark.parametrize("is_signed", [False, True])
def test_the_closed_form_is_close_to_the_least_error(density, is_signed):
    torch.manual_seed(1)
    x = density.sample(torch.Size([40_000]))
    x = x if is_signed else x.relu()
    bounds = (-8, 7) if is_signed else (0, 15)
    closed, searched = (
        ((x / step + 0.5).floor().clamp(*bounds) * step - x).square().mean()
        for step in (aciq_step(x, bounds), searched_step(x, bounds))
    )
    assert searched <= closed < 1.1 * searched


def test_three_deviations_are_those_of_the_whole_density():
    torch.manual_seed(2)
    x = 2 * torch.randn(40_000)
    assert float(7 * sigma_step(x, (-8, 7))) == pytest.approx(6, rel=0.02)
    assert float(15 * sigma_step(x.abs(), (0, 15))) == pytest.approx(6, rel=0.02)  # half of a normal density
    assert float(x.abs().std()) == pytest.approx(2 * sqrt(1 - 2 / pi), rel=0.02)


@pytest.mark.parametrize("calibration", ["search", "aciq", "sigma"])
@pytest.mark.parametrize("name", STATIC)
@pytest.mark.parametrize("value", [0.0, 0.7, -3.0])
def test_samples_that_are_all_equal_have_a_step_too(name, calibration, value):
    x = torch.full((4, 5), value)
    out = calibrated(name, 4, x, calibration=calibration)(x)
    assert torch.isfinite(out).all() and (name == "dorefa" or (out - x).abs().max() <= 0.15 * abs(value))


@pytest.mark.parametrize("name", STATIC)
def test_a_fixed_step_survives_calibration(name):
    quantizer = make_activation(whole_number(8), recipe=Recipe.model_validate({"activation": name}))
    quantizer.freeze(1 / 255)
    quantizer.calibrate(torch.arange(100) / 255)
    images = torch.arange(256) / 255
    assert torch.equal(quantizer.integers(images), torch.arange(256.0))
    torch.testing.assert_close(quantizer(images), images)


@pytest.mark.parametrize("name", ["pact", "ewgs"])
def test_the_exported_integers_are_those_of_the_model(name):
    """All activations on the grids of the recipe: the chip's integers decide as the model does."""
    plan = Plan.uniform(network(), "linear-8")
    model = quantize(trained(), plan)
    recipe = Recipe.model_validate({"activation": name})
    attach_inputs(model, dict.fromkeys(plan.layers, whole_number(8)), torch.zeros(1, 1, 8, 8), recipe)
    calibrate(model, DATA.train.images(slice(0, 128)), input_step=DATA.train.input_step(whole_number(8)))
    assert {type(q) for q in activation_quantizers(model).values()} == {ACTIVATIONS[name]}
    artifact = export(model.eval(), plan, torch.zeros(1, 1, 8, 8))
    x = DATA.validation.x.numpy()
    with torch.no_grad():
        logits = model(DATA.validation.images(slice(None)))
    assert (run(artifact, x).argmax(1) == logits.argmax(1).numpy()).mean() > 0.99


def transformer() -> tuple[nn.Module, Tensor, dict[str, ActivationFormat]]:
    """A network that cannot be traced, its input, and its linear layers and embeddings."""
    model, ids = build("text_transformer", 0), example_input("text_transformer").repeat(6, 1)
    ids[:, :5] = torch.arange(30).view(6, 5) + 2
    kinds = (nn.Linear, nn.Embedding)
    return model, ids, {name: whole_number(6) for name, module in model.named_modules() if isinstance(module, kinds)}


@pytest.mark.parametrize("name", ["lsq", "pact", "ewgs", "token"])
def test_weights_and_activations_train_together_in_any_module(name):
    """Attention and layer norm: each linear layer has a quantizer of its own; embeddings, which read ids, none."""
    model, ids, bits = transformer()
    layers = {layer: LayerPlan(format="linear-4") for layer in bits}
    quantize(model, Plan(network="text", layers=layers))
    attach_inputs(model, bits, ids[:1], Recipe.model_validate({"activation": name}))
    linear = [layer for layer in bits if isinstance(model.get_submodule(layer), nn.Linear)]
    assert set(activation_quantizers(model)) == {f"{layer}.input" for layer in linear} and len(linear) > 8
    calibrate(model, ids)
    seen = {}
    hooks = [model.get_submodule(layer).register_forward_pre_hook(_noting(seen, layer)) for layer in linear]
    nn.functional.cross_entropy(model(ids), torch.arange(6) % 2).backward()
    for hook in hooks:
        hook.remove()
    assert all(len(x.unique()) <= (2**6 if name != "token" else 2**6 * x[..., 0].numel()) for x in seen.values())
    trained_now = {key: parameter.grad for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(torch.isfinite(grad).all() for grad in trained_now.values() if grad is not None)
    steps = [grad for key, grad in trained_now.items() if INPUT in key]
    assert all(grad is not None for grad in steps) and len(steps) == (0 if name == "token" else len(linear))
    with pytest.raises(InputError, match=r"norm = LayerNorm: is no arithmetic of integers"):
        export(model, Plan(network="text", layers=layers), ids[:1])
    unquantize(model)
    assert not activation_quantizers(model)


def _noting(seen: dict[str, Tensor], layer: str):
    def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen[layer] = args[0].detach()

    return note


def test_attention_of_torch_is_quantized_inside_too():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "linear1", "linear2")
    x, layers = torch.randn(3, 5, 16), {name: LayerPlan(format="linear-8") for name in names}
    float_out = model.eval()(x)
    quantize(model, Plan(network="block", layers=layers), example_input=x[:1])
    calibrate(model, x)
    assert set(activation_quantizers(model)) == {f"{name}.input" for name in names}
    with torch.no_grad():
        out = model(x)
    assert 0 < (out - float_out).abs().max() < 0.1
    np.testing.assert_array_equal(out.numpy(), model(x).detach().numpy())


def test_further_arguments_of_a_layer_pass():
    """A transposed convolution takes the size of its output."""
    model, x = nn.ConvTranspose1d(3, 2, 3, stride=2), samples(True, (2, 3, 7))
    quantize(model_ := nn.ModuleDict({"up": model}), Plan(network="up", layers={"up": LayerPlan(format="linear-4")}))
    attach_inputs(model_, {"up": whole_number(4)}, x)
    quantizer = activation_quantizers(model_)["up.input"]
    quantizer.calibrate(x)
    assert model(x, [16]).shape == (2, 2, 16)
    with torch.no_grad():
        expected = nn.functional.conv_transpose1d(quantizer(x), model.weight, model.bias, 2, output_padding=1)
    torch.testing.assert_close(model(x, [16]).detach(), expected)


def test_fp8_rounds_as_torch_does():
    """To the nearest number of e4m3, ties to even, from the least subnormal to the largest number."""
    quantizer = make_activation(FP8)
    x = torch.cat([torch.linspace(-460, 460, 40_001), torch.logspace(-12, 8, 4_001, base=2)])
    quantizer.freeze(2.0**-9)
    found = quantizer.integers(x) * 2.0**-9
    assert torch.equal(found, x.clamp(-448, 448).to(torch.float8_e4m3fn).float())
    assert quantizer.is_signed and quantizer.bounds == (-448 * 512, 448 * 512)


def test_fp8_keeps_relative_errors_small_and_passes_gradients():
    x = torch.randn(4, 500, generator=torch.Generator().manual_seed(0), requires_grad=True)
    quantizer = make_activation(FP8)
    quantizer.calibrate(x.detach())
    y = quantizer(x)
    normal = x.abs() > quantizer.scale() * 8
    assert ((y - x).abs()[normal] <= x.abs()[normal] / 16 * (1 + 1e-6)).all()
    y.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
    expected = (y / quantizer.scale() - x / quantizer.scale()).sum() / (500 * 448 * 512) ** 0.5
    torch.testing.assert_close(quantizer.size.grad, expected.detach(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("name", "is_signed"), [("int4-signed", True), ("int4-unsigned", False), ("int4", False)])
def test_a_format_may_fix_the_sign(name, is_signed):
    quantizer = make_activation(parse_activation(name))
    quantizer.calibrate(torch.rand(100))
    assert bool(quantizer.is_signed) is is_signed
    quantizer.calibrate(torch.rand(100) - 0.5)
    assert bool(quantizer.is_signed) is (name != "int4-unsigned")


def test_a_plan_may_ask_for_a_step_per_token():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    quantize(model, Plan.uniform(model, "linear-4", activation="int8-token"), example_input=torch.zeros(1, 6))
    assert all(isinstance(one, TokenQuantizer) for one in activation_quantizers(model).values())


def test_floats_between_layers_are_not_exported():
    model = nn.Sequential(nn.Linear(6, 3))
    plan = Plan.uniform(model, "linear-4", activation=FP8.name)
    quantize(model, plan, example_input=torch.zeros(1, 6))
    calibrate(model, torch.randn(8, 6))
    with pytest.raises(InputError, match="fp8-e4m3: an exported network has integers"):
        export(model.eval(), plan, torch.zeros(1, 6))
