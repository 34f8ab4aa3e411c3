"""Every layer type in a linear, a codebook and a lattice format: what it computes with, trains and takes back."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from qat.modules.attach import float_state_dict, quantize, unquantize
from qat.modules.attached import attached, encode_model, quantizers
from qat.modules.layers import output_first, turn_of
from workloads.errors import InputError
from workloads.plan import LayerPlan, Plan

torch.set_num_threads(1)
FORMATS = ("linear-4", "vq-4x16-e4-s0", "d4-q4")

# Name -> layer, shape of its input, and [O, C/g, ...] of its weight.
LAYERS = {
    "linear": (lambda: nn.Linear(12, 10), (3, 12), (10, 12)),
    "conv1d": (lambda: nn.Conv1d(8, 12, 3), (2, 8, 9), (12, 8, 3)),
    "conv2d": (lambda: nn.Conv2d(8, 12, 3, stride=2), (2, 8, 9, 9), (12, 8, 3, 3)),
    "conv2d one channel": (lambda: nn.Conv2d(1, 12, 5), (2, 1, 9, 9), (12, 1, 5, 5)),
    "conv2d grouped": (lambda: nn.Conv2d(8, 12, 3, groups=4), (2, 8, 5, 5), (12, 2, 3, 3)),
    "conv2d depthwise": (lambda: nn.Conv2d(8, 16, 3, groups=8), (2, 8, 5, 5), (16, 1, 3, 3)),
    "conv2d reflected": (lambda: nn.Conv2d(4, 8, 3, padding=1, padding_mode="reflect"), (2, 4, 5, 5), (8, 4, 3, 3)),
    "conv3d": (lambda: nn.Conv3d(4, 8, 2, bias=False), (1, 4, 3, 3, 3), (8, 4, 2, 2, 2)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(6, 8, 3), (2, 6, 5), (8, 6, 3)),
    "transposed 2d": (lambda: nn.ConvTranspose2d(6, 8, 3, stride=2), (2, 6, 4, 4), (8, 6, 3, 3)),
    "transposed 2d grouped": (lambda: nn.ConvTranspose2d(6, 8, 3, groups=2), (2, 6, 4, 4), (8, 3, 3, 3)),
    "transposed 3d depthwise": (lambda: nn.ConvTranspose3d(6, 6, 2, groups=6), (1, 6, 3, 3, 3), (6, 1, 2, 2, 2)),
    "embedding": (lambda: nn.Embedding(20, 12, padding_idx=0), (2, 5), (20, 12)),
}
CASES = [(layer, fmt) for layer in LAYERS for fmt in FORMATS]


def built(layer: str) -> tuple[nn.Module, Tensor, tuple[int, ...]]:
    make, size, shape = LAYERS[layer]
    torch.manual_seed(0)
    x = torch.randint(20, size) if layer == "embedding" else torch.randn(size)
    return make(), x, shape


def plan(fmt: str, *names: str) -> Plan:
    return Plan(network="net", layers={name: LayerPlan(format=fmt) for name in names or ("",)})


@pytest.mark.parametrize(("layer", "fmt"), CASES)
def test_the_layer_computes_with_the_decoded_weight(layer, fmt):
    module, x, shape = built(layer)
    quantize(module, Plan.uniform(module, fmt))
    encoded = encode_model(module)[""]
    assert encoded.shape == shape and encoded.scale.numel() == shape[0]
    assert torch.equal(output_first(module, module.weight.detach()), encoded.decode())
    twin = built(layer)[0]
    weight = encoded.decode() if (turn := turn_of(module)) is None else turn(encoded.decode())
    twin.weight.data.copy_(weight)
    torch.testing.assert_close(module(x), twin(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("layer", "fmt"), CASES)
def test_gradients_reach_the_latent_weight_and_what_is_trained_with_it(layer, fmt):
    """Straight through: where nothing was clipped, the latent weight's gradient is that of the quantized one."""
    module, x, _ = built(layer)
    quantize(module, plan(fmt))
    latent, value = module.parametrizations.weight.original, module.weight.detach().clone().requires_grad_()
    upstream = torch.randn(module(x).shape)
    (module(x) * upstream).sum().backward()
    (torch.func.functional_call(built(layer)[0], {"weight": value}, x) * upstream).sum().backward()
    assert value.grad is not None
    is_clipped = latent.grad == 0
    torch.testing.assert_close(latent.grad[~is_clipped], value.grad[~is_clipped], rtol=1e-4, atol=1e-5)
    assert (fmt == "linear-4") or torch.equal(latent.grad == 0, value.grad == 0)
    trained = quantizers(module)[""].trained()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trained)
    if isinstance(module, nn.Embedding):
        assert not latent.grad[0].any()  # padding does not train


