"""Quantizers on whole models: what is attached where, what trains, and that all of it comes off again."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.utils.data import DataLoader, TensorDataset

from qat.activations.inputs import activation_quantizers, calibrate
from qat.modules.attach import float_state_dict, quantize, unquantize
from qat.modules.attached import encode_model, quantizers
from qat.modules.mixture import relax
from qat.modules.upkeep import after_step, parameter_groups, quantizer_parameters
from qat.recipe import RECIPES
from qat.schemes import Codebook
from workloads.capture.trace import capture
from workloads.codec import decode_weight
from workloads.errors import InputError, RunError
from workloads.format import DEFAULT_FORMATS
from workloads.layer import Network
from workloads.networks.blocks import Add
from workloads.plan import Plan

torch.set_num_threads(1)
EXAMPLE = torch.zeros(1, 1, 8, 8)


class Residual(nn.Module):
    """conv -> conv + shortcut -> linear: one tensor feeds two readers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.add = Add()
        self.last = nn.Linear(8 * 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.first(x))
        x = functional.relu(self.add(self.second(x), x))
        return self.last(torch.flatten(x, 1))


def network() -> Network:
    return capture(Residual(), EXAMPLE, "residual")


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((16, 1, 8, 8), generator=generator), torch.randint(10, (16,), generator=generator)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, num_steps: int = 3) -> list[float]:
    images, labels = batch()
    losses = []
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("name", DEFAULT_FORMATS)
def test_a_plan_trains_and_its_stored_weights_are_the_forward_ones(name):
    model = Residual()
    quantize(model, Plan.uniform(network(), name), example_input=EXAMPLE)
    calibrate(model, batch()[0], input_step=1 / 255)
    optimizer = torch.optim.SGD(parameter_groups(model, 0.05, weight_decay=1e-4), momentum=0.9)
    losses = train(model, optimizer, 8)
    assert losses[-1] < losses[0]
    for layer, encoded in encode_model(model).items():
        weight = model.get_submodule(layer).weight
        expected = decode_weight(encoded.fmt, encoded.integers(), encoded.scale.numpy(), tuple(weight.shape))
        assert torch.equal(weight, torch.from_numpy(expected))


def test_every_new_parameter_is_the_models_and_gets_a_gradient():
    model = quantize(
        Residual(), Plan.uniform(network(), "linear-4", rules={"second": "vq-4x16-e4-s0"}), example_input=EXAMPLE
    )
    calibrate(model, batch()[0])
    train(model, torch.optim.SGD(model.parameters(), 0.01), 1)
    reachable = {id(parameter) for parameter in model.parameters()}
    added = quantizer_parameters(model)
    assert len(added) == 2 + 1 + 4  # steps of two layers, one book, steps of four tensors
    assert all(id(parameter) in reachable and parameter.grad is not None for parameter in added)


def test_activation_quantizers_belong_to_source_tensors():
    plan = Plan.uniform(network(), "linear-4", activation="int6")
    layers = dict(plan.layers)
    layers["second"] = layers["second"].model_copy(update={"activation": "int4"})
    model = quantize(Residual(), plan.model_copy(update={"layers": layers}), example_input=EXAMPLE)
    found = activation_quantizers(model)
    # `first` feeds `second` (4 bits); `second` feeds only the add, so it has the most bits of all
    assert {name: quantizer.fmt.bits for name, quantizer in found.items()} == {
        "input": 6, "first": 4, "second": 6, "add": 6,
    }  # fmt: skip
    seen: list[Tensor] = []
    model.get_submodule("add").register_forward_hook(lambda module, args, out: seen.extend(args))
    calibrate(model, batch()[0])
    seen.clear()
    model(batch()[0])
    shortcut = found["first"].integers(seen[1])
    torch.testing.assert_close(shortcut * found["first"].scale(), seen[1])
    assert found["second"].is_signed and not found["first"].is_signed and not found["add"].is_signed


def test_the_input_step_is_fixed_on_request():
    model = quantize(Residual(), Plan.uniform(network(), "linear-8"), example_input=EXAMPLE)
    images = (batch()[0] * 255).round() / 255
    calibrate(model, images, input_step=1 / 255)
    first = activation_quantizers(model)["input"]
    assert torch.equal(first.integers(images), (images * 255).round()) and not first.step.requires_grad


def books_of(model: nn.Module) -> list[Codebook]:
    return [module for module in model.modules() if isinstance(module, Codebook)]


