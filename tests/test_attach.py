"""Quantizers on whole models: what is attached where, what trains, and that all of it comes off again."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from qat.attach import (
    activation_quantizers,
    after_step,
    calibrate,
    encode_model,
    parameter_groups,
    quantize,
    quantizer_parameters,
    quantizers,
    unquantize,
)
from qat.mixture import relax
from qat.schemes import Codebook
from qat.schemes.vector import VectorQuantizer
from workloads.capture import capture
from workloads.codec import decode_integers, decode_weight
from workloads.errors import InputError
from workloads.format import DEFAULT_FORMATS
from workloads.layer import Network
from workloads.networks import Add
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
        quantizer, weight = quantizers(model)[layer], model.get_submodule(layer).weight
        assert isinstance(weight, Tensor)
        table = quantizer.table()
        integers = decode_integers(
            quantizer.fmt, encoded.codes.numpy(), None if table is None else table.numpy(),
            num_inputs=weight[0].numel(),
        )  # fmt: skip
        expected = decode_weight(integers, encoded.scale.numpy(), tuple(weight.shape))
        np.testing.assert_array_equal(weight.detach().numpy(), expected)


def test_every_new_parameter_is_the_models_and_gets_a_gradient():
    model = quantize(
        Residual(), Plan.uniform(network(), "linear-4", {"second": "vq-4x16-e4-s0"}), example_input=EXAMPLE
    )
    calibrate(model, batch()[0])
    train(model, torch.optim.SGD(model.parameters(), 0.01), 1)
    reachable = {id(parameter) for parameter in model.parameters()}
    added = quantizer_parameters(model)
    assert len(added) == 2 + 1 + 4  # steps of two layers, one book, steps of four tensors
    assert all(id(parameter) in reachable and parameter.grad is not None for parameter in added)


def test_activation_quantizers_belong_to_source_tensors():
    plan = Plan.uniform(network(), "linear-4", activation_bits=6)
    layers = dict(plan.layers)
    layers["second"] = layers["second"].model_copy(update={"activation_bits": 4})
    model = quantize(Residual(), plan.model_copy(update={"layers": layers}), example_input=EXAMPLE)
    found = activation_quantizers(model)
    # `first` feeds `second` (4 bits); `second` feeds only the add, so it has the most bits of all
    assert {name: quantizer.bits for name, quantizer in found.items()} == {
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


def test_sharing_decides_how_many_books_there_are():
    plan = Plan.uniform(network(), "vq-4x16-e4-s0")
    shared = quantize(Residual(), plan)
    own = quantize(Residual(), plan.model_copy(update={"sharing": "layer"}))

    def books(model: nn.Module) -> set[Codebook]:
        return {q.book for q in quantizers(model).values() if isinstance(q, VectorQuantizer)}

    assert len(books(shared)) == 1 and len(books(own)) == 3
    (book,) = books(shared)
    again = quantize(Residual(), plan, books={"vq-4x16-e4-s0": book})
    assert books(again) == {book}


def test_an_optimizer_takes_the_new_parameters_without_decay():
    model = Residual()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.1)
    quantize(model, Plan.uniform(network(), "vq-4x16-e4-s0"), optimizer=optimizer)
    assert optimizer.param_groups[1]["weight_decay"] == 0
    (entries,) = optimizer.param_groups[1]["params"]
    before, latent = entries.detach().clone(), [p for p in model.parameters() if p.shape == (8, 8, 3, 3)]
    train(model, optimizer, 1)
    assert not torch.equal(entries, before)
    assert any(latent[0] is parameter for parameter in optimizer.param_groups[0]["params"])


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
    plan, images = Plan.uniform(network(), "vq-4x16-e4-s0", {"last": "e8-q4"}), batch()[0]
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


def test_cached_evaluation_quantizes_each_weight_once(monkeypatch):
    model = quantize(Residual(), Plan.uniform(network(), "linear-4"))
    calls = []
    for quantizer in quantizers(model).values():
        original = quantizer.project
        monkeypatch.setattr(quantizer, "project", lambda w, call=original: (calls.append(1), call(w))[1])
    with parametrize.cached(), torch.no_grad():
        model(batch()[0])
        model(batch()[0])
    assert len(calls) == 3
    model(batch()[0])
    assert len(calls) == 6  # one evaluation of each in a step


def test_after_step_revives_dead_codewords():
    model = quantize(Residual(), Plan.uniform(network(), "vq-4x16-e4-s0"))
    (book,) = {q.book for q in quantizers(model).values() if isinstance(q, VectorQuantizer)}
    assert after_step(model, 0) == 0
    with torch.no_grad():
        book.entries[3] = 0  # a zero entry matches nothing
    assert after_step(model, 1) == 1
    assert after_step(model, 2) == 0 and (book.counts > 0).all()


def test_wrong_layers_are_all_named():
    plan = Plan.uniform(network(), "linear-4")
    layers = {**plan.layers, "add": plan.layers["first"], "nothing": plan.layers["first"]}
    with pytest.raises(InputError) as error:
        quantize(Residual(), plan.model_copy(update={"layers": layers}))
    assert len(error.value.problems) == 2 and "layers.nothing" in str(error.value)
    model = quantize(Residual(), plan)
    with pytest.raises(InputError, match=r"layers\.first: is quantized already"):
        quantize(model, plan)


def test_an_addition_without_a_module_is_refused():
    class Loose(Residual):
        def __init__(self):
            super().__init__()
            del self.add

        def forward(self, x: Tensor) -> Tensor:
            x = functional.relu(self.first(x))
            return self.last(torch.flatten(functional.relu(self.second(x) + x), 1))

    plan = Plan.uniform(network(), "linear-4")
    with pytest.raises(InputError, match=r"must be an own workloads\.networks\.Add module"):
        quantize(Loose(), plan, example_input=EXAMPLE)


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
