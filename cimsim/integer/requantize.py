"""Requantization in integers: y = (acc * multiplier + bias + half) >> shift, so rounded once, half up.

The bias joins after the multiplication: in units of the sums it would be rounded by up to half a unit, which
at 2-bit weights is a good part of an output step (12 % of a tensor's integers then differ from training).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MULTIPLIER_BITS = 31
PRODUCT_BITS = 60  # of |bias|, and of |acc * multiplier| before converter errors, which may double it
BLOCK_ROWS = 8192  # that stay in the cache from one operation to the next
SUM_BITS = 30  # of an addition's multipliers


class Rescale(NamedTuple):
    """Integers per channel [O]; half = 1 << (shift - 1) is not stored."""

    multiplier: NDArray[np.int32]
    shift: NDArray[np.int32]
    bias: NDArray[np.int64]


def rescale_for(ratio: NDArray[np.float64], offset: NDArray[np.float64], bound: int) -> Rescale:
    """Integers that compute y = acc * ratio + offset, both in output steps, for |acc| <= bound.

    Multipliers have 31 bits, or as many as 64-bit arithmetic leaves. Raises ValueError if a number is not
    finite or too large.
    """
    if not (np.isfinite(ratio).all() and np.isfinite(offset).all()):
        raise ValueError("the ratio of steps or the bias is not finite")
    bits = min(MULTIPLIER_BITS, PRODUCT_BITS - bound.bit_length())
    shift = np.minimum(bits - np.frexp(ratio)[1], PRODUCT_BITS - np.frexp(np.abs(offset) + 1)[1])
    if bits < 1 or shift.min() < 1:
        raise ValueError("the sums or the bias are too large in output steps for 64-bit arithmetic")
    top = (1 << bits) - 1
    multiplier = np.clip(np.rint(np.ldexp(ratio, shift)), -top, top)
    bias = np.rint(np.ldexp(offset, shift))
    return Rescale(multiplier.astype(np.int32), shift.astype(np.int32), bias.astype(np.int64))


def requantize(
    acc: NDArray[np.integer], rescale: Rescale, low: int, high: int, dtype: np.dtype | type = np.int64
) -> NDArray[np.integer]:
    """Puts sums [M, O] on the output grid: multiply, add, shift with round half up, clip to [low, high]."""
    multiplier = rescale.multiplier.astype(np.int64)
    bias = rescale.bias + (np.int64(1) << (rescale.shift.astype(np.int64) - 1))
    y = np.empty(acc.shape, dtype)
    for start in range(0, len(acc), BLOCK_ROWS):
        part = acc[start : start + BLOCK_ROWS] * multiplier
        part += bias
        part >>= rescale.shift
        y[start : start + BLOCK_ROWS] = np.clip(part, low, high, out=part)
    return y


def add(operands: list[NDArray[np.integer]], ratios: list[float], low: int, high: int) -> NDArray[np.int64]:
    """The sum of integers on grids of their own, in output steps: one shift for all, so rounded once.

    `ratios` are the operands' steps over the output's step; operands have at most 24 bits.
    """
    shift = SUM_BITS - int(np.frexp(max(ratios))[1])
    if not 1 <= shift <= PRODUCT_BITS:
        raise ValueError(f"an addition's steps differ by a factor of {max(ratios):g}")
    total = np.full(operands[0].shape, 1 << (shift - 1), np.int64)
    for x, ratio in zip(operands, ratios, strict=True):
        total += x * np.int64(round(ratio * 2.0**shift))
    total >>= shift
    return np.clip(total, low, high, out=total)
