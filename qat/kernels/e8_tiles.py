"""What the E8 encoder does to LANES rows at a time: shrinking, codes, residuals and steps, in one scratch array.

Rows lie at s[i * LANES + lane], i < 8, and their lattice points at s[POINT + i * LANES + lane]. There are no branches,
so that rows go side by side through the registers; loops over i unroll.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numba import njit

from qat.kernels.nearest import LANES

POINT, INDEX, SCRATCH = 8 * LANES, 16 * LANES, 17 * LANES  # places in the scratch, and its size
SUMS = 56  # partial sums, two of which make the gain of any step
WORDS = 8  # of 32 bits, one for each step
NO_STEP = 32 * WORDS
BIAS = 128  # makes a coordinate in quarters a byte

# Four signs, those with an even number of minuses first.
SIGNS = np.array(sorted(product((0.5, -0.5), repeat=4), key=lambda signs: np.prod(signs) < 0), np.float32)

_BITS = np.left_shift(1, np.arange(32)).astype(np.int32)
_F, _I, _L = np.float32, np.int32, np.int64
_ZERO, _HALF, _ONE, _FOUR = _F(0), _F(0.5), _F(1), _F(4)


@njit(cache=True, error_model="numpy", nogil=True)
def clamp_and_shift(s, bound, shift) -> None:
    """A row outside the bound has no codeword near, and has none after."""
    for t in range(LANES):
        for i in range(8):
            s[i * LANES + t] = min(max(s[i * LANES + t], -bound), bound) + shift[i]


@njit(cache=True, error_model="numpy", nogil=True)
def shrink_tile(s, reach) -> None:
    """Rows x to x * min(1, reach / g), where g = max <x, v> over the minimal vectors v."""
    for t in range(LANES):
        total, first, second, least, num_negative = _ZERO, _ZERO, _ZERO, _F(np.inf), _ZERO
        for i in range(8):
            x = s[i * LANES + t]
            size = abs(x)
            total += size
            second = max(second, min(first, size))
            first = max(first, size)
            least = min(least, size)
            num_negative += _ONE if x < _ZERO else _ZERO
        is_odd = num_negative - _F(2) * np.floor(num_negative * _HALF)
        factor = min(_ONE, reach / max(first + second, _HALF * total - is_odd * least))
        for i in range(8):
            s[i * LANES + t] *= factor


@njit(cache=True, error_model="numpy", nogil=True)
def index_tile(s, q) -> None:
    """Codes of the points, as workloads.lattices.points.class_index: whole numbers below 2^24, exact in float32."""
    inverse = _ONE / q
    for t in range(LANES):
        half = s[POINT + 7 * LANES + t]
        above, index = _ZERO, _remainder(half + half, q, inverse)
        for i in range(6, 0, -1):
            above += s[POINT + i * LANES + t] - half
            index = index * q + _remainder(above, q, inverse)
        above += s[POINT + t] - half
        s[INDEX + t] = index * q + _remainder(above * _HALF, q, inverse)


@njit(cache=True, error_model="numpy", nogil=True)
def _remainder(whole, q, inverse):
    return whole - q * np.floor((whole + _HALF) * inverse)


@njit(cache=True, error_model="numpy", nogil=True)
def pack_tile(s, shift, packed) -> None:
    """The points less the shift, as `E8Code.entries`."""
    for t in range(LANES):
        total = _L(0)
        for i in range(8):
            total += _L(_FOUR * (s[POINT + i * LANES + t] - shift[i]) + _F(BIAS)) << _L(8 * i)
        packed[t] = total


@njit(cache=True, error_model="numpy", nogil=True)
def subtract_entries(s, entries, shift) -> None:
    """Rows to what their entries leave of them; the entries' lattice points go behind them."""
    bytes_of = entries.view(np.uint8)
    for t in range(LANES):
        for i in range(8):
            entry = _F(0.25) * (_F(bytes_of[8 * t + i]) - _F(BIAS))
            s[i * LANES + t] -= entry
            s[POINT + i * LANES + t] = entry + shift[i]


@njit(cache=True, error_model="numpy", nogil=True)
def partial_sums(s, sums) -> None:
    """Of each residual r: r_i and -r_i in the round, then half the signed sums of r_0..r_3 and of r_4..r_7."""
    for t in range(LANES):
        for i in range(12):
            r = s[(i & 7) * LANES + t]
            sums[2 * i * LANES + t] = r
            sums[(2 * i + 1) * LANES + t] = -r
    for m in range(32):
        first, signs = m >> 4 << 2, SIGNS[m & 15]
        for t in range(LANES):
            r = first * LANES + t
            low = signs[0] * s[r] + signs[1] * s[r + LANES]
            sums[(24 + m) * LANES + t] = low + (signs[2] * s[r + 2 * LANES] + signs[3] * s[r + 3 * LANES])


@njit(cache=True, error_model="numpy", nogil=True)
def best_steps(sums, words, groups) -> None:
    """Which allowed step gains most in each lane, to the end of `words`: the first of equals.

    NO_STEP where none is nearer, that is gains more than half its squared length, 1. Two halves of each group
    compete side by side, because one chain of comparisons would wait for itself.
    """
    for t in range(LANES):
        sums[SUMS * LANES + t] = _ONE
        words[WORDS * LANES + t] = NO_STEP
    for g in range(32):  # slices, because indices that may be negative do not vectorise
        first, others = sums[groups[g, 0] * LANES :], sums[groups[g, 1] * LANES :]
        word, bits = words[(g >> 2) * LANES :], _BITS[8 * (g & 3) :]
        first_step = _I(8 * g)
        for t in range(LANES):
            term, exits = first[t], word[t]
            best, which = sums[SUMS * LANES + t], words[WORDS * LANES + t]
            second, then = _ONE, _I(0)
            for j in range(4):
                gain = term + others[j * LANES + t]
                is_better = (gain > best) & (exits & bits[j] != 0)
                best = gain if is_better else best
                which = _I(first_step + j) if is_better else which
                gain = term + others[(4 + j) * LANES + t]
                is_better = (gain > second) & (exits & bits[4 + j] != 0)
                second = gain if is_better else second
                then = _I(first_step + 4 + j) if is_better else then
            is_better = second > best
            sums[SUMS * LANES + t] = second if is_better else best
            words[WORDS * LANES + t] = then if is_better else which
