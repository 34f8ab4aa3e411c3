"""Puts a plan's quantizers on a torch model, in place: on weights as parametrizations, on inputs as hooks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qat.activation import ActivationQuantizer
from qat.mixture import Mixture
from qat.schemes import Codebook, Encoded, Quantizer, make_quantizer
from qat.schemes.vector import VectorQuantizer, normalised_vectors
from workloads.capture import trace
from workloads.errors import InputError
from workloads.networks import Add
from workloads.plan import Plan

INPUT = "input_quantizer_"  # a reader's children: the quantizers of its positional inputs, by position


def quantize(
    model: nn.Module,
    plan: Plan,
    *,
    books: Mapping[str, Codebook] | None = None,
    example_input: Tensor | None = None,
    seed: int = 0,
    optimizer: torch.optim.Optimizer | None = None,
) -> nn.Module:
    """Quantizes every layer of the plan; the same model is returned.

    `books` (id of `Plan.codebooks` -> book) are used as given; missing ones are fitted to the weights that
    share them. With an `example_input`, activations are quantized too and need `calibrate`. New parameters
    join `optimizer`, without weight decay. Raises InputError if a layer is no Conv2d or Linear of the model.
    """
    layers = _layers(model, plan.layers)
    if example_input is not None:
        bits = {name: choice.activation_bits for name, choice in plan.layers.items()}
        quantize_activations(model, bits, example_input)
    books = {**_fit_books(layers, plan, books or {}, seed), **(books or {})}
    for name, module in layers.items():
        book = books.get(plan.book_id(name))
        quantizer = make_quantizer(plan.format_of(name), module.get_parameter("weight").detach(), book)
        parametrize.register_parametrization(module, "weight", quantizer, unsafe=True)
    if optimizer is not None:
        known = {id(p) for group in optimizer.param_groups for p in group["params"]}
        new = [parameter for parameter in quantizer_parameters(model) if id(parameter) not in known]
        optimizer.add_param_group({"params": new, "weight_decay": 0.0})
    return model


def _layers(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    modules = dict(model.named_modules())
    wrong = [name for name in names if not isinstance(modules.get(name), nn.Conv2d | nn.Linear)]
    if wrong:
        known = [name for name, module in modules.items() if isinstance(module, nn.Conv2d | nn.Linear)]
        raise InputError("plan", [f"layers.{name}: must be a Conv2d or Linear, one of {known}" for name in wrong])
    twice = [name for name in names if parametrize.is_parametrized(modules[name], "weight")]
    if twice:
        raise InputError("plan", [f"layers.{name}: is quantized already (unquantize first)" for name in twice])
    return {name: modules[name] for name in names}


def _fit_books(
    layers: Mapping[str, nn.Module], plan: Plan, given: Mapping[str, Codebook], seed: int
) -> dict[str, Codebook]:
    """The plan's codebooks that are not given, each fitted to the weights that share it."""
    books = {}
    for book_id, fmt in plan.codebooks().items():
        users = [name for name in layers if plan.book_id(name) == book_id]
        if book_id not in given:
            weights = [layers[name].get_parameter("weight").detach() for name in users]
            books[book_id] = Codebook.fit(fmt, weights, seed)
    return books


def _quantize_inputs(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Forward pre-hook: each positional input through its own quantizer."""
    return tuple(module.get_submodule(f"{INPUT}{i}")(x) for i, x in enumerate(args))


def quantize_activations(model: nn.Module, layer_bits: Mapping[str, int], example_input: Tensor) -> None:
    """Quantizes the inputs of the layers in `layer_bits` and of all adds: one quantizer per source tensor.

    A tensor that several layers read has the most bits any of them asks for; one that only adds read, the
    most of all layers. Raises InputError for an addition that is no `workloads.networks.Add` of its own.
    """
    modules = dict(model.named_modules())
    sources = {
        reader: names
        for reader, names in trace(model, example_input).sources.items()
        if reader in layer_bits or not isinstance(modules.get(reader), nn.Conv2d | nn.Linear)
    }
    loose = [reader for reader in sources if not isinstance(modules.get(reader), nn.Conv2d | nn.Linear | Add)]
    if loose:
        raise InputError("model", [f"{name}: must be an own workloads.networks.Add module" for name in loose])
    quantizers: dict[str, ActivationQuantizer] = {}
    for source in {name: None for names in sources.values() for name in names}:
        wanted = [bits for layer, bits in layer_bits.items() if source in sources[layer]]
        quantizers[source] = ActivationQuantizer(max(wanted or layer_bits.values()), source=source)
    for reader, names in sources.items():
        for i, name in enumerate(names):  # children of the readers: a Sequential would run a child of its own
            modules[reader].add_module(f"{INPUT}{i}", quantizers[name])
        modules[reader].register_forward_pre_hook(_quantize_inputs)


def activation_quantizers(model: nn.Module) -> dict[str, ActivationQuantizer]:
    """Source tensor (a node's name, or `input`) -> its quantizer; empty if activations are float."""
    return {module.source: module for module in model.modules() if isinstance(module, ActivationQuantizer)}


def calibrate(model: nn.Module, *inputs: Tensor, input_step: float | None = None) -> None:
    """Sets every activation step from one batch (the model's `inputs`), run in eval mode.

    `input_step` fixes the step of the network's own input, 1/255 for images of bytes.
    """
    quantizers = activation_quantizers(model)
    if input_step is not None:
        quantizers["input"].freeze(input_step)
    for quantizer in quantizers.values():
        quantizer.observe()
    was_training = model.training
    with torch.no_grad():
        model.eval()(*inputs)
    model.train(was_training)
    for quantizer in quantizers.values():
        quantizer.finish()


def _quantized(model: nn.Module) -> Iterator[tuple[str, Quantizer, Tensor]]:
    """(layer name, quantizer, latent weight) of every quantized layer."""
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            chain = getattr(module.parametrizations, "weight")  # noqa: B009
            if isinstance(chain[0], Quantizer):
                yield name, chain[0], chain.original


def quantizers(model: nn.Module) -> dict[str, Quantizer]:
    """Layer name -> the quantizer of its weight."""
    return {name: quantizer for name, quantizer, _ in _quantized(model)}


def encode_model(model: nn.Module) -> dict[str, Encoded]:
    """Layer name -> its stored weight, which decodes to exactly the weight of the forward pass."""
    return {name: quantizer.encode(weight) for name, quantizer, weight in _quantized(model)}


def after_step(model: nn.Module, step: int) -> int:
    """Revives codewords that no vector uses, with current vectors; returns how many. Call it now and then."""
    users: dict[Codebook, list[tuple[VectorQuantizer, Tensor]]] = {}
    for _, quantizer, weight in _quantized(model):
        if isinstance(quantizer, VectorQuantizer):
            users.setdefault(quantizer.book, []).append((quantizer, weight))
    revived = 0
    for book, members in users.items():
        codes = torch.cat([quantizer.encode(weight).codes.flatten() for quantizer, weight in members])
        pool = torch.cat([normalised_vectors(weight, book.fmt.vector_length) for _, weight in members])
        revived += book.revive(pool, torch.bincount(codes, minlength=book.fmt.num_entries).float(), step)
    return revived


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
    for module in list(model.modules()):
        for handle, hook in list(module._forward_pre_hooks.items()):
            if hook is _quantize_inputs:
                del module._forward_pre_hooks[handle]
        for name in [name for name, _ in module.named_children() if name.startswith(INPUT)]:
            delattr(module, name)
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=keep_values)
    return model
