"""Puts a plan's quantizers on a torch model, in place, as parametrizations of `weight`; takes them off again."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qat.activations.inputs import attach_inputs, detach_inputs
from qat.modules import optimizers
from qat.modules.attached import quantizer_in, quantizer_of
from qat.modules.attention import Replaced, SplitAttention, merge, split
from qat.modules.hooks import hook, unhook
from qat.modules.layers import LAYERS, Turned, is_frozen, output_first, problems_of, turn_of
from qat.modules.mixture import Mixture
from qat.modules.upkeep import quantizer_parameters
from qat.quantizer import Quantizer
from qat.recipe import DEFAULT, Recipe
from qat.schemes import make_quantizer
from qat.schemes.common.codebook import Codebook
from workloads.errors import InputError
from workloads.plan import Plan


def quantize(  # noqa: PLR0913 (a front door: all but two are named)
    model: nn.Module,
    plan: Plan,
    *,
    recipe: Recipe = DEFAULT,
    books: Mapping[str, Codebook] | None = None,
    example_input: Tensor | None = None,
    seed: int = 0,
    optimizer: torch.optim.Optimizer | None = None,
) -> nn.Module:
    """Quantizes every layer of the plan; the same model is returned. Layers that the plan does not name stay float.

    `books` (id of `Plan.codebooks` -> book) are used as given; missing ones are fitted to the weights that share
    them. With an `example_input`, activations are quantized too and need `calibrate`. New parameters join
    `optimizer`, without weight decay. Layers that share a weight share its quantizer. An nn.MultiheadAttention with
    a projection in the plan (`attn.q_proj`) becomes a `SplitAttention`. Raises InputError, and leaves the model as
    it was, for layers that cannot be quantized.
    """
    wanted = {name.rpartition(".")[0] for name in plan.layers}
    whole = [m for name, m in model.named_modules() if name in wanted and type(m) is not SplitAttention]
    replaced: Replaced = {}
    try:
        for attention in whole:
            if isinstance(attention, nn.MultiheadAttention):
                replaced |= split(attention)
        layers = _layers(model, plan)
        made = _quantizers(layers, plan, recipe, books or {}, seed)
        if example_input is not None:
            attach_inputs(model, {name: plan.layers[name].activation_format for name in layers}, example_input, recipe)
    except Exception:
        for attention in whole:
            if isinstance(attention, SplitAttention):
                merge(attention)
        raise
    for module in {id(module): module for module in layers.values()}.values():
        turn, quantizer = turn_of(module), made[id(module.get_parameter("weight"))]
        chain = quantizer if turn is None else Turned(quantizer, turn)
        parametrize.register_parametrization(module, "weight", chain, unsafe=True)
    hook(model)
    optimizers.replace(replaced, optimizer)
    if optimizer is not None:
        optimizers.adopt(optimizer, quantizer_parameters(model))
    return model


def _layers(model: nn.Module, plan: Plan) -> dict[str, nn.Module]:
    """The plan's layers. Raises InputError that lists what is wrong with any."""
    modules = dict(model.named_modules(remove_duplicate=False))
    known = [name for name, module in modules.items() if isinstance(module, LAYERS)]
    problems = []
    for name in plan.layers:
        if not isinstance(module := modules.get(name), LAYERS):
            kinds = ", ".join(kind.__name__ for kind in LAYERS)
            problems.append(f"layers.{name}: must be a {kinds}, one of {known}")
        else:
            problems += [f"layers.{name}: {problem}" for problem in problems_of(module)]
    problems = problems or _ties(modules, plan)
    if problems:
        raise InputError("plan", problems)
    return {name: modules[name] for name in plan.layers}


