"""Noise that belongs to its place: a function of seed, vector, read and column, so that no order of work changes it.

A SplitMix64 stream for every read (G. Steele et al., OOPSLA 2014) gives 64 bits a column: the number of ones among 56
of them, and the other 8 as a fraction of one. That sum, less its mean and over its standard deviation, differs from a
Gaussian by less than 0.002 in its distribution function; no value is beyond 7.6 standard deviations.

Shapes: N vectors, C = P * O columns, P planes, O outputs.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

GAMMA, FIRST, SECOND = (np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
ONES = 56
MEAN = np.float32(256 * ONES / 2 + (256 - 1) / 2)  # in 256ths
DEVIATION = np.float32(256 * sqrt(ONES / 4 + (1 - 2.0**-16) / 12))


def _mixed(word):
    """SplitMix64's output for a state."""
    word = (word ^ (word >> np.uint64(30))) * FIRST
    word = (word ^ (word >> np.uint64(27))) * SECOND
    return word ^ (word >> np.uint64(31))


mixed = njit(cache=True, inline="always")(_mixed)


@intrinsic
def _ones(typing_context, word):
    """How many bits of a word are set, by the machine's own instruction."""
    return types.uint64(types.uint64), lambda context, builder, signature, args: builder.ctpop(args[0])


def _bell(word):
    """64 random bits as a number of mean MEAN and standard deviation DEVIATION, in 256ths."""
    ones = _ones(word >> np.uint64(8))  # pyright: ignore[reportCallIssue]
    return np.float32(np.int32((ones << np.uint64(8)) | (word & np.uint64(255))))


bell = njit(cache=True, inline="always")(_bell)


def _convert(sums, rows, planes, worths, out):
    """Adds to out [N, O] the codes of sums [N, C], with noise, times their worth [P, O]; half steps are rounded up.

    rows: key uint64 [N] and length [N] of each vector's levels; planes: range [P, 2] of codes and noise [P] of a row at
    level one; worths: also the step. Without noise the step divides, so that codes are those of integers.
    """
    (keys, lengths), (ranges, noises), (worth, step) = rows, planes, worths
    num_outputs, half, per_step = out.shape[1], np.float32(0.5), np.float32(1) / step
    for n in range(out.shape[0]):
        for p in range(worth.shape[0]):
            low, high, scale = ranges[p, 0], ranges[p, 1], noises[p] * lengths[n] * per_step / DEVIATION
            line, result, factors = sums[n, p * num_outputs : (p + 1) * num_outputs], out[n], worth[p]
            state, shift = keys[n] + np.uint64(p * num_outputs) * GAMMA, half - scale * MEAN
            if scale > 0:
                for o in range(num_outputs):
                    code = np.floor(np.float32(line[o]) * per_step + (scale * bell(mixed(state)) + shift))
                    code = low if code < low else code
                    code = high if code > high else code
                    result[o] += factors[o] * np.int64(code)
                    state += GAMMA
            else:
                for o in range(num_outputs):
                    code = np.floor(np.float32(line[o]) / step + half)
                    code = low if code < low else code
                    code = high if code > high else code
                    result[o] += factors[o] * np.int64(code)


convert = njit(cache=True, nogil=True)(_convert)


def read_keys(seed: int, first: int, count: int, read: int) -> np.ndarray:
    """A stream's state for vectors `first` on, in one of their reads: uint64 [count]."""
    with np.errstate(over="ignore"):
        vectors = np.arange(first, first + count, dtype=np.uint64)
        return _mixed(_mixed(np.uint64(seed) + vectors * GAMMA) + np.uint64(read + 1) * GAMMA)
