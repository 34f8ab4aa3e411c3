"""Requantization in integers: y = ((acc + bias) * multiplier + half) >> shift, rounding half up.

The multiplier is the real ratio of two steps, kept to 31 bits or to as many as leave the product inside 62.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PRODUCT_BITS = 61  # of (acc + bias) * multiplier; one bit left for the converter's errors, one for the half
MAX_SHIFT = 62
SUM_BITS = 30  # of an addition's multipliers
NEGLIGIBLE = 2.0**-8  # of one output step: less than this from the whole sum may be rounded away


class Rescale(NamedTuple):
    """Integers per channel [O]. `bias` is added before the multiplication."""

    multiplier: NDArray[np.int32]
    shift: NDArray[np.int32]
    bias: NDArray[np.int64]


def rescale_for(ratio: NDArray[np.float64], offset: NDArray[np.float64], bound: int) -> Rescale:
    """Integers that compute y = acc * ratio + offset, both in output steps, for |acc| <= bound.

    A ratio so small that the sum cannot move the output (a dead channel) is raised to where it
    contributes NEGLIGIBLE, because its bias must pass through the same multiplier. Raises ValueError
    if a ratio or offset is not finite or so large that no shift is left.
    """
    if not (np.isfinite(ratio).all() and np.isfinite(offset).all()):
        raise ValueError("the ratio of steps or the bias is not finite")
    smallest = NEGLIGIBLE / bound
    ratio = np.where(np.abs(ratio) < smallest, np.copysign(smallest, ratio), ratio)
    fraction, exponent = np.frexp(ratio)
    _, bits_acc = np.frexp(bound + np.abs(offset / ratio))
    bits = np.minimum(np.minimum(31, PRODUCT_BITS - bits_acc), MAX_SHIFT + exponent)
    if (bits < 1).any() or (bits <= exponent).any():
        raise ValueError("the output step is too small for 62-bit products")
    top = (np.int64(1) << bits.astype(np.int64)) - 1
    multiplier = np.clip(np.rint(np.ldexp(fraction, bits)), -top, top)
    shift = bits - exponent
    bias = np.rint(offset / np.ldexp(multiplier, -shift))
    return Rescale(multiplier.astype(np.int32), shift.astype(np.int32), bias.astype(np.int64))


def requantize(acc: NDArray[np.integer], rescale: Rescale, low: int, high: int) -> NDArray[np.int64]:
    """Puts sums [..., O] on the output grid: multiply, shift with round half up, clip to [low, high]."""
    multiplier = rescale.multiplier.astype(np.int64)
    y = acc * multiplier
    y += rescale.bias * multiplier + (np.int64(1) << (rescale.shift.astype(np.int64) - 1))
    y >>= rescale.shift
    return np.clip(y, low, high, out=y)


def add(operands: list[NDArray[np.integer]], ratios: list[float], low: int, high: int) -> NDArray[np.int64]:
    """The sum of integers on grids of their own, in output steps: one shift for all, so rounded once.

    `ratios` are the operands' steps over the output's step; operands must have at most 16 bits.
    """
    shift = SUM_BITS - int(np.frexp(max(ratios))[1])
    if not 1 <= shift <= MAX_SHIFT:
        raise ValueError(f"an addition's steps differ by a factor of {max(ratios):g}")
    total = np.full(operands[0].shape, 1 << (shift - 1), np.int64)
    for x, ratio in zip(operands, ratios, strict=True):
        total += x * np.int64(round(ratio * 2.0**shift))
    total >>= shift
    return np.clip(total, low, high, out=total)
