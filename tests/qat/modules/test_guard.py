"""Optimizers of quantized models: a stale one fails loudly, an adopted one trains all, an ordinary one is let be."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from qat.modules.attach import quantize, unquantize
from qat.modules.upkeep import parameter_groups, quantizer_parameters
from qat.recipe import RECIPES
from qat.storage.freeze import freeze
from workloads.errors import InputError
from workloads.plan import Plan

torch.set_num_threads(1)
OPTIMIZERS = [torch.optim.SGD, torch.optim.AdamW]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(4, 8, generator=torch.Generator().manual_seed(1))).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_optimizer_from_before_fails_at_its_first_step(kind):
    model = network()
    optimizer = kind(model.parameters(), lr=0.01)
    step(model, optimizer)
    quantize(model, Plan.uniform(model, "linear-4", rules={"2": "vq-4x16-e4-s0"}))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=rf"{kind.__name__}: lacks 2 steps or codebooks .*pass optimizer= to quantize"):
        step(model, optimizer)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_optimizer_that_is_given_trains_all_and_decays_weights_only(kind):
    model = network()
    optimizer = kind(model.parameters(), lr=0.01, weight_decay=0.5)
    step(model, optimizer)
    kept = {p: dict(state) for p, state in optimizer.state.items()}
    plan = Plan.uniform(model, "linear-4", rules={"2": "vq-4x16-e4-s0"})
    quantize(model, plan, optimizer=optimizer)
    own, added = optimizer.param_groups
    assert (own["weight_decay"], added["weight_decay"], added["lr"]) == (0.5, 0.0, 0.01)
    assert {id(p) for p in own["params"] + added["params"]} == {id(p) for p in model.parameters()}
    assert {id(p) for p in added["params"]} == {id(p) for p in quantizer_parameters(model)}
    assert all(optimizer.state[p] is not None for p in kept) and len(optimizer.state) == len(kept)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step(model, optimizer)
    assert all(not torch.equal(before[name], p) for name, p in model.named_parameters())


def test_nothing_to_train_with_the_weights_is_no_complaint():
    for fmt, recipe in (("d4-q4", "default"), ("vq-4x16-e4-s0", "ema"), ("linear-4", "default")):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        quantize(model, Plan.uniform(model, fmt), recipe=RECIPES[recipe])
        if fmt == "linear-4":  # whoever wants the steps to stay says so
            for parameter in quantizer_parameters(model):
                parameter.requires_grad_(False)
        step(model, optimizer)


@pytest.mark.parametrize("ending", [unquantize, freeze])
def test_afterwards_the_weights_are_ordinary_again(ending):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    quantize(model, Plan.uniform(model, "linear-4"))
    with pytest.raises(InputError):
        step(model, optimizer)
    ending(model)
    before = model[0].bias.detach().clone()
    step(model, optimizer)
    assert not torch.equal(model[0].bias, before)
    assert [id(p) for p in model.parameters()] == [id(p) for p in optimizer.param_groups[0]["params"]]


def test_copies_are_watched_like_their_originals():
    model = network()
    quantize(model, Plan.uniform(model, "linear-4"))
    twin = copy.deepcopy(model)
    names = [name for name, _ in twin.named_parameters() if name.endswith("original")]
    with pytest.raises(InputError, match="lacks 2 steps"):
        step(twin, torch.optim.SGD([twin.get_parameter(name) for name in names], lr=0.01))
    step(twin, torch.optim.SGD(parameter_groups(twin, 0.01)))
    step(model, torch.optim.SGD(parameter_groups(model, 0.01)))
    latents = [twin.get_parameter(name) for name in names]
    unquantize(twin)
    step(twin, torch.optim.SGD(latents, lr=0.01))
    with pytest.raises(InputError, match="lacks 2 steps"):  # the original is as it was
        step(model, torch.optim.SGD([model.get_parameter(name) for name in names], lr=0.01))


class Attentive(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.attention = nn.Linear(8, 8), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)[None]
        return self.attention(x, x, x, need_weights=False)[0]


def test_an_optimizer_that_holds_an_attention_from_before_fails():
    model = Attentive()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    quantize(model, Plan.uniform(model, "d4-q4", skip=("first",)))
    with pytest.raises(InputError, match="SGD: has 2 parameters that are no longer in their model"):
        step(model, optimizer)
    unquantize(model)
    step(model, optimizer)


def test_projections_take_the_place_of_the_attention_they_come_from_and_back():
    model = Attentive()
    rates = {"first": 0.1, "attention": 0.2}
    groups = [{"params": list(model.get_submodule(name).parameters()), "lr": lr} for name, lr in rates.items()]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.3)
    step(model, optimizer)
    before = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    quantize(model, Plan.uniform(model, "linear-4"), optimizer=optimizer)
    held = {id(p) for p in optimizer.param_groups[1]["params"]}
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        layer = model.attention.get_submodule(name)
        assert {id(layer.parametrizations.weight.original), id(layer.bias)} <= held
    assert len(held) == 8
    step(model, optimizer)
    assert len(optimizer.state) == len(list(model.parameters()))
    unquantize(model, optimizer=optimizer)
    assert [[id(p) for p in group["params"]] for group in optimizer.param_groups[:2]] == before
    step(model, optimizer)


def test_the_registry_keeps_no_model_alive():
    model = Attentive()
    quantize(model, Plan.uniform(model, "linear-4"))
    step(model, torch.optim.SGD(parameter_groups(model, 0.01)))
    references = [weakref.ref(p) for p in model.parameters()]
    del model
    gc.collect()
    assert not any(reference() is not None for reference in references)
