"""Searches the best grids of lattice codes on Gaussian blocks; prints rows of measured.csv.

`python -m workloads.lattices.tabulate e8-q4m2 ...`; without names, of all codes of measured.csv.

Of the shifts tried the one is taken that needs the fewest array bits while its error is within 2 % of the best:
an array pays for bits, and which shift it is hardly matters once it is generic.
"""

from __future__ import annotations

import sys

import numpy as np

from workloads.lattices.code import LatticeCode
from workloads.lattices.named import lattice_code, measured, nested_code, split
from workloads.lattices.points import GRID, SHIFTS, basis

_NUM_DRAWS = 24  # for each step
_STEPS = (4, 2, 1)  # of 4 a
_TOLERANCE = 1.02
_WIDE, _NARROW = np.linspace(0.75, 1.35, 7), np.linspace(0.9, 1.1, 9)  # times a guessed deviation
_SEED = 3


def row(name: str) -> str:
    """The line of measured.csv for one code."""
    code = _best_shift(name) if "-q" in name else lattice_code(name)
    sigma = _best_sigma(code)
    shift = " ".join(str(a) for a in getattr(code.members, "shift", ()))
    return f"{name},{shift},{sigma:.3g},{error(code, sigma, 320_000):.4g}"


def error(code: LatticeCode, sigma: float, num_weights: int) -> float:
    """Mean squared error per weight of Gaussian data of deviation 1, scaled to sigma for the code."""
    x = sigma * np.random.default_rng(_SEED).standard_normal((num_weights // code.dimension, code.dimension))
    decoded = code.decode(code.encode(x)[0]) / code.grid
    return float(((decoded - x) ** 2).mean()) / sigma**2


def _best_shift(name: str) -> LatticeCode:
    guess = _guessed_sigma(name)
    codes = [nested_code(name, shift, guess) for shift in _shifts(name)]
    errors = np.array([min(error(code, guess * times, 16_000) for times in _WIDE) for code in codes])
    bits = np.array([code.array_bits for code in codes])
    is_good = errors <= _TOLERANCE * errors.min()
    order = np.lexsort((errors, bits, ~is_good))
    return codes[order[0]]


def _shifts(name: str) -> list[tuple[int, ...]]:
    """Shifts 4 a to try: that of the public table where there is one, else zero and random ones."""
    lattice, radix, digits = split(name)
    if digits == 1 and (lattice, radix) in SHIFTS:
        return [SHIFTS[lattice, radix]]
    draw, reach, d = np.random.default_rng(_SEED), GRID * radix ** (digits - 1), int(lattice[1:])
    steps = [step for step in _STEPS for _ in range(_NUM_DRAWS)]
    return [(0,) * d, *(tuple((step * draw.integers(0, reach // step, d)).tolist()) for step in steps)]


def _guessed_sigma(name: str) -> float:
    """Max's best steps for Gaussian data (1960), inverted and smoothed, times the lattice's side."""
    lattice, radix, digits = split(name)
    side = abs(np.linalg.det(basis(lattice))) ** (1 / int(lattice[1:]))
    return side * (0.27 + 0.18 * radix**digits)


def _best_sigma(code: LatticeCode) -> float:
    """The deviation of least error: the top of a parabola through the error's logarithm."""
    middle = code.sigma
    for times in (_WIDE, _NARROW):
        errors = [error(code, middle * t, 160_000) for t in times]
        curve = np.polynomial.Polynomial.fit(times, np.log(errors), 2)
        middle *= float(np.clip(curve.deriv().roots()[0].real, times[0], times[-1]))
    return middle


if __name__ == "__main__":
    for known in sys.argv[1:] or measured():
        print(row(known), flush=True)
