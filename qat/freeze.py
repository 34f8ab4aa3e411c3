"""From training to storage: a frozen model holds its codes as buffers and its weights as plain tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qat import guard
from qat.attach import attached, quantizers
from qat.codebook import Codebook
from qat.layout import output_first, turn_of
from qat.quantizer import Encoded
from qat.recipe import DEFAULT, Recipe
from qat.schemes import make_quantizer
from workloads.codec import Packed, pack_all, unpack_all
from workloads.format import WeightFormat, parse_format

STORED = "stored_"  # a frozen layer's buffers: packed codes, scale codes, error signs, scale, table


def encode(
    weight: Tensor, fmt: WeightFormat | str, *, recipe: Recipe = DEFAULT, book: Codebook | None = None
) -> Encoded:
    """Any weight [O, ...] in any format, without training; a codebook is fitted to it unless `book` is given.

    `nbytes` of the result is what is stored. Raises ValueError for weights that are not finite.
    """
    fmt = parse_format(fmt) if isinstance(fmt, str) else fmt
    return make_quantizer(fmt, weight.detach().float(), book, recipe).encode(weight)


def decode(encoded: Encoded) -> Tensor:
    """The weight that is stored, float32 [O, ...]."""
    return encoded.decode()


def freeze(model: nn.Module) -> nn.Module:
    """Replaces each quantizer by its codes, in place: weights become constants, equal to those of the last forward.

    Packed codes stay beside them as buffers, so that a state dict holds what is stored. A frozen model deep-copies,
    compiles and exports like a float one. Activation quantizers stay.
    """
    for name in quantizers(model):
        module = model.get_submodule(name)
        if not parametrize.is_parametrized(module, "weight"):
            continue  # the layer shares its weight with one that was frozen before, under another name
        chain = getattr(module.parametrizations, "weight")  # noqa: B009
        quantizer = next(one.quantizer for one in attached(model) if one.name == name)
        encoded = quantizer.encode(output_first(module, chain.original.detach()))
        guard.forget(chain.original)
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
        turn = turn_of(module)
        value = encoded.decode() if turn is None else turn(encoded.decode())
        weight = module.get_parameter("weight")
        weight.data = value.to(weight.dtype).to(weight.device)
        weight.requires_grad_(False)
        for part, tensor in _buffers(encoded).items():
            module.register_buffer(STORED + part, tensor)
        module.stored_format = encoded.fmt  # pyright: ignore[reportAttributeAccessIssue]
    return model


def _buffers(encoded: Encoded) -> dict[str, Tensor]:
    packed = pack_all(encoded.fmt, encoded.stored())._asdict()
    buffers = {part: torch.from_numpy(np.ascontiguousarray(stream)) for part, stream in packed.items()}
    buffers["scale"] = encoded.scale.detach().clone()
    if encoded.table is not None:
        buffers["table"] = encoded.table.clone()
    return buffers


def stored(module: nn.Module) -> Encoded:
    """What a frozen layer stores. Raises ValueError for a layer that is not frozen."""
    fmt = getattr(module, "stored_format", None)
    if not isinstance(fmt, WeightFormat):
        raise ValueError(f"{type(module).__name__}: is not frozen: qat.freeze its model first")
    shape = tuple(output_first(module, module.get_parameter("weight")).shape)
    parts = (module.get_buffer(STORED + part).numpy() for part in Packed._fields)
    codes, scale_codes, errors = (_tensor(part) for part in unpack_all(fmt, Packed(*parts), shape))
    assert codes is not None
    table = dict(module.named_buffers(recurse=False)).get(f"{STORED}table")
    return Encoded(fmt, shape, codes, module.get_buffer(f"{STORED}scale"), scale_codes, errors, table)


def _tensor(part: np.ndarray | None) -> Tensor | None:
    return None if part is None else torch.from_numpy(part)


def summary(model: nn.Module) -> list[dict[str, float | str]]:
    """Per quantized layer: format, stored bits per weight, relative squared error, and how its codes are used."""
    rows = []
    for name, quantizer, weight in attached(model):
        encoded, weight = quantizer.encode(weight), weight.detach().float()
        error = float((encoded.decode() - weight).square().sum() / weight.square().sum().clamp_min(1e-30))
        own_bits = 8 * encoded.nbytes / weight.numel()
        rows.append(
            {"layer": name, "format": quantizer.fmt.name, "weights": weight.numel(), "bits_per_weight": own_bits,
             "relative_error": error} | quantizer.statistics(weight)
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
