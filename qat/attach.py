"""Puts a plan's quantizers on a torch model, in place, as parametrizations of `weight`; and takes them off again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qat import guard
from qat.activation import ActivationQuantizer
from qat.attention import SplitAttention, merge_attention
from qat.codebook import Codebook
from qat.inputs import INPUT, attach_inputs, detach_inputs
from qat.layout import Turned, output_first, turn_of
from qat.mixture import Mixture
from qat.quantizer import Encoded, Quantizer
from qat.recipe import DEFAULT, Recipe
from qat.schemes import make_quantizer
from workloads.errors import InputError
from workloads.plan import Plan

LAYERS = (
    nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d,
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip


class Attached(NamedTuple):
    """One quantized layer: its name, its quantizer and its latent weight, with outputs first."""

    name: str
    quantizer: Quantizer
    weight: Tensor


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
    `optimizer`, without weight decay. Layers that share a weight share its quantizer. A plan that names the
    projections of an nn.MultiheadAttention (`attn.q_proj`) has it replaced by a `SplitAttention`.
    Raises InputError for a layer that is none of `LAYERS`, or is quantized already.
    """
    _split_named(model, plan, optimizer)
    layers = _layers(model, plan)
    if example_input is not None:
        attach_inputs(model, {name: plan.layers[name].activation_bits for name in layers}, example_input)
    weights = {name: output_first(module, module.get_parameter("weight").detach()) for name, module in layers.items()}
    books = {**_fit_books(weights, plan, recipe, books or {}, seed), **(books or {})}
    shared: dict[int, Quantizer] = {}
    for name, module in layers.items():
        latent = module.get_parameter("weight")
        if id(latent) not in shared:
            shared[id(latent)] = make_quantizer(plan.format_of(name), weights[name], books.get(plan.book_id(name)), recipe)
        _attach(module, shared[id(latent)])
    if optimizer is not None:
        guard.adopt(optimizer, quantizer_parameters(model), weight_decay=0.0)
    model.register_forward_pre_hook(_begin)
    model.register_forward_hook(_end, always_call=True)
    model.register_load_state_dict_pre_hook(_accept_float_state)
    return model


def _split_named(model: nn.Module, plan: Plan, optimizer: torch.optim.Optimizer | None) -> None:
    """Splits the attentions whose projections the plan names; their old weights must not be trained on."""
    wanted = {name.rpartition(".")[0] for name in plan.layers if name.endswith(("q_proj", "k_proj", "v_proj"))}
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.MultiheadAttention) and name in wanted:
            split = SplitAttention(module)
            old = list(module.parameters())
            for parameter in old:
                guard.watch(parameter, ())
            model.set_submodule(name, split)
            if optimizer is not None:
                guard.drop(optimizer, old)
                guard.adopt(optimizer, split.parameters(), weight_decay=None)


def _layers(model: nn.Module, plan: Plan) -> dict[str, nn.Module]:
    modules = dict(model.named_modules())
    wrong = [name for name in plan.layers if not isinstance(modules.get(name), LAYERS)]
    if wrong:
        known = [name for name, module in modules.items() if isinstance(module, LAYERS)]
        kinds = ", ".join(kind.__name__ for kind in LAYERS)
        raise InputError("plan", [f"layers.{name}: must be a {kinds}, one of {known}" for name in wrong])
    twice = [name for name in plan.layers if parametrize.is_parametrized(modules[name], "weight")]
    if twice:
        raise InputError("plan", [f"layers.{name}: is quantized already (unquantize first)" for name in twice])
    return {name: modules[name] for name in plan.layers}


def _fit_books(
    weights: Mapping[str, Tensor], plan: Plan, recipe: Recipe, given: Mapping[str, Codebook], seed: int
) -> dict[str, Codebook]:
    """The plan's codebooks that are not given, each fitted to the weights that share it."""
    books = {}
    for book_id, fmt in plan.codebooks().items():
        if book_id not in given:
            users = [weight for name, weight in weights.items() if plan.book_id(name) == book_id]
            books[book_id] = Codebook.fit(fmt, users, seed, recipe)
    return books


def _attach(module: nn.Module, quantizer: Quantizer) -> None:
    turn = turn_of(module)
    latent = module.get_parameter("weight")
    chain = quantizer if turn is None else Turned(quantizer, turn)
    parametrize.register_parametrization(module, "weight", chain, unsafe=True)
    guard.watch(latent, quantizer.trained())


def _begin(model: nn.Module, args: Any) -> None:
    """Before a forward: each quantizer works once in it, however often its weight is read."""
    for quantizer in quantizers(model).values():
        quantizer.kept, quantizer.keeps = None, True