def test_sharing_decides_how_many_books_there_are():
    plan = Plan.uniform(network(), "vq-4x16-e4-s0")
    shared = quantize(Residual(), plan)
    own = quantize(Residual(), plan.model_copy(update={"sharing": "layer"}), seed=7)
    assert len(books_of(shared)) == 1
    assert [book.seed for book in books_of(own)] == [7, 8, 9]  # what is revived in one is not in another
    (book,) = books_of(shared)
    again = quantize(Residual(), plan, books={"vq-4x16-e4-s0": book})
    assert books_of(again) == [book]


def test_groups_hold_every_parameter_once_and_spare_steps_from_decay():
    model = quantize(Residual(), Plan.uniform(network(), "linear-4"), example_input=EXAMPLE)
    own, added = parameter_groups(model, 0.1, weight_decay=0.01, quantizer_lr=0.02)
    assert sorted(id(p) for p in own["params"] + added["params"]) == sorted(id(p) for p in model.parameters())
    assert (own["weight_decay"], added["weight_decay"], added["lr"]) == (0.01, 0.0, 0.02)
    assert {id(p) for p in added["params"]} == {id(p) for p in quantizer_parameters(model)}


def test_unquantize_restores_the_float_model():
    model, images = Residual(), batch()[0]
    expected = model(images).detach()
    names = set(model.state_dict())
    quantize(model, Plan.uniform(network(), "linear-2"), example_input=EXAMPLE)
    calibrate(model, images)
    assert not torch.allclose(model(images), expected)
    assert torch.equal(unquantize(model)(images), expected)
    assert set(model.state_dict()) == names


def test_unquantize_can_keep_the_quantized_values():
    model = quantize(Residual(), Plan.uniform(network(), "linear-2"))
    expected = model(batch()[0])
    assert torch.equal(unquantize(model, keep_values=True)(batch()[0]), expected)
    assert len(model.get_parameter("second.weight")[0].unique()) <= 4


def test_a_state_dict_rebuilds_the_same_model():
    plan, images = Plan.uniform(network(), "vq-4x16-e4-s0", rules={"last": "d4-q4"}), batch()[0]
    model = quantize(Residual(), plan, example_input=EXAMPLE)
    calibrate(model, images)
    train(model, torch.optim.SGD(model.parameters(), 0.1), 2)
    fresh = quantize(Residual(), plan, example_input=EXAMPLE, seed=5)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(images), model(images))


def test_a_deep_copy_has_quantizers_of_its_own():
    model = quantize(Residual(), Plan.uniform(network(), "linear-4"), example_input=EXAMPLE)
    calibrate(model, batch()[0])
    twin = copy.deepcopy(model)
    expected = model(batch()[0])
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(3)
    assert torch.equal(model(batch()[0]), expected)
    assert not torch.equal(twin(batch()[0]), expected)


@pytest.mark.parametrize("recipe", ["default", "ema"])
def test_after_step_revives_dead_codewords_and_repeats(recipe):
    models = [quantize(Residual(), Plan.uniform(network(), "vq-4x16-e4-s0"), recipe=RECIPES[recipe]) for _ in range(2)]
    for model in models:
        (book,) = books_of(model)
        assert after_step(model, 0) == {"revived": 0.0}
        with torch.no_grad():
            book.entries[3], book.counts[3] = book.entries[2], 0  # the first of two equal ones gets the vectors
        assert after_step(model, 1) == {"revived": 1.0}
        assert not torch.equal(book.entries[3], book.entries[2]) and (book.counts > 0).all()
    first, second = (model.state_dict().values() for model in models)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_wrong_layers_are_all_named():
    plan = Plan.uniform(network(), "linear-4")
    layers = {**plan.layers, "add": plan.layers["first"], "nothing": plan.layers["first"]}
    with pytest.raises(InputError) as error:
        quantize(Residual(), plan.model_copy(update={"layers": layers}))
    assert len(error.value.problems) == 2 and "layers.nothing" in str(error.value)
    model = quantize(Residual(), plan)
    with pytest.raises(InputError, match=r"layers\.first: its weight has a parametrization already: unquantize it"):
        quantize(model, plan)


class Loose(Residual):
    """Its addition is no module."""

    def __init__(self):
        super().__init__()
        del self.add

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.first(x))
        return self.last(torch.flatten(functional.relu(self.second(x) + x), 1))


def test_an_addition_without_a_module_is_refused():
    plan = Plan.uniform(network(), "linear-4")
    with pytest.raises(InputError, match=r"must be an own workloads\.networks\.blocks\.Add module"):
        quantize(Loose(), plan, example_input=EXAMPLE)