def _ties(modules: Mapping[str, nn.Module], plan: Plan) -> list[str]:
    """What is wrong with layers that share a weight: all must be in the plan, and quantize it alike."""
    ways: dict[int, tuple[str, Any]] = {}
    problems = []
    for name in plan.layers:
        way = plan.layers[name].format, turn_of(modules[name])
        first, known = ways.setdefault(id(modules[name].get_parameter("weight")), (name, way))
        if way != known:
            problems.append(f"layers.{name}: shares its weight with {first}: must have its format and kind of layer")
    quantized = {id(modules[name]) for name in plan.layers}
    for name, module in modules.items():
        for parameter in module._parameters.values():
            if id(parameter) in ways and id(module) not in quantized:
                first = ways[id(parameter)][0]
                problems.append(f"layers.{first}: shares its weight with {name}: both must be layers of the plan")
    return problems


def _quantizers(
    layers: Mapping[str, nn.Module], plan: Plan, recipe: Recipe, given: Mapping[str, Codebook], seed: int
) -> dict[int, Quantizer]:
    """Id of a latent weight -> its quantizer. Codebooks that are not given are fitted to the weights that share them.

    Each book has its own seed, so that books of one format are not revived alike. All is fitted on the CPU, so it is
    the same wherever the weights are.
    """
    latent = {name: module.get_parameter("weight") for name, module in layers.items()}
    first = {id(parameter): name for name, parameter in reversed(latent.items())}
    weights = {name: output_first(layers[name], latent[name].detach()).cpu() for name in reversed(first.values())}
    books = dict(given)
    for number, (book_id, fmt) in enumerate(plan.codebooks().items()):
        if book_id not in books:
            users = [weight for name, weight in weights.items() if plan.book_id(name) == book_id]
            books[book_id] = Codebook.fit(fmt, users, seed + number, recipe)
    made = {
        name: make_quantizer(plan.format_of(name), weight, books.get(plan.book_id(name)), recipe)
        for name, weight in weights.items()
    }
    return {id(latent[name]): quantizer.to(latent[name].device) for name, quantizer in made.items()}


def float_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict that the model would have without its quantizers, with copies of the latent weights."""
    return unquantize(copy.deepcopy(model)).state_dict()


def settle(model: nn.Module) -> None:
    """Gives every latent weight its quantized value, with the strides of the forward pass."""
    values = {}
    for module in model.modules():
        if quantizer_of(module) is not None:
            latent = getattr(module.parametrizations, "weight").original  # noqa: B009
            values[id(latent)] = latent, getattr(module, "weight").detach().clone()  # noqa: B009
    for latent, value in values.values():
        latent.data = value


def detach(model: nn.Module) -> None:
    """Takes the quantizers of weights off; weights have their latent values."""
    unhook(model)
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            chain = getattr(module.parametrizations, "weight")  # noqa: B009
            if quantizer_in(chain) is not None or isinstance(chain[0], Mixture):
                optimizers.forget(chain.original)
                _remove(module)


def _remove(module: nn.Module) -> None:
    """As torch removes a parametrization, but copies of the module stay whole, and `weight` its first parameter."""
    own = type(module)  # deep copies share this class, from which torch deletes `weight`
    setattr(module, "__class__", type(own.__name__, own.__bases__, dict(vars(own))))  # noqa: B010
    parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
    for name in [name for name in module._parameters if name != "weight"]:
        module._parameters[name] = module._parameters.pop(name)


def unquantize(
    model: nn.Module, *, keep_values: bool = False, optimizer: torch.optim.Optimizer | None = None
) -> nn.Module:
    """Takes all quantizers off, in place. Weights return to their latent values, or keep the quantized ones.

    Attention becomes whole again, in `optimizer` too. Raises InputError for a frozen model.
    """
    if frozen := [name for name, module in model.named_modules() if is_frozen(module)]:
        raise InputError("model", [f"{name}: is frozen, its latent weight is gone" for name in frozen])
    if keep_values:
        settle(model)
    detach_inputs(model)
    detach(model)
    replaced: Replaced = {}
    for module in list(model.modules()):
        if isinstance(module, SplitAttention):
            replaced |= merge(module)
    optimizers.replace(replaced, optimizer)
    return model
