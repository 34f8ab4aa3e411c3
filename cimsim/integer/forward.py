"""The integer network: what the chip computes, ideally or through arrays with converters.

Tensors are integers [N, C, H, W] on the grid of the node that made them; x_GMI, w_GIO: group,
row of im2col, input, output; acc_MO: sums of all groups side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cimsim.arrays.activity import exact
from cimsim.arrays.adc_range import LEAST_ERROR, AdcRange, adc_step
from cimsim.arrays.encodings import ArrayNumbers, Widths
from cimsim.arrays.mvm import array_mvm
from cimsim.arrays.nonideal import Nonidealities
from cimsim.arrays.programmed import Origin, ProgrammedArrays
from cimsim.components.base import Activity
from cimsim.integer.artifact import Artifact, Grid
from cimsim.integer.ops import (
    OPS,
    Operand,
    Product,
    Weights,
    exact_sums,
    layer_output,
    regrid,
)
from workloads.errors import InputError
from workloads.layer import Layer
from workloads.plan import LayerPlan

MAX_SAMPLE = 2048  # vectors of a layer that its converter step is chosen on
EXACT_OPS = ("layer", *OPS)  # what integers alone can compute


class Accuracy(NamedTuple):
    """Over seeds: mean, half width of its 95 % t-interval (NaN for one seed), and each seed's."""

    mean_accuracy: float
    half_accuracy: float
    of_seed_accuracy: tuple[float, ...]


