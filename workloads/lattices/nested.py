"""Nested codes of M digits: a lattice point's classes modulo q, one scale above the other.

Of a block x the encoder takes t_0 = Q(x + a), the digits t_m mod qL, and t_(m+1) = Q(t_m / q), where Q is the
nearest lattice point. Digit m stands for q^m times the member of its class in the Voronoi cell of qL (Kaplan &
Ordentlich 2025, "High-rate nested-lattice quantized matrix multiplication with small lookup tables"). The shift
belongs to the top digit: one digit alone is Conway & Sloane's shifted Voronoi code. The digits sum to t_0 - a
if and only if the last Q is zero, because all Q break ties alike: halves up, after one fixed dither.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workloads.lattices.code import Codes, Points, all_codes
from workloads.lattices.points import GRID, TIE_DITHER, class_index, nearest_point, voronoi_points
from workloads.lattices.shells import read_only, shortest_vectors

_MAX_SEARCH = 1 << 12  # codes up to this size are searched whole
_MAX_SCORES = 1 << 20  # products held at a time
_SHRINK = 0.9
_MIN_GAIN = 1e-9  # of squared distance; below, two codewords are equally near


class Nested(NamedTuple):
    """The members of a nested code."""

    lattice: str
    radix: int  # q
    num_digits: int  # M
    shift: tuple[int, ...]  # 4 a

    @property
    def offset(self) -> NDArray[np.float64]:
        return np.array(self.shift) / GRID

    @property
    def digit_size(self) -> int:
        return self.radix ** len(self.shift)

    def codes(self, points: Points) -> tuple[Codes, NDArray[np.bool_]]:
        levels = self._levels(points)
        digits = [class_index(self.lattice, level, self.radix) for level in levels]
        return np.stack(digits, 1), self._is_beyond(levels[-1])

    def _levels(self, points: Points) -> list[Points]:
        """t_0 to t_(M-1) of unshifted points t_0."""
        levels = [points]
        while len(levels) < self.num_digits:
            levels.append(self._divided(levels[-1]))
        return levels

    def _is_beyond(self, top: Points) -> NDArray[np.bool_]:
        """Whether the top digit has no member at t_(M-1)."""
        return (self._divided(top - self._top_shift()) != 0).any(1)

    def _is_outside(self, points: Points) -> NDArray[np.bool_]:
        """Which unshifted points are no codewords."""
        return self._is_beyond(self._levels(points)[-1])

    def _divided(self, points: Points) -> Points:
        return nearest_point(self.lattice, points / self.radix + TIE_DITHER[: points.shape[1]])

    def _top_shift(self) -> NDArray[np.float64]:
        """The shift in units of the top digit."""
        return self.offset / self.radix ** (self.num_digits - 1)

    def points(self, codes: Codes) -> Points:
        parts = [book[digit] for book, digit in zip(self.books(), codes.T, strict=True)]
        return np.sum(parts, axis=0)

    def books(self) -> list[Points]:
        """What the codes of each digit stand for, [M][q^d, d]."""
        shifts = [0 * self.offset] * (self.num_digits - 1) + [self._top_shift()]
        return [self.radix**m * _book(self.lattice, self.radix, tuple(a.tolist())) for m, a in enumerate(shifts)]

    def extent(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Least and greatest coordinates of the codewords, [d] each."""
        books = self.books()
        return np.sum([book.min(0) for book in books], axis=0), np.sum([book.max(0) for book in books], axis=0)

    def saturate(self, x: Points) -> Codes:
        if self.lattice[0] == "z":  # a box: its nearest member is where the block is clipped to
            return self.codes(nearest_point(self.lattice, np.clip(x, *self.extent()) + self.offset))[0]
        if self.digit_size**self.num_digits <= _MAX_SEARCH:
            return self._search(x)
        return self.codes(self.climb(x, self.shrink(x)))[0]

    def _search(self, x: Points) -> Codes:
        """The nearest of all codewords; the lowest code wins ties."""
        codes = all_codes(self.digit_size, self.num_digits)
        points = self.points(codes)
        num_parts = 1 + len(x) * len(points) // _MAX_SCORES
        parts = [(part @ points.T - (points**2).sum(1) / 2).argmax(1) for part in np.array_split(x, num_parts)]
        return codes[np.concatenate(parts)]

    def shrink(self, x: Points) -> Points:
        """The lattice point (unshifted) next to the first of 0.9 x, 0.81 x, ... whose nearest one is a codeword."""
        points, pending, y = np.empty_like(x), np.arange(len(x)), x
        while len(pending):
            y = _SHRINK * y
            found = nearest_point(self.lattice, y + self.offset)
            is_outside = self._is_outside(found)
            points[pending] = found
            pending, y = pending[is_outside], y[is_outside]
        return points

    def climb(self, x: Points, points: Points) -> Points:
        """Codewords near x from given ones: always the best step by a shortest vector, while one leads nearer."""
        points, active = points.copy(), np.arange(len(x))
        while len(active):
            before = points[active]
            points[active] = self._best_step(x[active] + self.offset, before)
            active = active[(points[active] != before).any(1)]
        return points

    def _best_step(self, x: Points, points: Points) -> Points:
        """Each point moved by the shortest vector that brings it nearest to x among codewords, if one does."""
        steps, points = shortest_vectors(self.lattice), points.copy()
        gain = (x - points) @ steps.T - (steps**2).sum(1) / 2
        rows, columns = np.nonzero(gain > _MIN_GAIN)
        is_outside = self._is_outside(points[rows] + steps[columns])
        gain[rows[is_outside], columns[is_outside]] = 0
        best, rows = gain.argmax(1), np.flatnonzero(gain.max(1) > _MIN_GAIN)
        points[rows] += steps[best[rows]]
        return points


@lru_cache(maxsize=64)  # a search tries more shifts than fit the memory
def _book(lattice: str, radix: int, shift: tuple[float, ...]) -> Points:
    return read_only(voronoi_points(lattice, radix, np.array(shift)))