def test_a_refused_plan_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.MultiheadAttention(8, 2), Loose())
    held = dict(model.named_parameters())
    plan = Plan.uniform(model, "linear-4", rules={"1.first": "d4-q4"})
    with pytest.raises(InputError, match="recipe: a step per token"):
        quantize(model, plan, example_input=EXAMPLE, recipe=RECIPES["token"])
    assert type(model[0]) is nn.MultiheadAttention and not quantizers(model)
    assert dict(model.named_parameters()).keys() == held.keys()
    assert all(parameter is held[name] for name, parameter in model.named_parameters())
    assert not any(m._forward_pre_hooks or m._load_state_dict_pre_hooks for m in model.modules())


def test_quantizing_draws_nothing_from_the_global_generator():
    model = Residual()
    state = torch.get_rng_state()
    quantize(model, Plan.uniform(model, "vq-4x16-e4-s0"), example_input=EXAMPLE)
    unquantize(model)
    assert torch.equal(torch.get_rng_state(), state)


def test_layers_can_be_quantized_in_turns():
    model, images = Residual(), batch()[0]
    quantize(model, Plan.uniform(model, "linear-4", skip=("last",)))
    quantize(model, Plan.uniform(model, "d4-q4", skip=("first", "second")))
    assert [quantizer.fmt.name for quantizer in quantizers(model).values()] == ["linear-4", "linear-4", "d4-q4"]
    assert len(model._forward_pre_hooks) == len(model._forward_hooks) == len(model._load_state_dict_pre_hooks) == 1
    assert torch.equal(unquantize(model)(images), Residual()(images))


def test_hooks_and_parametrizations_of_the_user_stay():
    model, seen = Residual(), []
    nn.utils.parametrizations.spectral_norm(model.second)
    model.register_forward_hook(lambda module, args, out: seen.append(out))
    expected = model.eval()(batch()[0])
    quantize(model, Plan.uniform(model, "linear-4", skip=("second",)))
    model(batch()[0])
    unquantize(model)
    assert torch.equal(model(batch()[0]), expected) and len(seen) == 3
    assert parametrize.is_parametrized(model.second, "weight")


def test_float_state_dicts_of_a_trained_model_with_quantized_activations():
    model, images = Residual(), batch()[0]
    quantize(model, Plan.uniform(model, "linear-4"), example_input=EXAMPLE)
    calibrate(model, images)
    train(model, torch.optim.SGD(model.parameters(), 0.1), 2)
    before = copy.deepcopy(model.state_dict())
    floats = float_state_dict(model)
    plain = Residual()
    plain.load_state_dict(floats)
    assert torch.equal(plain(images), unquantize(copy.deepcopy(model))(images))
    model.load_state_dict({name: 3 * value for name, value in floats.items()})
    assert torch.equal(float_state_dict(model)["first.weight"], 3 * floats["first.weight"])
    model.load_state_dict(floats)  # steps and ranges stayed
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    wrapped = nn.ModuleDict({"inner": model})
    wrapped.load_state_dict({f"inner.{name}": value for name, value in floats.items()})
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({name: value for name, value in floats.items() if name != "last.bias"})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        model.load_state_dict({**floats, "other.weight": floats["last.weight"]})


def test_calibration_takes_tensors_or_a_loader():
    x, y = torch.rand((40, 1, 8, 8), generator=torch.Generator().manual_seed(2)) - 0.2, torch.zeros(40)

    def steps(*batches) -> dict[str, float]:
        model = quantize(Residual(), Plan.uniform(network(), "linear-4"), example_input=EXAMPLE)
        model.second.eval()
        calibrate(model, *batches)
        assert model.training and not model.second.training
        return {name: float(quantizer.scale()) for name, quantizer in activation_quantizers(model).items()}

    expected = steps(x)
    for loader in (
        DataLoader(TensorDataset(x, y), batch_size=16),
        DataLoader(TensorDataset(x), batch_size=16),
        [x[:10], x[10:]],
        ((part, None) for part in x.split(9)),
        [((x,), y)],
    ):
        assert steps(loader) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(RunError, match="saw no tensor"):
        steps([])


def test_a_supernet_trains_its_logits_and_comes_off():
    model = Residual()
    mixtures = relax(model, {layer.name: DEFAULT_FORMATS for layer in network().layers}, seed=1)
    optimizer = torch.optim.SGD(parameter_groups(model, 0.05), momentum=0.9)
    losses = train(model, optimizer, 5)
    assert losses[-1] < losses[0]
    assert all(mixture.alpha.abs().max() > 0 for mixture in mixtures.values())
    books = {id(module) for module in model.modules() if isinstance(module, Codebook)}
    assert len(books) == 3  # one for each codebook format, shared by the layers
    assert set(unquantize(model).state_dict()) == set(Residual().state_dict())
