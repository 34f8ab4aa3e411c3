"""Quantizers on the inputs of layers and additions: one per tensor, found by tracing, set by calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qat.activation import ActivationQuantizer
from workloads.capture import trace
from workloads.errors import InputError
from workloads.networks import Add

INPUT = "input_quantizer_"  # a reader's children: the quantizers of its positional inputs, by position


def _quantize_inputs(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Forward pre-hook: each positional input through its own quantizer."""
    return tuple(module.get_submodule(f"{INPUT}{i}")(x) for i, x in enumerate(args))


def attach_inputs(model: nn.Module, layer_bits: Mapping[str, int], example_input: Tensor) -> None:
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


def detach_inputs(model: nn.Module) -> None:
    """Takes the quantizers of inputs off again."""
    for module in list(model.modules()):
        for handle, hook in list(module._forward_pre_hooks.items()):
            if hook is _quantize_inputs:
                del module._forward_pre_hooks[handle]
        for name in [name for name, _ in module.named_children() if name.startswith(INPUT)]:
            delattr(module, name)
