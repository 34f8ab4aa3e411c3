"""Exact nearest points of the lattices D4, E8, many rows at a time; half rounds up, the first of equals moves.

Conway & Sloane, "Fast quantizing and decoding algorithms for lattice quantizers and codes", IEEE Trans. Inf.
Theory 28(2), 1982. A tile holds LANES rows, transposed, in one flat scratch array: only then does the compiler
see that reads and writes never meet, and puts the rows side by side in its registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

LANES = 64

_F, _I = np.float32, np.int32
_ZERO, _HALF, _ONE, _TWO = _F(0), _F(0.5), _F(1), _F(2)


def nearest_e8(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The point of E8 nearest to each finite row of x [N, 8], as `workloads.lattices.points.nearest_point`."""
    return _by_tiles(_nearest_e8_rows, x)


def nearest_d4(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The point of D4 nearest to each finite row of x [N, 4], as `workloads.lattices.points.nearest_point`."""
    return _by_tiles(_nearest_d4_rows, x)


def _by_tiles(nearest_rows: Callable[[Any, Any], None], x: NDArray[np.float32]) -> NDArray[np.float32]:
    rows = np.ascontiguousarray(x, np.float32)
    if len(rows) < LANES:  # at least one whole tile
        rows = np.pad(rows, ((0, LANES - len(rows)), (0, 0)))
    out = np.empty_like(rows)
    nearest_rows(rows, out)
    return out[: len(x)]


@njit(cache=True, error_model="numpy", nogil=True)
def nearest_d4_tile(s) -> None:
    """Rows at s[i * LANES + lane], i < 4; their points go behind them, to s[(4 + i) * LANES + lane]."""
    for t in range(LANES):
        total, worst, lead, where = _ZERO, -_ONE, _ZERO, _I(0)
        for i in range(4):
            x = s[i * LANES + t]
            rounded = np.floor(x + _HALF)
            error = x - rounded
            is_worse = abs(error) > worst
            lead = error if is_worse else lead
            where = _I(i) if is_worse else where
            worst = max(abs(error), worst)
            total += rounded
            s[(4 + i) * LANES + t] = rounded
        is_odd = total - _TWO * np.floor(total * _HALF)
        step = is_odd * (-_ONE if lead < _ZERO else _ONE)
        for i in range(4):
            s[(4 + i) * LANES + t] += step if where == _I(i) else _ZERO


@njit(cache=True, error_model="numpy", nogil=True)
def nearest_e8_tile(s) -> None:
    """Rows at s[i * LANES + lane], i < 8; their points go behind them, to s[(8 + i) * LANES + lane].

    E8 is D8 and D8 + 1/2. With e = x - floor(x + 1/2), the nearest half lies 1/2 further on the side of e and
    misses by 1/2 - |e|. So one pass over the coordinates knows both points, and their squared distances differ
    by 2 - sum |e| and what the two parities cost.
    """
    for t in range(LANES):
        total, below, size = _ZERO, _ZERO, _ZERO
        worst, worst_lead, worst_at = -_ONE, _ZERO, _I(0)
        least, least_lead, least_at = _ONE, _ZERO, _I(0)
        for i in range(8):
            x = s[i * LANES + t]
            rounded = np.floor(x + _HALF)
            error = x - rounded
            gap = abs(error)
            s[(8 + i) * LANES + t] = rounded
            total += rounded
            below += _ONE if error < _ZERO else _ZERO
            size += gap
            is_worse, is_less = gap > worst, gap < least
            worst_lead = error if is_worse else worst_lead
            worst_at = _I(i) if is_worse else worst_at
            worst = gap if is_worse else worst
            least_lead = error if is_less else least_lead
            least_at = _I(i) if is_less else least_at
            least = gap if is_less else least
        half_total = total - below
        is_odd = total - _TWO * np.floor(total * _HALF)
        is_half_odd = half_total - _TWO * np.floor(half_total * _HALF)
        is_half = _TWO - size + is_half_odd * (_TWO * least) < is_odd * (_ONE - _TWO * worst)
        step = is_odd * (-_ONE if worst_lead < _ZERO else _ONE)
        half_step = is_half_odd * (_ONE if least_lead < _ZERO else -_ONE)
        step = half_step if is_half else step
        where = least_at if is_half else worst_at
        side = _HALF if is_half else _ZERO
        for i in range(8):
            rounded = s[(8 + i) * LANES + t]
            inside = -side if s[i * LANES + t] < rounded else side
            s[(8 + i) * LANES + t] = rounded + inside + (step if where == _I(i) else _ZERO)


@njit(cache=True, nogil=True)
def _nearest_d4_rows(x, out):
    s = np.empty(8 * LANES, _F)
    for start in range(0, len(x), LANES):
        first = min(start, len(x) - LANES)  # the last tile overlaps the one before
        load_tile(x[first : first + LANES], s, 4)
        nearest_d4_tile(s)
        _store_tile(s, out[first : first + LANES], 4)


@njit(cache=True, nogil=True)
def _nearest_e8_rows(x, out):
    s = np.empty(16 * LANES, _F)
    for start in range(0, len(x), LANES):
        first = min(start, len(x) - LANES)
        load_tile(x[first : first + LANES], s, 8)
        nearest_e8_tile(s)
        _store_tile(s, out[first : first + LANES], 8)


@njit(cache=True, nogil=True)
def load_tile(rows, s, d) -> None:
    """LANES rows [LANES, d] to s[i * LANES + lane]; inlined, `d` becomes a constant."""
    flat = rows.reshape(-1)
    for t in range(LANES):
        for i in range(d):
            s[i * LANES + t] = flat[t * d + i]


@njit(cache=True, nogil=True)
def _store_tile(s, rows, d):
    flat = rows.reshape(-1)
    for t in range(LANES):
        for i in range(d):
            flat[t * d + i] = s[(d + i) * LANES + t]
