"""Voronoi codes of the lattices D4 and E8: which integers a lattice code stands for.

A code of radix q names one of the q^d classes of L / qL. Its vector is the member of the class,
shifted by `a`, that lies in the Voronoi cell of qL (Conway & Sloane 1983, "A fast encoding method for
lattice codes and quantizers"). With `a` on a 1/4 grid, four times the vector is an integer.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

GRID = 4  # shifts and E8's halves lie on a 1/4 grid

# 4 * a for each code. Found by search over the grid for the least error on Gaussian vectors at the best
# scale, among the shifts whose entries fit the format's array bits (tests repeat the error).
SHIFTS = {
    ("d4", 2): (0, 1, 1, 3),
    ("d4", 3): (0, 1, 1, 2),
    ("d4", 4): (0, 1, 2, 2),
    ("e8", 2): (0, 0, 1, 1, 2, 2, 2, 3),
    ("e8", 3): (0, 0, 1, 2, 2, 2, 3, 3),
    ("e8", 4): (0, 0, 1, 2, 2, 2, 3, 3),
}

# A point on the border of two cells goes to the same side everywhere: far below 1/4, never on a border.
TIE_DITHER = 1e-5 * np.sqrt(np.array([2.0, 3.0, 5.0, 7.0, 11.0, 13.0, 17.0, 19.0]))


def nearest_point(lattice: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The lattice point nearest to each row of x [N, d] (exact search, Conway & Sloane 1982)."""
    if lattice == "d4":
        return _nearest_checkerboard(x)
    whole, half = _nearest_checkerboard(x), _nearest_checkerboard(x - 0.5) + 0.5
    is_half = ((x - half) ** 2).sum(1) < ((x - whole) ** 2).sum(1)
    return np.where(is_half[:, None], half, whole)


def _nearest_checkerboard(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Nearest integer vector of even sum: round, then move the worst coordinate if the sum is odd."""
    point = np.floor(x + 0.5)  # round half up moves with the lattice; ties to zero would not
    error = x - point
    rows, worst = np.arange(len(x)), np.abs(error).argmax(1)
    step = np.where(error[rows, worst] < 0, -1.0, 1.0)
    point[rows, worst] += step * (point.sum(1) % 2)
    return point


def class_index(lattice: str, points: NDArray[np.float64], q: int) -> NDArray[np.int64]:
    """Code of each lattice point [N, d]: its coordinates in the lattice's basis modulo q, lowest first.

    Basis: 2 e1, then e_i - e_(i-1); E8 ends with the all-halves vector instead. So coordinates follow
    from the last one upwards by additions alone.
    """
    u = np.rint(2 * points).astype(np.int64)  # doubled: E8's halves become integers
    d, coordinates = u.shape[1], np.zeros_like(u)
    half = u[:, -1] if lattice == "e8" else np.zeros(len(u), np.int64)
    coordinates[:, -1] = half if lattice == "e8" else u[:, -1] // 2
    above = np.zeros(len(u), np.int64) if lattice == "e8" else coordinates[:, -1]
    for i in range(d - 2, -1, -1):
        above = (u[:, i] - half) // 2 + above
        coordinates[:, i] = above
    coordinates[:, 0] //= 2
    return (coordinates % q) @ (q ** np.arange(d))


def basis(lattice: str) -> NDArray[np.float64]:
    """Basis vectors as rows, [d, d]."""
    d = {"d4": 4, "e8": 8}[lattice]
    rows = np.eye(d) - np.eye(d, k=-1)
    rows[0, 0] = 2
    if lattice == "e8":
        rows[-1] = 0.5
    return rows


def voronoi_table(lattice: str, q: int, shift: tuple[int, ...]) -> NDArray[np.int32]:
    """Entries 4 * (lambda - a) of all q^d codes, [q^d, d], for the shift 4 * a."""
    rows = basis(lattice)
    d = len(rows)
    digits = np.arange(q**d)[:, None] // q ** np.arange(d) % q
    x = digits @ rows - np.array(shift) / GRID
    inside = x - q * nearest_point(lattice, x / q + TIE_DITHER[:d])
    return np.rint(GRID * inside).astype(np.int32)


@cache
def lattice_table(lattice: str, q: int) -> NDArray[np.int32]:
    """The integers each code stands for, [q^d, d] (read-only, computed once)."""
    table = voronoi_table(lattice, q, SHIFTS[lattice, q])
    table.setflags(write=False)
    return table
