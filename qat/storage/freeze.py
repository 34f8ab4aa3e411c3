"""From training to storage: a frozen model holds its codes as buffers and its weights as plain tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from qat.modules.attach import detach, settle
from qat.modules.attached import Attached, attached, quantizers
from qat.modules.layers import FORMAT, is_frozen, output_first
from qat.modules.mixture import Mixture
from qat.quantizer import Encoded
from qat.recipe import UNTRAINED, Recipe
from qat.schemes import make_quantizer
from qat.schemes.common.codebook import Codebook
from workloads.codec import Packed, pack_all, unpack_all
from workloads.errors import InputError
from workloads.format import WeightFormat, parse_format

STORED = "stored_"  # a frozen layer's buffers: packed codes, scale codes, error signs, scale, table


def encode(
    weight: Tensor, fmt: WeightFormat | str, *, recipe: Recipe = UNTRAINED, book: Codebook | None = None
) -> Encoded:
    """Any weight [O, ...] in any format, of least error without training; a codebook is fitted unless `book` is given.

    `nbytes` of the result is what is stored. Raises ValueError for a weight of one dimension or without numbers, and
    for one that is not finite.
    """
    if weight.dim() < 2 or not weight.numel():
        raise ValueError(f"weight {list(weight.shape)}: must have two or more dimensions [O, I, ...], and numbers")
    fmt = parse_format(fmt) if isinstance(fmt, str) else fmt
    return make_quantizer(fmt, weight.detach().float().cpu(), book, recipe).to(weight.device).encode(weight)


def decode(encoded: Encoded) -> Tensor:
    """The weight that is stored, float32 [O, ...]."""
    return encoded.decode()


def freeze(model: nn.Module) -> nn.Module:
    """Replaces each quantizer by its codes, in place: weights become constants, equal to those of the forward pass.

    Packed codes stay beside them as buffers, so that a state dict holds what is stored. A frozen model deep-copies,
    compiles and exports like a float one. Activation quantizers stay. Raises InputError for a model with nothing to
    freeze, or with a mixture of formats.
    """
    mixed = [name for name, module in model.named_modules() if isinstance(module, Mixture)]
    if mixed:
        raise InputError("model", [f"{name}: is a mixture of formats: quantize with a plan first" for name in mixed])
    encoded = {id(one.quantizer): one.quantizer.eval().encode(one.weight) for one in _layers(model)}
    owners = {name: id(quantizer) for name, quantizer in quantizers(model).items()}
    settle(model)
    detach(model)
    for name, owner in owners.items():
        module = model.get_submodule(name)
        module.get_parameter("weight").requires_grad_(False)
        for part, tensor in _buffers(encoded[owner]).items():
            module.register_buffer(STORED + part, tensor.to(module.get_parameter("weight").device))
        setattr(module, FORMAT, encoded[owner].fmt)
    return model


def _layers(model: nn.Module) -> list[Attached]:
    """The quantized layers, of those that share a weight the first. Raises InputError if there are none."""
    layers = {id(one.quantizer): one for one in reversed(list(attached(model)))}
    if not layers:
        raise InputError("model", ["has no quantized layer (or is frozen): qat.quantize it first"])
    return list(reversed(layers.values()))


def _buffers(encoded: Encoded) -> dict[str, Tensor]:
    packed = pack_all(encoded.fmt, encoded.stored())._asdict()
    buffers = {part: torch.from_numpy(np.ascontiguousarray(stream)) for part, stream in packed.items()}
    buffers["scale"] = encoded.scale.detach().clone()
    if encoded.table is not None:
        buffers["table"] = encoded.table.to(torch.int8)  # entries have at most 8 bits
    return buffers


def stored(module: nn.Module) -> Encoded:
    """What a frozen layer stores. Raises InputError for a layer that is not frozen."""
    if not is_frozen(module):
        raise InputError("layer", [f"{type(module).__name__}: is not frozen: qat.freeze its model first"])
    fmt = getattr(module, FORMAT)
    shape = tuple(output_first(module, module.get_parameter("weight")).shape)
    buffers = {name.removeprefix(STORED): buffer for name, buffer in module.named_buffers(recurse=False)}
    packed = Packed(*(buffers[part].cpu().numpy() for part in Packed._fields))
    codes, scale_codes, errors = (_tensor(part) for part in unpack_all(fmt, packed, shape))
    assert codes is not None
    table = buffers["table"].long() if "table" in buffers else None
    return Encoded(fmt, shape, codes, buffers["scale"], scale_codes, errors, table)


def _tensor(part: np.ndarray | None) -> Tensor | None:
    return None if part is None else torch.from_numpy(part)


def summary(model: nn.Module) -> list[dict[str, float | str]]:
    """Per quantized weight: format, stored bits per weight, relative squared error, and how its codes are used.

    Bits include scales and padding to bytes; those of a codebook are divided among the weights that share it, so that
    all rows together are what is stored. A weight that layers share comes once. Raises InputError for a model without.
    """
    layers = _layers(model)
    books = [id(getattr(one.quantizer, "book", None) or one.quantizer) for one in layers]
    rows = []
    for one, book in zip(layers, books, strict=True):
        encoded, weight = one.quantizer.encode(one.weight), one.weight.detach().float()
        error = float((encoded.decode() - weight).square().sum() / weight.square().sum().clamp_min(1e-30))
        shared = -(-encoded.fmt.codebook_bits // 8)
        stored_bytes = encoded.nbytes - shared + shared / books.count(book)
        rows.append(
            {"layer": one.name, "format": encoded.fmt.name, "weights": weight.numel(),
             "bits_per_weight": 8 * stored_bytes / weight.numel(), "relative_error": error}
            | one.quantizer.statistics(weight)
        )  # fmt: skip
    return rows


def show(rows: Sequence[dict[str, float | str]]) -> str:
    """The rows of `summary` as text."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(key, "")) for key in keys] for row in rows]
    widths = [max(map(len, column)) for column in zip(keys, *cells, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in (keys, *cells)]
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
