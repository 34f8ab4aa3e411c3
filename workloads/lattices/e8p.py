"""E8P, the 16-bit code of QuIP#: a part of E8 + 1/4 that a table of 256 patterns, signs and a shift decode.

A codeword is a vector of halves (odd numbers over 2) of even sum, plus or minus 1/4 in all coordinates. Its high
byte names the absolute values: one of the 227 patterns of squared norm up to 10, or of the first 29 (any would do)
among the 56 of squared norm 12 without 5/2. Bit 0 is set for + 1/4; bits 1 to 7 are set where the first seven
coordinates are negative; the eighth sign makes the sum even (Tseng et al. 2024, "QuIP#: Even better LLM
quantization with Hadamard incoherence and lattice codebooks").
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workloads.lattices.code import Codes, Points
from workloads.lattices.shells import read_only

NUM_PATTERNS = 256


class E8P(NamedTuple):
    """The members of E8P."""

    digit_size: int = 1 << 16

    @property
    def offset(self) -> NDArray[np.float64]:
        return np.full(8, -0.25)

    def codes(self, points: Points) -> tuple[Codes, NDArray[np.bool_]]:
        is_plus = points[:, 0] % 1 == 0.5  # points of integers are halves - 1/2, so that the offset leaves - 1/4
        halves = np.where(is_plus[:, None], points, points + 0.5)
        pattern = _pattern_index(np.abs(halves))
        return _packed(np.maximum(pattern, 0), halves < 0, is_plus), pattern < 0

    def points(self, codes: Codes) -> Points:
        code = codes[:, 0]
        absolute = patterns()[code >> 8]
        is_negative = (code[:, None] >> np.arange(1, 8) & 1).astype(np.bool_)
        is_last_negative = (absolute.sum(1) + is_negative.sum(1)) % 2 == 1
        signs = np.where(np.column_stack([is_negative, is_last_negative]), -1, 1)
        return absolute * signs + np.where(code & 1, 0.25, -0.25)[:, None]

    def extent(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        greatest = patterns().max(0) + 0.25
        return -greatest, greatest

    def saturate(self, x: Points) -> Codes:
        """The nearest of all codewords; + 1/4 and the lowest pattern win ties."""
        plus, plus_distance = _nearest_halves(x - 0.25)
        minus, minus_distance = _nearest_halves(x + 0.25)
        is_plus = plus_distance <= minus_distance
        halves = np.where(is_plus[:, None], plus, minus)
        return _packed(_pattern_index(np.abs(halves)), halves < 0, is_plus)


@cache
def patterns() -> Points:
    """The absolute values, [256, 8]: by squared norm, then in lexicographic order."""
    rows = np.array(list(product((0.5, 1.5, 2.5), repeat=8)))
    norms = (rows**2).sum(1)
    inner = rows[norms <= 10]
    outer = rows[(norms == 12) & (rows.max(1) < 2)]
    inner = inner[np.argsort((inner**2).sum(1), kind="stable")]
    return read_only(np.concatenate([inner, outer])[:NUM_PATTERNS])


@cache
def _places() -> NDArray[np.int64]:
    """Number of the pattern for each vector of 1/2, 3/2 and 5/2, or -1, [3^8]."""
    places = np.full(3**8, -1)
    places[_ternary(patterns())] = np.arange(NUM_PATTERNS)
    return read_only(places)


def _ternary(absolute: Points) -> NDArray[np.int64]:
    return ((absolute - 0.5) @ 3.0 ** np.arange(8)).astype(np.int64)


def _pattern_index(absolute: Points) -> NDArray[np.int64]:
    """Number of the pattern of each row, or -1."""
    return np.where(absolute.max(1) < 3, _places()[_ternary(absolute.clip(max=2.5))], -1)


def _packed(pattern: NDArray[np.int64], is_negative: NDArray[np.bool_], is_plus: NDArray[np.bool_]) -> Codes:
    return (pattern << 8 | is_negative[:, :7] @ (2 << np.arange(7)) | is_plus)[:, None]


def _nearest_halves(y: Points) -> tuple[Points, NDArray[np.float64]]:
    """The vector of a pattern and signs, of even sum, nearest to each row; and its squared distance.

    Signs follow the row's. Where the sum would be odd, one flips: that of the least product.
    """
    book, size = patterns(), np.abs(y)
    is_odd = ((y < 0).sum(1) % 2 != 0)[:, None] != (book.sum(1) % 2 != 0)
    flip = np.outer(size[:, 0], 2 * book[:, 0])
    for i in range(1, 8):
        np.minimum(flip, np.outer(size[:, i], 2 * book[:, i]), out=flip)
    score = size @ book.T
    np.subtract(score, flip, out=score, where=is_odd)
    score -= (book**2).sum(1) / 2
    best = score.argmax(1)
    rows, halves = np.arange(len(y)), book[best] * np.where(y < 0, -1, 1)
    halves[rows, (size * book[best]).argmin(1)] *= 1 - 2 * is_odd[rows, best]
    return halves, (y**2).sum(1) - 2 * score[rows, best]
