"""Operations on integer tensors [N, C, H, W]: layers through a product, pooling, additions, changes of grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cimsim.arrays.exact import array_mvm_exact
from cimsim.arrays.im2col import im2col
from cimsim.integer.artifact import Artifact, Grid
from cimsim.integer.requantize import Rescale, add, requantize
from workloads.format import WeightFormat
from workloads.layer import Layer, Node
from workloads.rotation import rotate


def max_pool(x: NDArray[np.integer], node: Node) -> NDArray[np.integer]:
    """Largest tap of each window; padding never wins."""
    taps = _taps(x, node, fill=np.iinfo(x.dtype).min)
    y = next(taps).copy()
    for tap in taps:
        np.maximum(y, tap, out=y)
    return y


def avg_pool(x: NDArray[np.integer], node: Node) -> NDArray[np.integer]:
    """Mean of each window, padding counted as zeros, rounded half up."""
    size = prod(node.kernel)
    total = np.zeros((*x.shape[:2], *node.out_shape[1:]), np.int64)
    for tap in _taps(x, node, fill=0):
        total += tap
    return ((2 * total + size) // (2 * size)).astype(x.dtype)


def _taps(x: NDArray[np.integer], node: Node, fill: int) -> Iterator[NDArray[np.integer]]:
    """One strided view [N, C, out_h, out_w] per position in the window."""
    (ph, pw), (sh, sw), (h, w) = node.padding, node.stride, node.out_shape[1:]
    if ph or pw:
        x = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)), constant_values=fill)
    for i in range(node.kernel[0]):
        for j in range(node.kernel[1]):
            yield x[:, :, i : i + sh * (h - 1) + 1 : sh, j : j + sw * (w - 1) + 1 : sw]


Weights = dict[str, NDArray[np.int32]]
Product = Callable[[Layer, Grid, NDArray, NDArray], NDArray]  # layer, x's grid, x_GMI, w_GIO -> acc_MO


def exact_sums(x_GMI: NDArray, w_GIO: NDArray) -> NDArray[np.int64]:
    if len(w_GIO) == 1:
        return array_mvm_exact(x_GMI[0], w_GIO[0])
    return np.concatenate([array_mvm_exact(x, w) for x, w in zip(x_GMI, w_GIO, strict=True)], axis=1)


def layer_output(artifact: Artifact, node: Node, x: NDArray, w_GIO: NDArray, product: Product) -> NDArray[np.integer]:
    layer, stored = node.layer, artifact.layers[node.name]
    assert layer is not None
    x = x.reshape(len(x), layer.in_channels, *layer.in_size)  # a flatten has no node of its own
    columns = im2col(x, layer.kernel, layer.stride, layer.padding, layer.groups)
    x_GMI = columns.reshape(-1, layer.groups, layer.num_inputs).swapaxes(0, 1)
    x_GMI, grid = _turned(artifact.plan.format_of(layer.name), x_GMI, artifact.grids[node.inputs[0]])
    acc_MO = product(layer, grid, x_GMI, w_GIO)
    rescale = Rescale(stored.multiplier, stored.shift, stored.bias)
    grid = artifact.grids[node.name]
    y_MO = requantize(acc_MO, rescale, *output_range(node, grid), grid.dtype)
    y = y_MO.reshape(len(x), *layer.out_size, layer.num_outputs)
    return np.ascontiguousarray(y.transpose(0, 3, 1, 2))


def _turned(fmt: WeightFormat, x_GMI: NDArray, grid: Grid) -> tuple[NDArray, Grid]:
    """Operands through the format's rotation: wider, and signed."""
    if not fmt.rotation:
        return x_GMI, grid
    wide = Grid(step=grid.step, bits=fmt.input_bits(grid.bits), signed=True)
    return rotate(x_GMI.astype(np.int64), fmt.rotation).astype(wide.dtype), wide


def regrid(x: NDArray[np.integer], grid: Grid, target: Grid) -> NDArray[np.int64]:
    """The same values on another grid; exact where the steps are equal."""
    if grid.step == target.step:
        return np.clip(x.astype(np.int64), target.low, target.high)
    return add([x], [grid.step / target.step], target.low, target.high)


def output_range(node: Node, grid: Grid) -> tuple[int, int]:
    return (max(grid.low, 0) if node.relu else grid.low), grid.high


class Operand(NamedTuple):
    """Integers, and the grid they lie on."""

    x: NDArray[np.integer]
    grid: Grid


def _add(node: Node, operands: Sequence[Operand], target: Grid) -> NDArray[np.int64]:
    ratios = [operand.grid.step / target.step for operand in operands]
    return add([operand.x for operand in operands], ratios, *output_range(node, target))


def _on_its_grid(compute: Callable[[NDArray, Node], NDArray]) -> IntegerOp:
    """An operation that commutes with a change of grid."""

    def run(node: Node, operands: Sequence[Operand], target: Grid) -> NDArray[np.int64]:
        (only,) = operands
        return regrid(compute(only.x, node), only.grid, target)

    return run


def _relu(x: NDArray[np.integer], node: Node) -> NDArray[np.integer]:
    return np.maximum(x, 0)


IntegerOp = Callable[[Node, Sequence[Operand], Grid], NDArray]  # node, its operands, the grid it makes -> integers

# What integers alone can compute beside layers; another operation is an entry here and its grid's rule in `grids`.
OPS: dict[str, IntegerOp] = {
    "add": _add,
    "relu": _on_its_grid(_relu),
    "max_pool": _on_its_grid(max_pool),
    "avg_pool": _on_its_grid(avg_pool),
}
