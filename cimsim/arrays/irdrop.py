"""Voltage lost on an array's wires: what its cells conduct in place, exactly and by ladders.

Rows are driven at their left ends, columns sensed at zero volts at their lower ends; every wire has one segment per
cell, the one to driver or sense node among them. All is linear, so one matrix of transfer conductances (current of
column j per volt on row i, other rows at zero volts) tells everything: it takes the place of the cells.

Shapes: R rows, C columns, D drive patterns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LARGEST_LOSS = 0.6  # of a column's current, up to which `transfer_by_ladders` errs by at most half its square


class Wires(NamedTuple):
    """Resistance of one segment, in ohm."""

    row_ohm: float
    column_ohm: float


class Currents(NamedTuple):
    """In ampere: out of each column [D, C], into each row [D, R]."""

    column_a: np.ndarray
    row_a: np.ndarray


def solve(siemens: np.ndarray, wires: Wires, volts: np.ndarray) -> Currents:
    """Kirchhoff's current law at all 2 R C nodes of cells [R, C], for drive patterns volts [D, R]: sparse, direct.

    Raises ValueError for a resistance that is not above zero, or cells that conduct less than nothing.
    """
    from scipy.sparse.linalg import splu  # only here: the rest of the simulator starts without it

    _check(siemens, wires)
    num_rows, num_columns = siemens.shape
    count = siemens.size
    options = {"SymmetricMode": True}
    factors = splu(_conductances(siemens, wires), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
    first = np.arange(num_rows) * num_columns
    injected = np.zeros((2 * count, len(volts)))
    injected[first] = volts.T / wires.row_ohm
    nodes_v = factors.solve(injected).T
    out_a = nodes_v[:, 2 * count - num_columns :] / wires.column_ohm
    return Currents(out_a, (volts - nodes_v[:, first]) / wires.row_ohm)


def transfer(siemens: np.ndarray, wires: Wires) -> np.ndarray:
    """Transfer conductances [R, C] in siemens, exact."""
    return solve(siemens, wires, np.eye(len(siemens))).column_a


def transfer_by_ladders(siemens: np.ndarray, wires: Wires) -> np.ndarray:
    """Transfer conductances [R, C] from each wire alone: its cells end at zero volts, where other wires would rise.

    A cell gets the share of the row's voltage that a ladder of its row leaves there, and the same share of its current
    leaves by its column. Where a column loses the share d <= LARGEST_LOSS of its current, all rows driven, that current
    errs by at most d^2 / 2 of its exact value; paths through third wires, which feed cells that are off, are missed.
    Time is linear in the cells.
    """
    _check(siemens, wires)
    of_rows = _ladder(siemens, wires.row_ohm)
    of_columns = _ladder(siemens[::-1].T, wires.column_ohm).T[::-1]
    return of_rows * siemens * of_columns


def _ladder(siemens: np.ndarray, segment_ohm: float) -> np.ndarray:
    """Volts at every node of lines [L, M] that are driven with one volt before their first node."""
    onward = np.zeros_like(siemens)  # what a node sees: its cell and all after it
    beyond = np.zeros(len(siemens))
    for m in range(siemens.shape[1] - 1, -1, -1):
        onward[:, m] = siemens[:, m] + beyond
        beyond = onward[:, m] / (1 + segment_ohm * onward[:, m])
    return np.cumprod(1 / (1 + segment_ohm * onward), axis=1)


def _conductances(siemens: np.ndarray, wires: Wires):
    """The nodes' conductance matrix: rows' nodes first, then columns'; drivers and sense nodes are ground."""
    from scipy.sparse import coo_array, csc_array

    num_rows, num_columns = siemens.shape
    row = np.arange(siemens.size).reshape(siemens.shape)
    column = row + siemens.size
    between = [
        (row, column, siemens),
        (row[:, :-1], row[:, 1:], np.full((num_rows, num_columns - 1), 1 / wires.row_ohm)),
        (column[:-1], column[1:], np.full((num_rows - 1, num_columns), 1 / wires.column_ohm)),
    ]
    a, b, value = (np.concatenate([np.ravel(edge[i]) for edge in between]) for i in range(3))
    ends = np.concatenate([row[:, 0], column[-1]])
    to_ground = np.repeat([1 / wires.row_ohm, 1 / wires.column_ohm], [num_rows, num_columns])
    values = np.concatenate([value, value, -value, -value, to_ground])
    places = np.concatenate([a, b, a, b, ends]), np.concatenate([a, b, b, a, ends])
    return csc_array(coo_array((values, places), shape=(2 * siemens.size, 2 * siemens.size)))


def _check(siemens: np.ndarray, wires: Wires) -> None:
    if siemens.ndim != 2 or not siemens.size or not (siemens >= 0).all():
        raise ValueError(
            f"siemens: must be a matrix of numbers >= 0, not {siemens.shape} from {siemens.min(initial=0)}"
        )
    if not min(wires) > 0:
        raise ValueError(f"wires = {wires}: must be > 0 ohm (without resistance, cells need no solution)")
