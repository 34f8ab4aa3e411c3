"""The lattices Z^n, A2, D_n, E8: bases, nearest points, classes, and the Voronoi codes of D4 and E8.

A lattice is named by family and dimension: "z1" to "z8", "a2" (hexagonal, shortest vector 1), "d2" to "d8"
(integers of even sum), "e8" (D8 and D8 + 1/2). A code of radix q names one of the q^d classes of L / qL. Its
vector is the member of the class, shifted by `a`, that lies in the Voronoi cell of qL (Conway & Sloane 1983,
"A fast encoding method for lattice codes and quantizers"). With `a` on a 1/4 grid, four times the vector is
an integer.
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

# A lattice point divided by q often lies on the border of two cells. Moved by this it goes to the same side
# wherever it occurs: far below any point's distance from a border it is not on, and itself never on one.
TIE_DITHER = 1e-5 * np.sqrt(np.array([2.0, 3.0, 5.0, 7.0, 11.0, 13.0, 17.0, 19.0]))

HEIGHT = np.sqrt(3) / 2  # between the rows of A2


def nearest_point(lattice: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The lattice point nearest to each row of x [N, d] (exact search, Conway & Sloane 1982)."""
    return _NEAREST[lattice[0]](x)


def _nearest_integers(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.floor(x + 0.5)  # round half up moves with the lattice; ties to zero would not


def _nearest_checkerboard(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Nearest integer vector of even sum: round, then move the worst coordinate if the sum is odd."""
    point = _nearest_integers(x)
    error = x - point
    rows, worst = np.arange(len(x)), np.abs(error).argmax(1)
    step = np.where(error[rows, worst] < 0, -1.0, 1.0)
    point[rows, worst] += step * (point.sum(1) % 2)
    return point


def _nearest_e8(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return _nearer(x, _nearest_checkerboard(x), _nearest_checkerboard(x - 0.5) + 0.5)


def _nearest_hexagonal(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """A2 is a lattice of rectangles 1 by sqrt(3), and the same again half a rectangle further."""
    sides = np.array([1, 2 * HEIGHT])
    return _nearer(x, _nearest_integers(x / sides) * sides, (_nearest_integers(x / sides - 0.5) + 0.5) * sides)


def _nearer(x: NDArray[np.float64], first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearer to x of two points, row by row; the first wins ties."""
    is_second = ((x - second) ** 2).sum(1) < ((x - first) ** 2).sum(1)
    return np.where(is_second[:, None], second, first)


_NEAREST = {"z": _nearest_integers, "a": _nearest_hexagonal, "d": _nearest_checkerboard, "e": _nearest_e8}


def basis(lattice: str) -> NDArray[np.float64]:
    """Basis vectors as rows, [d, d].

    D_n: 2 e1, then e_i - e_(i-1); E8 ends with the all-halves vector instead. So coordinates follow from the
    last one upwards by additions alone.
    """
    family, d = lattice[0], int(lattice[1:])
    if family == "z":
        return np.eye(d)
    if family == "a":
        return np.array([[1, 0], [0.5, HEIGHT]])
    rows = np.eye(d) - np.eye(d, k=-1)
    rows[0, 0] = 2
    if family == "e":
        rows[-1] = 0.5
    return rows


def coordinates(lattice: str, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Whole coordinates [N, d] of lattice points [N, d] in the lattice's basis."""
    return np.rint(points @ np.linalg.inv(basis(lattice)))


def class_index(lattice: str, points: NDArray[np.float64], q: int) -> NDArray[np.int64]:
    """Code of each lattice point [N, d]: its coordinates in the lattice's basis modulo q, lowest first."""
    digits = coordinates(lattice, points) % q
    return (digits @ float(q) ** np.arange(digits.shape[1])).astype(np.int64)


def babai(lattice: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of x [N, d] rounded in the lattice's basis (Babai 1986): a lattice point, seldom the nearest one.

    Only a baseline. What it costs depends on the basis.
    """
    rows = basis(lattice)
    return np.floor(x @ np.linalg.inv(rows) + 0.5) @ rows


def voronoi_table(lattice: str, q: int, shift: tuple[int, ...]) -> NDArray[np.int32]:
    """Entries 4 * (lambda - a) of all q^d codes, [q^d, d], for the shift 4 * a."""
    return np.rint(GRID * voronoi_points(lattice, q, np.array(shift) / GRID)).astype(np.int32)


def voronoi_points(lattice: str, q: int, a: NDArray[np.float64]) -> NDArray[np.float64]:
    """The points lambda - a in the Voronoi cell of qL, one of each class in the order of their codes, [q^d, d]."""
    rows = basis(lattice)
    d = len(rows)
    digits = np.arange(q**d)[:, None] // q ** np.arange(d) % q
    x = digits @ rows - a
    return x - q * nearest_point(lattice, x / q + TIE_DITHER[:d])


@cache
def lattice_table(lattice: str, q: int) -> NDArray[np.int32]:
    """The integers each code stands for, [q^d, d] (read-only, computed once)."""
    table = voronoi_table(lattice, q, SHIFTS[lattice, q])
    table.setflags(write=False)
    return table
