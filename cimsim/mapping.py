"""Where a layer's weights sit: pieces of arrays, units, tiles and rounds; shared by all dataflows."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

import numpy as np

from cimsim import rates
from cimsim.spec import Chip
from workloads.format import WeightFormat
from workloads.layer import Layer


class Piece(NamedTuple):
    """`count` arrays that use the same `rows` word lines for `outputs` outputs over `columns` bit lines."""

    rows: int
    outputs: int
    columns: int
    count: int


class Placement(NamedTuple):
    """How one layer covers the chip. Arrays are ordered with the row tile running fastest."""

    pieces: tuple[Piece, ...]
    row_tiles: int
    column_tiles: int
    num_arrays: int
    num_units: int
    num_tiles: int
    rounds: int  # times the whole chip is refilled to hold the layer once; 1 if it fits
    fetched_rows: int  # word-line operands fetched into input registers for one position
    tile_cuts: int  # outputs whose partial sums cross a tile border, summed over borders
    round_cuts: int  # outputs whose partial sums wait for a later round, summed over rounds
    duplication: int = 1

    @property
    def widest(self) -> Piece:
        """The piece that sets the pace: most rows, then most columns."""
        return max(self.pieces, key=lambda piece: (piece.rows, piece.columns))


class Unmappable(ValueError):
    """This layer in this format cannot be held by this chip; the message says why."""


def cell_columns(fmt: WeightFormat, chip: Chip) -> int:
    """Bit lines per output: slices of `cell_bits`, twice for differential pairs."""
    crossbar = rates.crossbar(chip)
    slices = ceil(fmt.array_bits / crossbar.cell_bits)
    return slices * (2 if crossbar.encoding == "differential" else 1)


def place(layer: Layer, fmt: WeightFormat, chip: Chip) -> Placement:
    """Cover `layer` with arrays. Raises Unmappable if one output is wider than an array."""
    rows, columns = rates.crossbar(chip).rows, rates.crossbar(chip).columns
    per_output = cell_columns(fmt, chip)
    if per_output > columns:
        raise Unmappable(f"{layer.name}: {fmt.name} needs {per_output} columns per output, an array has {columns}")
    return _dense(layer, per_output, chip) if layer.groups == 1 else _grouped(layer, per_output, rows, chip)


def _dense(layer: Layer, per_output: int, chip: Chip) -> Placement:
    rows, outputs = rates.crossbar(chip).rows, rates.crossbar(chip).columns // per_output
    row_sizes, column_sizes = _tiles(layer.num_inputs, rows), _tiles(layer.num_outputs, outputs)
    pieces = tuple(
        Piece(r, o, o * per_output, num_r * num_o) for r, num_r in row_sizes for o, num_o in column_sizes
    )
    row_tiles, column_tiles = ceil(layer.num_inputs / rows), ceil(layer.num_outputs / outputs)
    return _finish(layer, pieces, row_tiles, column_tiles, chip)


def _grouped(layer: Layer, per_output: int, rows: int, chip: Chip) -> Placement:
    """Groups lie block-diagonally: each owns its rows and columns; large groups are tiled one by one."""
    inputs, outputs = layer.num_inputs, layer.num_outputs // layer.groups
    in_array = min(rows // inputs, rates.crossbar(chip).columns // (outputs * per_output))
    if in_array >= 1:
        pieces = tuple(
            Piece(n * inputs, n * outputs, n * outputs * per_output, count)
            for n, count in _tiles(layer.groups, in_array)
        )
        return _finish(layer, pieces, 1, ceil(layer.groups / in_array), chip)
    one = _dense(layer.model_copy(update={"groups": 1, "in_channels": layer.in_channels // layer.groups,
                                          "out_channels": outputs}), per_output, chip)  # fmt: skip
    pieces = tuple(piece._replace(count=piece.count * layer.groups) for piece in one.pieces)
    return _finish(layer, pieces, one.row_tiles, one.column_tiles * layer.groups, chip)


def _tiles(total: int, size: int) -> list[tuple[int, int]]:
    """(size, how many) of the full tiles and of the rest."""
    full, rest = divmod(total, size)
    return [(n, count) for n, count in ((size, full), (rest, 1)) if n and count]


def _finish(layer: Layer, pieces: tuple[Piece, ...], row_tiles: int, column_tiles: int, chip: Chip) -> Placement:
    num_arrays = sum(piece.count for piece in pieces)
    per_unit, per_tile = chip.arrays_per_unit, chip.arrays_per_unit * chip.units_per_tile
    capacity = per_tile * chip.num_tiles
    outputs = ceil(layer.num_outputs / column_tiles)
    return Placement(
        pieces, row_tiles, column_tiles, num_arrays,
        num_units=ceil(num_arrays / per_unit),
        num_tiles=min(ceil(num_arrays / per_tile), chip.num_tiles),
        rounds=ceil(num_arrays / capacity),
        fetched_rows=_fetched_rows(pieces, row_tiles, num_arrays, per_unit),
        tile_cuts=_cuts(row_tiles, column_tiles, per_tile) * outputs,
        round_cuts=_cuts(row_tiles, column_tiles, capacity) * outputs,
    )  # fmt: skip


def _fetched_rows(pieces: tuple[Piece, ...], row_tiles: int, num_arrays: int, per_unit: int) -> int:
    """Rows fetched for one position: each unit fetches a row tile once, whatever arrays share it."""
    if row_tiles == 1:  # every array has its own columns; a unit's arrays share one fetch, groups do not
        widest = max(piece.rows for piece in pieces)
        return widest * ceil(num_arrays / per_unit)
    index = np.arange(num_arrays)
    row_tile = np.unique(index // per_unit * row_tiles + index % row_tiles) % row_tiles
    full = max(piece.rows for piece in pieces)
    last = min(piece.rows for piece in pieces)
    return int(np.where(row_tile == row_tiles - 1, last, full).sum())


def _cuts(row_tiles: int, column_tiles: int, size: int) -> int:
    """Borders of `size` arrays that fall inside a column of row tiles, over all columns."""
    first = np.arange(column_tiles) * row_tiles
    return int(((first + row_tiles - 1) // size - first // size).sum())
