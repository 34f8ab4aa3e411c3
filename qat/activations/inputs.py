"""Quantizers on the inputs of a model's layers, set by calibration.

In a model that `workloads.capture.trace.trace` understands there is one per tensor, and additions have theirs too: such
a model can be exported. In any other (attention, softmax, layer norm), each quantized layer gets one of its own, so
that weights and activations train together; only the exporter, which traces, refuses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qat.activations.quantizer import ActivationQuantizer
from qat.activations.schemes import has_step_per_token, make_activation
from qat.kernels.compiling import outside_graphs, refuse_export
from qat.recipe import DEFAULT, Recipe
from workloads.activation import ActivationFormat
from workloads.capture.trace import trace
from workloads.errors import InputError
from workloads.networks.blocks import Add

Formats = Mapping[str, ActivationFormat]  # layer -> that of its inputs
INPUT = "input_quantizer_"  # a reader's children: the quantizers of its positional inputs, by position


def _quantize_inputs(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Forward pre-hook: each positional input through its own quantizer, if it has one."""
    refuse_export("quantized activations")
    return _quantized(module, args)


@outside_graphs
def _quantized(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    parts = [getattr(module, f"{INPUT}{i}", None) for i in range(len(args))]
    return tuple(x if part is None else part(x) for part, x in zip(parts, args, strict=True))


def attach_inputs(model: nn.Module, formats: Formats, example_input: Tensor, recipe: Recipe = DEFAULT) -> None:
    """Quantizes the inputs of the layers in `formats` and of all adds: one quantizer per source tensor.

    A tensor that several layers read has the most bits any of them asks for; one that only adds read, the
    most of all layers. In a model that cannot be traced, only layers have quantizers: one each, and embeddings
    none. Raises InputError for a traced addition that is no `workloads.networks.blocks.Add` of its own, and where a
    layer's input has no tokens for `Recipe.activation` to take a step from.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    sources = _sources(model, formats, example_input)
    _check(sources, modules, formats, recipe)
    quantizers: dict[str, ActivationQuantizer] = {}
    for source in {name: None for names in sources.values() for name in names}:
        wanted = [fmt for layer, fmt in formats.items() if source in sources.get(layer, ())]
        widest = max(wanted or formats.values(), key=lambda fmt: fmt.bits)
        quantizers[source] = make_activation(widest, source, recipe)
    for reader, names in sources.items():
        for i, name in enumerate(names):  # children of the readers: a Sequential would run a child of its own
            modules[reader].add_module(f"{INPUT}{i}", quantizers[name])
        modules[reader].register_forward_pre_hook(_quantize_inputs)


def _check(sources: Mapping[str, Any], modules: Mapping[str, nn.Module], formats: Formats, recipe: Recipe) -> None:
    loose = [name for name in sources if name not in formats and not isinstance(modules.get(name), Add)]
    if loose:
        raise InputError("model", [f"{name}: must be an own workloads.networks.blocks.Add module" for name in loose])
    images = [name for name in sources if name in formats and not isinstance(modules[name], nn.Linear)]
    by_token = [name for name in images if has_step_per_token(formats[name], recipe)]
    if by_token:
        kinds = ", ".join(f"layers.{name} is a {type(modules[name]).__name__}" for name in by_token)
        raise InputError("recipe", [f"a step per token: {kinds}: must be Linear layers, whose inputs are tokens"])


def _sources(model: nn.Module, formats: Formats, example_input: Tensor) -> dict[str, tuple[str, ...]]:
    """Each reader, a layer or an addition -> its input tensors; of what cannot be traced, each layer's own."""
    modules = dict(model.named_modules(remove_duplicate=False))
    try:
        found = trace(model, example_input).sources
    except InputError:
        first = {
            modules[name]: name for name in reversed(tuple(formats)) if not isinstance(modules[name], nn.Embedding)
        }
        return {name: (f"{name}.input",) for name in reversed(first.values())}
    return {
        reader: names
        for reader, names in found.items()
        if reader in formats or not isinstance(modules.get(reader), nn.Conv2d | nn.Linear)
    }


def activation_quantizers(model: nn.Module) -> dict[str, ActivationQuantizer]:
    """Source tensor (a node's name, or `input`) -> its quantizer; empty if activations are float."""
    return {module.source: module for module in model.modules() if isinstance(module, ActivationQuantizer)}


def calibrate(model: nn.Module, *batches: Tensor | Iterable[Any], input_step: float | None = None) -> None:
    """Sets every activation step from what the model sees in eval mode.

    `batches` are one batch, the model's input tensors, or a loader: an iterable of batches, each a tensor or a tuple
    that starts with what the model takes (a tensor, or a tuple of them), as loaders of labelled data give them.
    `input_step` fixes the step of the network's own input, 1/255 for images of bytes, if the model was traced.
    """
    quantizers = activation_quantizers(model)
    if input_step is not None and "input" in quantizers:
        quantizers["input"].freeze(input_step)
    for quantizer in quantizers.values():
        quantizer.observe()
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            for batch in inputs_of(*batches):
                model(*batch)
    finally:
        for module, was_training in modes:
            module.training = was_training
    for quantizer in quantizers.values():
        quantizer.finish()


def inputs_of(*batches: Tensor | Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """What the model takes, batch by batch; the batches as `calibrate` takes them."""
    if all(isinstance(part, Tensor) for part in batches):
        yield batches
        return
    (loader,) = batches
    for batch in loader:
        inputs = batch if isinstance(batch, Tensor) else batch[0]
        yield (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)


def detach_inputs(model: nn.Module) -> None:
    """Takes the quantizers of inputs off again."""
    for module in list(model.modules()):
        for handle, hook in list(module._forward_pre_hooks.items()):
            if hook is _quantize_inputs:
                del module._forward_pre_hooks[handle]
        for name in [name for name, _ in module.named_children() if name.startswith(INPUT)]:
            delattr(module, name)
