"""From a quantized torch model to the integers of a chip: codes, codebooks, grids and requantization.

Batch norm stays out of the codes: it becomes each channel's gain, in the multiplier, and offset, in the bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cimsim.integer.artifact import Artifact, Grid, Header, StoredLayer, pack_entries
from cimsim.integer.grids import grids_of
from cimsim.integer.requantize import rescale_for
from qat.activations.inputs import activation_quantizers
from qat.activations.quantizer import ActivationQuantizer
from qat.modules.attached import encode_model, quantizers
from qat.quantizer import Encoded
from workloads.capture.trace import Capture, trace
from workloads.codec import pack_all
from workloads.errors import InputError
from workloads.layer import Node
from workloads.plan import Plan

MAX_FRACTION_BITS = 8  # of the logits, below one step of the widest channel's sums
LOGIT_BITS = 32


class RealLayer(NamedTuple):
    """A layer before its requantization: integers, and per output o the value of one unit of its sums."""

    encoded: Encoded
    integers: NDArray[np.int32]  # [O, I]
    gain: NDArray[np.float64]  # [O] weight scale times batch norm gain
    offset: NDArray[np.float64]  # [O] what is added to the layer's real output

    def bound(self, x: Grid) -> int:
        """The largest magnitude of any sum over inputs on this grid."""
        largest = max(x.high, -x.low) * max(1, self.encoded.fmt.rotation)
        return max(int(np.abs(self.integers.astype(np.int64)).sum(1).max()) * largest, 1)


def export(model: nn.Module, plan: Plan, example_input: Tensor, path: Path | None = None, seed: int = 0) -> Artifact:
    """The artifact of a model quantized by `qat.modules.attach.quantize` with this plan, and calibrated.

    Written to `path` if given; `seed` is only recorded. Raises InputError if the plan is not the model's,
    if activations are not quantized and calibrated, or if a number is not finite.
    """
    captured = trace(model, example_input, plan.network)
    _check(model, plan, captured)
    with torch.no_grad():
        encoded = encode_model(model)
        books = _books(encoded, plan)
        layers = {name: _real_layer(model, captured, encoded[name], name) for name in plan.layers}
    given = {name: _grid(quantizer) for name, quantizer in activation_quantizers(model).items()}
    network = captured.network
    grids = grids_of(network, given, lambda node: _logits_grid(layers[node.name], given[node.inputs[0]]))
    stored = {
        node.name: _stored(plan.network, node, layers[node.name], grids)
        for node in network.nodes
        if node.layer is not None
    }
    packed = {book: pack_entries(table, plan.codebooks()[book]) for book, table in books.items()}
    artifact = Artifact(Header(network=network, plan=plan, grids=grids, seed=seed), stored, packed)
    if path is not None:
        artifact.save(path)
    return artifact


def _check(model: nn.Module, plan: Plan, captured: Capture) -> None:
    try:
        plan.check(captured.network)
    except ValueError as error:
        raise InputError("plan", [str(error)]) from error
    have = {name: q.fmt.name for name, q in quantizers(model).items()}
    problems = [
        f"layers.{name}.format = {choice.format}: must be {have.get(name, 'float')}, as in the model"
        for name, choice in plan.layers.items()
        if have.get(name) != choice.format
    ]
    remedy = "quantize with an example input, then calibrate"
    steps = activation_quantizers(model)
    wanted = sorted({source for sources in captured.sources.values() for source in sources})
    problems += [f"activations.{name}: has no step ({remedy})" for name in wanted if name not in steps]
    problems += [
        f"activations.{name}: is not calibrated ({remedy})" for name, q in steps.items() if not q.is_calibrated
    ]
    if problems:
        raise InputError("plan", problems)


def _books(encoded: Mapping[str, Encoded], plan: Plan) -> dict[str, NDArray[np.int64]]:
    """Id -> integer entries [K, d]. Raises InputError if layers of one id have different books."""
    books: dict[str, NDArray[np.int64]] = {}
    for name, layer in encoded.items():
        if layer.table is not None:
            book = books.setdefault(plan.book_id(name), layer.table.numpy())
            if not np.array_equal(book, layer.table.numpy()):
                raise InputError("plan", [f"sharing = {plan.sharing}: layers.{name} has a codebook of its own"])
    return books


def _real_layer(model: nn.Module, captured: Capture, encoded: Encoded, name: str) -> RealLayer:
    module = model.get_submodule(name)
    layer = next(layer for layer in captured.network.layers if layer.name == name)
    bias = module.bias if isinstance(module.bias, Tensor) else torch.zeros(layer.num_outputs)
    gain, offset = np.ones(layer.num_outputs), _real(bias)
    if name in captured.norms:
        gain, shift = _norm(model.get_submodule(captured.norms[name]), captured.norms[name])
        offset = offset * gain + shift
    turned = max(1, encoded.fmt.rotation)  # a rotation's length: its inputs' integers are so much larger
    return RealLayer(encoded, encoded.integers(), gain * _real(encoded.scale) / turned, offset)


def _norm(norm: nn.Module, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gain and shift [O] of a batch norm in eval mode."""
    assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
    if norm.running_mean is None or norm.running_var is None:
        raise InputError("model", [f"{name}: must track running statistics (track_running_stats=True)"])
    gain = 1 / np.sqrt(_real(norm.running_var) + norm.eps)
    if norm.affine:
        gain = gain * _real(norm.weight)
    shift = _real(norm.bias) if norm.affine else np.zeros_like(gain)
    return gain, shift - _real(norm.running_mean) * gain


def _real(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().double().numpy()


def _grid(quantizer: nn.Module) -> Grid:
    assert isinstance(quantizer, ActivationQuantizer)
    if quantizer.fmt.is_float:
        reason = f"{quantizer.fmt.name}: an exported network has integers of one step between its layers"
        raise InputError("activations", [f"{quantizer.source}: {reason} (train with int8)"])
    return Grid(step=float(quantizer.scale()), bits=quantizer.fmt.bits, signed=bool(quantizer.is_signed))


def _logits_grid(real: RealLayer, x: Grid) -> Grid:
    """One step for all outputs, so fine that the widest channel loses nothing, and 32 bits never clip."""
    widest = float(np.abs(real.gain).max()) * x.step
    largest = real.bound(x) + float(np.abs(real.offset).max()) / widest
    spare = LOGIT_BITS - 2 - int(np.ceil(np.log2(largest)))
    return Grid(step=widest / 2.0 ** min(spare, MAX_FRACTION_BITS), bits=LOGIT_BITS, signed=True)


def _stored(where: str, node: Node, real: RealLayer, grids: dict[str, Grid]) -> StoredLayer:
    x, y = grids[node.inputs[0]], grids[node.name]
    try:
        rescale = rescale_for(real.gain * x.step / y.step, real.offset / y.step, real.bound(x))
    except ValueError as error:
        raise InputError(where, [f"{node.name}: {error} (train again with a lower rate)"]) from error
    packed = pack_all(real.encoded.fmt, real.encoded.stored())
    return StoredLayer(*packed, real.encoded.scale.numpy(), *rescale)
