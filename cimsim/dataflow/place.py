"""Where a layer's weights sit: pieces of arrays, units, tiles and rounds; shared by all dataflows."""

from __future__ import annotations

from collections import Counter
from math import ceil
from typing import NamedTuple

import numpy as np

from cimsim.dataflow.case import Case
from workloads.layer import Layer


class Piece(NamedTuple):
    """`count` arrays that use the same `rows` word lines for `outputs` outputs over `columns` bit lines.

    With `blocks` > 1 so many groups of a grouped convolution lie block-diagonally in each array: every
    row meets every column, but only one cell in `blocks` holds a weight; the others hold zeros.
    """

    rows: int
    outputs: int
    columns: int
    count: int
    blocks: int = 1

    @property
    def num_weights(self) -> int:
        return self.rows * self.outputs // self.blocks * self.count


class Placement(NamedTuple):
    """How one layer covers the chip. Arrays are ordered with the row tile running fastest, then the column
    tile, then the group, and fill units, tiles and rounds in this order."""

    pieces: tuple[Piece, ...]
    row_tiles: int  # arrays whose sums make one output
    column_tiles: int
    num_arrays: int
    num_units: int
    num_tiles: int
    tile_arrays: int  # arrays in the fullest tile
    rounds: int  # times the whole chip is refilled to hold the layer once; 1 if it fits
    fetched_rows: int  # word-line operands fetched into input registers for one position, over all rounds
    tile_fetched_rows: int  # most of them in one tile and round
    unit_sums: int  # sums that leave units for one position: outputs, and partial sums cut by a unit's border
    tile_cuts: int  # outputs whose partial sums cross a tile border, summed over borders
    round_cuts: int  # outputs whose partial sums wait for a later round, summed over rounds
    copies: int = 1  # times the layer lies on the chip; each copy takes its share of the positions

    @property
    def widest(self) -> Piece:
        """The piece that sets the pace: most rows, then most columns."""
        return max(self.pieces, key=lambda piece: (piece.rows, piece.columns))


class Unmappable(ValueError):
    """This layer in this format cannot be held by this chip; the message says why."""


class _Arrays(NamedTuple):
    """All arrays of a layer in their order."""

    rows: list[int]  # of each array
    outputs: list[int]  # of each column of `row_tiles` arrays
    row_tiles: int
    sharing: int  # so many arrays in a row belong to one group of inputs and may share a fetch
    blocks: int = 1  # groups in one full array


def place(case: Case) -> Placement:
    """Cover the layer with arrays. Raises Unmappable if one output is wider than an array."""
    layer, cells = case.layer, case.chip.parts.cells
    per_output = cells.columns_per_output(case.fmt.array_bits)  # bit lines
    if per_output > cells.columns:
        raise Unmappable(
            f"{layer.name}: {case.fmt.name} needs {per_output} columns per output, an array has {cells.columns}"
        )
    in_array = 0
    if layer.groups > 1:  # groups that one read takes, so that each column's sum is of one group
        group_columns = layer.num_outputs // layer.groups * per_output
        in_array = min(cells.rows_on // layer.num_inputs, cells.columns // group_columns)
    if in_array > 1:
        return _finish(_diagonal(layer, in_array), case, per_output)
    return _finish(_tiled(layer, cells.rows, cells.columns // per_output), case, per_output)


def _tiled(layer: Layer, most_rows: int, most_outputs: int) -> _Arrays:
    """Each group (a dense layer is one) is cut into tiles of at most so many rows and outputs."""
    row_sizes = _cut(layer.num_inputs, most_rows)
    column_sizes = _cut(layer.num_outputs // layer.groups, most_outputs)
    per_group = len(row_sizes) * len(column_sizes)
    rows = row_sizes * len(column_sizes) * layer.groups
    return _Arrays(rows, column_sizes * layer.groups, len(row_sizes), per_group)


def _diagonal(layer: Layer, in_array: int) -> _Arrays:
    """Small groups share an array, `in_array` at most, each with rows and columns of its own."""
    groups = _cut(layer.groups, in_array)
    rows = [n * layer.num_inputs for n in groups]
    outputs = [n * layer.num_outputs // layer.groups for n in groups]
    return _Arrays(rows, outputs, row_tiles=1, sharing=1, blocks=in_array)


def _cut(total: int, size: int) -> list[int]:
    """`total` in pieces of `size`, the last one smaller."""
    full, rest = divmod(total, size)
    return [size] * full + [rest] * (rest > 0)


def _finish(arrays: _Arrays, case: Case, per_output: int) -> Placement:
    layer, chip, num_arrays = case.layer, case.chip, len(arrays.rows)
    per_unit, per_tile = chip.arrays_per_unit, chip.arrays_per_unit * chip.units_per_tile
    capacity = per_tile * chip.num_tiles
    fetched = _fetched_rows(arrays, per_unit, per_tile)
    return Placement(
        pieces=_pieces(arrays, layer, per_output),
        row_tiles=arrays.row_tiles,
        column_tiles=len(arrays.outputs),
        num_arrays=num_arrays,
        num_units=ceil(num_arrays / per_unit),
        num_tiles=min(ceil(num_arrays / per_tile), chip.num_tiles),
        tile_arrays=min(num_arrays, per_tile),
        rounds=ceil(num_arrays / capacity),
        fetched_rows=int(fetched.sum()),
        tile_fetched_rows=int(fetched.max()),
        unit_sums=layer.num_outputs + _cuts(arrays, per_unit),
        tile_cuts=_cuts(arrays, per_tile),
        round_cuts=_cuts(arrays, capacity),
    )


def _pieces(arrays: _Arrays, layer: Layer, per_output: int) -> tuple[Piece, ...]:
    """Arrays of equal shape, together; the largest first."""
    outputs = (n for n in arrays.outputs for _ in range(arrays.row_tiles))
    shapes = Counter(zip(arrays.rows, outputs, strict=True))
    return tuple(
        Piece(rows, n, n * per_output, count, rows // layer.num_inputs if arrays.blocks > 1 else 1)
        for (rows, n), count in sorted(shapes.items(), reverse=True)
    )


def _fetched_rows(arrays: _Arrays, per_unit: int, per_tile: int) -> np.ndarray:
    """Rows fetched for one position by each tile (int64, one entry per tile and round).

    A unit fetches a row tile once, whatever arrays of it share it: an array fetches unless the array of the
    same rows and group, `row_tiles` before it, lies in the same unit.
    """
    rows = np.array(arrays.rows, dtype=np.int64)
    index = np.arange(rows.size)
    is_first = (index % per_unit < arrays.row_tiles) | (index % arrays.sharing < arrays.row_tiles)
    return np.add.reduceat(rows * is_first, np.arange(0, rows.size, per_tile))


def _cuts(arrays: _Arrays, size: int) -> int:
    """Outputs at borders of `size` arrays that fall inside a column of row tiles, over all columns."""
    outputs = np.array(arrays.outputs, dtype=np.int64)
    first = np.arange(outputs.size) * arrays.row_tiles
    return int(((first + arrays.row_tiles - 1) // size - first // size) @ outputs)
