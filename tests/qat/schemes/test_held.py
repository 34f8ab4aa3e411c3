"""Held scales in state dicts: a model saved while they are held, or free, loads into one that is the other."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qat.modules.attach import float_state_dict, quantize
from qat.modules.attached import quantizers
from qat.recipe import RECIPES
from qat.schemes import SCHEMES
from workloads.format import parse_format
from workloads.plan import Plan

torch.set_num_threads(1)
FAMILIES = {
    "lsq": "linear-4-g32", "ewgs": "linear-4-t", "dorefa": "linear-4", "top1": "vq-4x16-e4-s1", "dkm": "vq-4x16-e4-s0",
    "gumbel": "vq-4x16-e4-s0", "universal": "vq-4x16-e4-s0", "lattice": "e8-q4", "pool": "pool-32",
}  # fmt: skip
CASES = [(fmt, scheme if scheme in RECIPES else "default") for scheme, fmt in FAMILIES.items()]


def made(fmt: str, recipe: str, seed: int, is_held: bool = False) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.ConvTranspose1d(32, 8, 2))
    quantize(model, Plan.uniform(model, fmt), recipe=RECIPES[recipe])
    if is_held:
        for quantizer in quantizers(model).values():
            outputs = 1 if fmt.endswith("-t") else 32 if quantizer is quantizers(model)["0"] else 8
            quantizer.hold(torch.rand(outputs, generator=torch.Generator().manual_seed(seed)) + 0.01)
    return model.eval()


def weights(model: nn.Module) -> list[torch.Tensor]:
    with torch.no_grad():
        return [model[0].weight.clone(), model[2].weight.clone()]  # pyright: ignore[reportIndexIssue]


def test_every_scheme_is_here():
    assert {RECIPES[recipe].scheme(parse_format(fmt)) for fmt, recipe in CASES} == {*SCHEMES}


@pytest.mark.parametrize("held", [(True, False), (False, True), (True, True), (False, False)])
@pytest.mark.parametrize(("fmt", "recipe"), CASES)
def test_a_state_loads_strictly_whether_scales_are_held_or_free(fmt, recipe, held):
    saved, other = (made(fmt, recipe, seed, is_held) for seed, is_held in enumerate(held))
    other.load_state_dict(saved.state_dict())
    assert all((quantizer.held is not None) is held[0] for quantizer in quantizers(other).values())
    assert all(torch.equal(a, b) for a, b in zip(weights(saved), weights(other), strict=True))
    if held[0]:  # its own copy
        quantizers(saved)["0"].hold(None)
        assert quantizers(other)["0"].held is not None


@pytest.mark.parametrize(("fmt", "recipe"), CASES)
def test_a_float_state_or_a_part_of_one_leaves_scales_held(fmt, recipe):
    saved, other = made(fmt, recipe, 0), made(fmt, recipe, 1, True)
    before = [quantizer.held for quantizer in quantizers(other).values()]
    other.load_state_dict(float_state_dict(saved))
    other.load_state_dict({"0.bias": torch.ones(32)}, strict=False)
    after = [quantizer.held for quantizer in quantizers(other).values()]
    assert all(a is not None and b is not None and torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_state_that_says_nothing_of_a_quantizer_is_refused_while_its_scale_is_held():
    """One bit has no state but a held scale: strict loading names it, and nothing is released in silence."""
    with pytest.raises(RuntimeError, match=r"Missing key.*held"):
        made("linear-1", "default", 1, True).load_state_dict(made("linear-1", "default", 0).state_dict())