@pytest.mark.parametrize(("layer", "fmt"), CASES)
def test_state_dicts_go_both_ways(layer, fmt):
    module, x, _ = built(layer)
    floats = copy.deepcopy(module.state_dict())
    quantize(module, plan(fmt))
    with torch.no_grad():
        module.parametrizations.weight.original.mul_(1.5)
    twin = quantize(built(layer)[0], plan(fmt))
    twin.load_state_dict(module.state_dict())
    assert torch.equal(twin(x), module(x))

    back = float_state_dict(module)
    assert back.keys() == floats.keys() and torch.equal(back["weight"], 1.5 * floats["weight"])
    built(layer)[0].load_state_dict(back)
    twin.load_state_dict(floats)
    assert torch.equal(twin.parametrizations.weight.original, floats["weight"])
    assert torch.equal(unquantize(twin)(x), built(layer)[0](x))


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_models_of_half_precision(fmt, dtype):
    """The weight is quantized in float32, whatever the layer then computes in."""
    module, x, _ = built("linear")
    quantize(module, plan(fmt))
    expected = module.weight.detach()
    with torch.autocast("cpu", dtype):
        out = module(x)
        assert out.dtype == dtype and torch.equal(module.weight, expected)
    out.sum().backward()
    assert module.parametrizations.weight.original.grad.dtype == torch.float32

    half = quantize(built("linear")[0].to(dtype), plan(fmt))
    assert half.weight.dtype == dtype
    assert torch.equal(half.weight, encode_model(half)[""].decode().to(dtype))
    half(x.to(dtype)).sum().backward()
    assert half.parametrizations.weight.original.grad.dtype == dtype


class Tied(nn.Module):
    """A language model's head: one weight as a table and as a linear layer, and a layer of its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.body, self.head = nn.Embedding(16, 8), nn.Linear(8, 8), nn.Linear(8, 16, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(self.table(ids))))


@pytest.mark.parametrize("fmt", FORMATS)
def test_tied_weights_share_one_parametrization(fmt):
    model, ids = Tied(), torch.arange(16)
    quantize(model, Plan.uniform(model, fmt))
    found = {one.name: one for one in attached(model)}
    assert found["table"].quantizer is found["head"].quantizer and found["table"].weight is found["head"].weight
    assert len({id(p) for p in model.parameters()}) == len(list(model.parameters()))
    calls = counted(model)
    model(ids).sum().backward()
    assert calls == {"table": 1, "body": 1}
    assert torch.equal(model.table.weight, model.head.weight)
    expected, value = model(ids), model.table.weight.detach().clone()
    unquantize(model, keep_values=True)
    assert model.head.weight is model.table.weight and torch.equal(model.head.weight, value)
    assert torch.equal(model(ids), expected)


def counted(model: nn.Module) -> dict[str, int]:
    """Layer name -> how often its quantizer has worked from now on."""
    calls: dict[str, int] = {}
    for name, quantizer in {id(q): (name, q) for name, q in reversed(quantizers(model).items())}.values():

        def value(w: Tensor, name: str = name, original=quantizer.value):
            calls[name] = calls.get(name, 0) + 1
            return original(w)

        quantizer.value = value
    return calls


def test_weights_tied_to_a_layer_outside_the_plan_are_refused():
    with pytest.raises(InputError, match=r"layers\.table: shares its weight with head: both must be layers"):
        quantize(Tied(), plan("linear-4", "table"))
    layers = {"table": LayerPlan(format="linear-4"), "head": LayerPlan(format="linear-2")}
    with pytest.raises(InputError, match=r"layers\.head: shares its weight with table: must have its format"):
        quantize(Tied(), Plan(network="net", layers=layers))


def test_layers_that_cannot_be_quantized_are_all_named():
    model = nn.Sequential(
        nn.Embedding(4, 4, max_norm=1.0), nn.Embedding(4, 4, sparse=True), weight_norm(nn.Linear(4, 4)),
        nn.Linear(4, 4), nn.LayerNorm([4, 4]), nn.Linear(4, 4),
    )  # fmt: skip
    model[3].weight.data[1, 2] = torch.nan
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError) as raised:
        quantize(model, plan("linear-4", *"012345", "6"))
    expected = [
        "0: must have max_norm = None", "1: must have max_norm = None", "2: its weight has a parametrization already",
        "3: weight: 1 of 16 values: must be finite", "4: must be a Linear", "6: must be a Linear",
    ]  # fmt: skip
    assert all(
        problem.startswith(f"layers.{start}") for problem, start in zip(raised.value.problems, expected, strict=True)
    )
    assert str(model.state_dict()) == str(before) and not quantizers(model)


def test_a_layer_under_two_names_is_quantized_once():
    layer = nn.Linear(8, 8)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    quantize(model, plan("linear-4", "0", "2"))
    assert len(layer.parametrizations.weight) == 1
    calls, x = counted(model), torch.randn(2, 8)
    model(x)
    assert sum(calls.values()) == 1
    assert set(encode_model(model)) == {"0", "2"}
    assert set(unquantize(model).state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_uniform_plans_name_the_layers_of_any_module():
    model = nn.ModuleDict({
        "stem": nn.Conv2d(1, 4, 3), "norm": nn.LayerNorm([4, 4]),
        "block": nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)),
        "attention": nn.MultiheadAttention(8, 2), "bilinear": nn.Bilinear(2, 2, 2), "head": nn.Linear(4, 2),
    })  # fmt: skip
    found = Plan.uniform(
        model, "linear-4", skip=("stem", "attention.[qk]*"), rules={"block.*": "d4-q4", "*.1": "linear-2"}
    )
    assert {name: choice.format for name, choice in found.layers.items()} == {
        "block.0": "d4-q4", "block.1": "linear-2", "attention.v_proj": "linear-4", "attention.out_proj": "linear-4",
        "head": "linear-4",
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"patterns \['bloc\.\*'\]: must match one of the layers \['stem'"):
        Plan.uniform(model, "linear-4", rules={"bloc.*": "d4-q4"})
    for wrong in ("stem", {"stem": "linear-2"}):
        with pytest.raises(ValueError, match=r"skip = .*: must be a list of patterns"):
            Plan.uniform(model, "linear-4", wrong)