def run(
    artifact: Artifact,
    x: NDArray[np.uint8],
    numbers: ArrayNumbers | None = None,
    *,
    batch: int = 500,
    cells: Nonidealities | None = None,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Logits [N, classes] of uint8 images [N, C, H, W], in steps of the last node's grid.

    Without `numbers` every product is exact; with them it goes through the arrays, with the converter
    steps of the artifact's plan. With `cells` these are not ideal: written once, by `seed`, and read with noise; the
    batch changes nothing. Raises InputError for images of another shape or dtype and for
    networks with steps that are not integer arithmetic (softmax, layer norm).
    """
    _check(artifact, x)
    weights, product = _weights(artifact), _product(artifact, numbers, cells, seed)
    parts = [_last(_forward(artifact, weights, x[i : i + batch], product)) for i in range(0, len(x), batch)]
    return np.concatenate(parts).reshape(len(x), -1).astype(np.int64)


def accuracy(
    artifact: Artifact,
    x: NDArray[np.uint8],
    y: NDArray[np.integer],
    numbers: ArrayNumbers | None = None,
    *,
    cells: Nonidealities | None = None,
    seed: int = 0,
) -> float:
    """Share of images whose largest logit (the first of equals) is their label; `cells` and `seed` as of `run`."""
    return float((run(artifact, x, numbers, cells=cells, seed=seed).argmax(1) == y).mean())


def accuracy_of_seeds(
    artifact: Artifact,
    test: tuple[NDArray[np.uint8], NDArray[np.integer]],
    numbers: ArrayNumbers,
    cells: Nonidealities,
    seeds: Sequence[int],
) -> Accuracy:
    """Accuracy on images and labels, the arrays written anew for each seed."""
    from scipy.stats import t  # only here: it takes a while to import

    found = np.array([accuracy(artifact, *test, numbers, cells=cells, seed=seed) for seed in seeds])
    half = t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / len(found) ** 0.5 if len(found) > 1 else np.nan
    return Accuracy(float(found.mean()), float(half), tuple(found.tolist()))


def layer_outputs(
    artifact: Artifact, x: NDArray[np.uint8], numbers: ArrayNumbers | None = None
) -> dict[str, NDArray[np.integer]]:
    """Every node's integers, by node name, in network order."""
    _check(artifact, x)
    return dict(_forward(artifact, _weights(artifact), x, _product(artifact, numbers)))


def collect(artifact: Artifact, x: NDArray[np.uint8], numbers: ArrayNumbers) -> dict[str, Activity]:
    """What inputs and cells make switch, per layer, exactly, with ideal activations of the images x."""
    _check(artifact, x)
    found: dict[str, Activity] = {}

    def measured(layer: Layer, grid: Grid, x_GMI: NDArray, w_GIO: NDArray) -> NDArray[np.int64]:
        bits = artifact.plan.format_of(layer.name).array_bits
        groups = [exact(x, w, numbers, Widths(bits, grid.bits, grid.signed)) for x, w in zip(x_GMI, w_GIO, strict=True)]
        found[layer.name] = Activity(*np.mean(groups, axis=0).tolist())  # groups are of one size
        return exact_sums(x_GMI, w_GIO)

    _last(_forward(artifact, _weights(artifact), x, measured))
    return found


def operands(artifact: Artifact, x: NDArray[np.uint8]) -> Iterator[tuple[str, Grid, list[tuple[NDArray, NDArray]]]]:
    """(layer, its input's grid, [(x [M, I], w [I, O]) of each group]) with ideal activations of images x."""
    _check(artifact, x)
    found: list[tuple[str, Grid, list[tuple[NDArray, NDArray]]]] = []

    def seen(layer: Layer, grid: Grid, x_GMI: NDArray, w_GIO: NDArray) -> NDArray[np.int64]:
        found.append((layer.name, grid, list(zip(x_GMI, w_GIO, strict=True))))
        return exact_sums(x_GMI, w_GIO)

    for _ in _forward(artifact, _weights(artifact), x, seen):
        yield from found
        found.clear()


def calibrate_adc(
    artifact: Artifact, x: NDArray[np.uint8], numbers: ArrayNumbers, chosen: AdcRange = LEAST_ERROR
) -> Artifact:
    """The artifact with converter steps frozen in its plan, from training images x (512 are enough) as `chosen`.

    Layer after layer through the arrays, so that each one sees the errors of those before it. A layer's
    groups share one step, the largest that any of them wants.
    """
    _check(artifact, x)
    layers = dict(artifact.plan.layers)

    def calibrated(layer: Layer, grid: Grid, x_GMI: NDArray, w_GIO: NDArray) -> NDArray[np.int64]:
        bits = layers[layer.name].weight_format.array_bits
        sample = x_GMI[:, :: -(-x_GMI.shape[1] // MAX_SAMPLE)]
        widths = Widths(bits, grid.bits, grid.signed)
        steps = [adc_step(chosen, x, w, numbers, widths) for x, w in zip(sample, w_GIO, strict=True)]
        layers[layer.name] = layers[layer.name].model_copy(update={"adc_step": max(steps)})
        return _through_arrays(layers[layer.name], grid, x_GMI, w_GIO, numbers)

    _last(_forward(artifact, _weights(artifact), x, calibrated))
    return artifact.with_plan(artifact.plan.model_copy(update={"layers": layers}))


def _forward(
    artifact: Artifact, weights: Weights, x: NDArray, product: Product
) -> Iterator[tuple[str, NDArray[np.integer]]]:
    """Yields (node name, integers) in order; drops tensors after their last use."""
    grids, pixels = artifact.grids, artifact.header.pixels
    tensors = {"input": regrid(x, pixels, grids["input"]).astype(grids["input"].dtype)}
    last_use = {name: node.name for node in artifact.network.nodes for name in node.inputs}
    for node in artifact.network.nodes:
        operands = [Operand(tensors[name], grids[name]) for name in node.inputs]
        if node.op == "layer":
            y = layer_output(artifact, node, operands[0].x, weights[node.name], product)
        else:
            y = OPS[node.op](node, operands, grids[node.name])
        y = y.astype(grids[node.name].dtype, copy=False)
        tensors[node.name] = y
        for name in {name for name in node.inputs if last_use[name] == node.name}:
            del tensors[name]
        yield node.name, y


def _product(
    artifact: Artifact, numbers: ArrayNumbers | None, cells: Nonidealities | None = None, seed: int = 0
) -> Product:
    """Exact sums without `numbers`, else sums as the arrays give them."""
    if numbers is None:
        return lambda layer, grid, x_GMI, w_GIO: exact_sums(x_GMI, w_GIO)
    if cells is not None and not cells.is_ideal:
        return _through_cells(artifact, numbers, cells, seed)
    return lambda layer, grid, x_GMI, w_GIO: _through_arrays(
        artifact.plan.layers[layer.name], grid, x_GMI, w_GIO, numbers
    )


def _through_arrays(
    choice: LayerPlan, grid: Grid, x_GMI: NDArray, w_GIO: NDArray, numbers: ArrayNumbers
) -> NDArray[np.int64]:
    step = choice.adc_step or 1
    parts = [
        array_mvm(x, w, numbers, Widths(choice.weight_format.array_bits, grid.bits, grid.signed, step))
        for x, w in zip(x_GMI, w_GIO, strict=True)
    ]
    return np.concatenate(parts, axis=1)


def _through_cells(artifact: Artifact, numbers: ArrayNumbers, cells: Nonidealities, seed: int) -> Product:
    """Sums through arrays that are written when their layer is first met; a layer's noise goes on from call to call."""
    places = {layer.name: place for place, layer in enumerate(artifact.network.layers)}
    written: dict[str, list[ProgrammedArrays]] = {}
    num_read = dict.fromkeys(places, 0)

    def product(layer: Layer, grid: Grid, x_GMI: NDArray, w_GIO: NDArray) -> NDArray[np.int64]:
        choice = artifact.plan.layers[layer.name]
        widths = Widths(choice.weight_format.array_bits, grid.bits, grid.signed, choice.adc_step or 1)
        if layer.name not in written:
            origins = [Origin(seed, (places[layer.name], group)) for group in range(len(w_GIO))]
            pairs = zip(w_GIO, origins, strict=True)
            written[layer.name] = [ProgrammedArrays(w, numbers, widths, cells, origin) for w, origin in pairs]
        first = num_read[layer.name]
        num_read[layer.name] += x_GMI.shape[1]
        parts = [arrays.read(x, first) for arrays, x in zip(written[layer.name], x_GMI, strict=True)]
        return np.concatenate(parts, axis=1)

    return product


def _weights(artifact: Artifact) -> Weights:
    """Integers w_GIO of every layer, decoded from what is stored."""
    found = {}
    for layer in artifact.network.layers:
        w_GOI = artifact.weights_int(layer.name).reshape(layer.groups, -1, layer.num_inputs)
        found[layer.name] = np.ascontiguousarray(w_GOI.swapaxes(1, 2))
    return found


def _last(outputs: Iterator[tuple[str, NDArray]]) -> NDArray:
    for _, y in outputs:  # noqa: B007 (only the last one is wanted)
        pass
    return y


def _check(artifact: Artifact, x: NDArray) -> None:
    network = artifact.network
    problems = [
        f"nodes.{node.name}.op = {node.op}: must be one of {', '.join(EXACT_OPS)} (others are not integers)"
        for node in network.nodes
        if node.op not in EXACT_OPS
    ]
    if x.dtype != np.uint8 or x.shape[1:] != network.input_shape or not len(x):
        problems.append(f"x = {x.dtype}{list(x.shape)}: must be uint8[N, C, H, W] of {network.input_shape}, N >= 1")
    if problems:
        raise InputError(network.name, problems)
