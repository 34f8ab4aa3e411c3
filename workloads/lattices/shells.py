"""Lattice points near zero, as lists: the points of a ball, and the shortest vectors."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from workloads.lattices.points import basis, nearest_point

_SHORTEST = {"z": 1.0, "d": 2.0, "e": 2.0}  # squared norm of the shortest vectors


@cache
def points_within(lattice: str, squared_norm: float) -> NDArray[np.float64]:
    """All points of Z^n, D_n or E8 up to this squared norm, [K, d]: by norm, then in lexicographic order."""
    d, cosets = int(lattice[1:]), (0.0, 0.5) if lattice[0] == "e" else (0.0,)
    rows = np.concatenate([_coset_within(d, coset, squared_norm) for coset in cosets])
    rows = rows[(nearest_point(lattice, rows) == rows).all(1)]
    order = np.lexsort((*rows.T[::-1], (rows**2).sum(1)))
    return read_only(rows[order])


def _coset_within(d: int, coset: float, squared_norm: float) -> NDArray:
    """Vectors of Z^d + coset in the ball: coordinate after coordinate, dropping what is already too long."""
    reach = int(squared_norm**0.5) + 1
    values = np.arange(-reach, reach + 1) + coset
    rows = np.zeros((1, 0))
    for _ in range(d):
        rows = np.column_stack([np.repeat(rows, len(values), 0), np.tile(values, len(rows))])
        rows = rows[(rows**2).sum(1) <= squared_norm]
    return rows


@cache
def shortest_vectors(lattice: str) -> NDArray[np.float64]:
    """The lattice's shortest vectors but zero, [kissing number, d]."""
    if lattice[0] == "a":
        one, other = basis(lattice)
        return read_only(np.array([one, other, other - one, -one, -other, one - other]))
    return read_only(points_within(lattice, _SHORTEST[lattice[0]])[1:].copy())


def read_only(array: NDArray) -> NDArray:
    """The same array, which nobody can change: for what is computed once and shared."""
    array.setflags(write=False)
    return array