def _end(model: nn.Module, args: Any, output: Any) -> None:
    for quantizer in quantizers(model).values():
        quantizer.kept, quantizer.keeps = None, False


def _accept_float_state(model: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """A float state dict fits a quantized model: `weight` is the latent weight, what it lacks stays as it is."""
    own = None
    for name, _, _ in attached(model):
        key, latent = f"{prefix}{name}.weight", f"{prefix}{name}.parametrizations.weight.original"
        if key in state:
            state[latent] = state.pop(key)
            own = model.state_dict(prefix=prefix) if own is None else own
    for key, value in (own or {}).items():
        if ".parametrizations." in key or INPUT in key:
            state.setdefault(key, value)


def float_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict that the model would have without its quantizers, with the latent weights."""
    latent = {f"{name}.parametrizations.weight.original": f"{name}.weight" for name, _, _ in attached(model)}
    state = model.state_dict()
    kept = {key: value for key, value in state.items() if ".parametrizations." not in key and INPUT not in key}
    return kept | {name: state[key] for key, name in latent.items()}


def attached(model: nn.Module) -> Iterator[Attached]:
    """Every quantized layer; layers that share a weight come each."""
    for name, module in model.named_modules(remove_duplicate=False):
        if parametrize.is_parametrized(module, "weight"):
            chain = getattr(module.parametrizations, "weight")  # noqa: B009
            quantizer = chain[0].quantizer if isinstance(chain[0], Turned) else chain[0]
            if isinstance(quantizer, Quantizer):
                yield Attached(name, quantizer, output_first(module, chain.original))


def quantizers(model: nn.Module) -> dict[str, Quantizer]:
    """Layer name -> the quantizer of its weight."""
    return {name: quantizer for name, quantizer, _ in attached(model)}


def encode_model(model: nn.Module) -> dict[str, Encoded]:
    """Layer name -> its stored weight, which decodes to exactly the weight of the forward pass."""
    return {name: quantizer.encode(weight) for name, quantizer, weight in attached(model)}


def after_step(model: nn.Module, step: int) -> dict[str, float]:
    """What changes outside the gradient after a training step: averages, revival, freezing; returns its counts.

    The same for the same state and step, in every process.
    """
    found: dict[str, float] = {}
    users: dict[Codebook, list[Attached]] = {}
    done: set[int] = set()
    for one in attached(model):
        if id(one.quantizer) in done:
            continue
        done.add(id(one.quantizer))
        _add(found, one.quantizer.after_step(one.weight.detach(), step))
        book = getattr(one.quantizer, "book", None)
        if isinstance(book, Codebook) and one.quantizer.recipe.codebook != "frozen":
            users.setdefault(book, []).append(one)
    for book, members in users.items():
        index, vectors = zip(*(one.quantizer.members(one.weight) for one in members), strict=True)
        _add(found, book.after_step(torch.cat(index), torch.cat(vectors), step))
    return found


def _add(total: dict[str, float], more: Mapping[str, float]) -> None:
    for key, value in more.items():
        total[key] = total.get(key, 0.0) + value


def quantizer_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Steps, codebooks and mixture logits: everything that quantization added, each once."""
    owners = (Quantizer, Codebook, Mixture, ActivationQuantizer)
    found = {
        id(parameter): parameter
        for module in model.modules()
        if isinstance(module, owners)
        for parameter in module.parameters()
    }
    return list(found.values())


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float = 0.0, quantizer_lr: float | None = None
) -> list[dict[str, Any]]:
    """Groups for an optimizer: the network's parameters, and the quantizers' without weight decay."""
    added = quantizer_parameters(model)
    ids = {id(parameter) for parameter in added}
    own = [parameter for parameter in model.parameters() if id(parameter) not in ids]
    return [
        {"params": own, "lr": lr, "weight_decay": weight_decay},
        {"params": added, "lr": lr if quantizer_lr is None else quantizer_lr, "weight_decay": 0.0},
    ]


def unquantize(model: nn.Module, *, keep_values: bool = False) -> nn.Module:
    """Takes all quantizers off, in place. Weights return to their latent values, or keep the quantized ones."""
    detach_inputs(model)
    for module in list(model.modules()):
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for handle in [handle for handle, hook in hooks.items() if hook in (_begin, _end)]:
                del hooks[handle]
                module._forward_hooks_always_called.pop(handle, None)
        if parametrize.is_parametrized(module, "weight"):
            guard.forget(getattr(module.parametrizations, "weight").original)  # noqa: B009
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=keep_values)
    return merge_attention(model)
