"""A frozen model as a file: packed codes, scales, and all that stayed float, without the weights that they decode to.

One safetensors file, any network: `qat.export` is for the networks that run in integers from end to end.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from qat.activations.inputs import attach_inputs
from qat.modules.layers import FORMAT, is_frozen, output_first
from qat.recipe import RECIPES
from qat.storage.freeze import STORED, stored
from workloads.activation import parse_activation
from workloads.errors import InputError
from workloads.format import parse_format
from workloads.store import write_atomically


def save_frozen(model: nn.Module, path: Path, recipe: str, activations: dict[str, str] | None = None) -> None:
    """Write a frozen model. `activations`: layer -> format of its inputs, if they are quantized, too."""
    layers = {name: module for name, module in model.named_modules(remove_duplicate=False) if is_frozen(module)}
    header = {"formats": {name: getattr(module, FORMAT).name for name, module in layers.items()},
              "activations": activations or {}, "recipe": recipe}  # fmt: skip
    decoded = {f"{name}.weight" for name in layers}
    tensors = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items() if name not in decoded}
    write_atomically(path, save(tensors, {"cimsim": json.dumps(header, sort_keys=True)}))


def load_frozen(model: nn.Module, path: Path, example_input: Tensor | None = None) -> nn.Module:
    """The float network `model` becomes the frozen one of the file, in place; the same model is returned.

    Networks whose inputs are quantized need an `example_input`. Raises InputError for a file that cannot be read, or
    is of another network.
    """
    header, tensors = _read(path)
    try:
        for name, fmt in header["formats"].items():
            _freeze(model.get_submodule(name), fmt, _of_layer(tensors, name))
        if header["activations"]:
            assert example_input is not None, "inputs are quantized: an example_input is needed"
            inputs = {name: parse_activation(fmt) for name, fmt in header["activations"].items()}
            attach_inputs(model, inputs, example_input, RECIPES[header["recipe"]])
        decoded = {f"{name}.weight": model.get_submodule(name).weight for name in header["formats"]}
        model.load_state_dict(tensors | decoded)
    except (AttributeError, KeyError, RuntimeError, ValueError, AssertionError) as error:
        raise InputError(str(path), [f"does not fit this network: {error}".replace("\n", " ")]) from None
    return model


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return json.loads(file.metadata()["cimsim"]), {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(str(path), [f"is no file of a frozen model ({type(error).__name__}: {error})"]) from None


def _of_layer(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """A layer's stored buffers."""
    start = f"{name}.{STORED}"
    return {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(start)}


def _freeze(module: nn.Module, fmt: str, buffers: dict[str, Tensor]) -> None:
    """Gives a layer its buffers, and the weight that they decode to."""
    for key, tensor in buffers.items():
        module.register_buffer(key, tensor)
    setattr(module, FORMAT, parse_format(fmt))
    weight = module.get_parameter("weight")
    with torch.no_grad():
        weight.copy_(output_first(module, stored(module).decode()))  # a turn is its own inverse
    weight.requires_grad_(False)
