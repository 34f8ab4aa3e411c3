"""The inner loops of training: which codeword a vector gets, and whose gradients a codeword collects.

Each has a plain twin in the tests. Vectors are rows: x [N, d]; books are [K, d].
"""

from __future__ import annotations

from functools import cache
from itertools import product
from math import floor
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from workloads.lattice import SHIFTS, lattice_table

_MAX_SCORES = 1 << 18  # products held at a time (1 MB): they stay in the cache
_SHRINK = 0.9


def best_match(x: Tensor, book: Tensor, bias: Tensor | None = None) -> Tensor:
    """argmax_k <x_n, book_k> + bias_k for each row of x [N, d] -> int64 [N]; the lowest index wins ties."""
    if bias is not None:  # one more coordinate is cheaper than one more pass over all products
        x, book = functional.pad(x, (0, 1), value=1.0), torch.cat([book, bias[:, None]], 1)
    num_rows = max(1, _MAX_SCORES // len(book))
    scores = torch.empty((min(num_rows, len(x)), len(book)))  # one buffer: fresh pages cost ten times the product
    index = np.empty(len(x), np.int64)
    for start in range(0, len(x), num_rows):
        rows = x[start : start + num_rows]
        part = torch.mm(rows, book.T, out=scores[: len(rows)])
        # numpy's argmax is several times faster than torch's on the CPU
        index[start : start + num_rows] = part.numpy().argmax(1)
    return torch.from_numpy(index)


def sum_by_index(index: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    """Sum of the rows [N, d] that share an index [N] -> [num_rows, d]; in order, so always the same."""
    return torch.from_numpy(_scatter_add(index.numpy(), rows.contiguous().numpy(), num_rows))


@njit(cache=True)
def _scatter_add(index, rows, num_rows):
    total = np.zeros((num_rows, rows.shape[1]), np.float32)
    for i in range(len(index)):
        for j in range(rows.shape[1]):
            total[index[i], j] += rows[i, j]
    return total


class E8Code(NamedTuple):
    """What the encoder needs: table [q^8, 8] and shift [8] in quarters, minimal vectors [8, 240] in halves."""

    table: NDArray[np.int8]
    shift: NDArray[np.int64]
    steps: NDArray[np.float32]
    q: int


@cache
def e8_code(q: int) -> E8Code:
    """The code of radix q."""
    pairs = [v for v in product((-2, 0, 2), repeat=8) if np.dot(v, v) == 8]
    halves = [v for v in product((-1, 1), repeat=8) if v.count(-1) % 2 == 0]
    steps = np.ascontiguousarray(np.array(pairs + halves, np.float32).T)
    return E8Code(lattice_table("e8", q).astype(np.int8), np.array(SHIFTS["e8", q], np.int64), steps, q)


@njit(cache=True)
def _nearest_d8(x, half, u):
    """Writes 2 * (nearest vector of D8 + half / 2) to u; returns the squared distance."""
    total, worst, worst_error, up, distance = 0, 0, -1.0, 2, 0.0
    for i in range(8):
        shifted = x[i] - 0.5 * half
        rounded = floor(shifted + 0.5)
        error = shifted - rounded
        size = abs(error)
        u[i] = 2 * int(rounded) + half
        total += int(rounded)
        distance += size * size
        is_worse = size > worst_error
        worst = i if is_worse else worst
        up = (2 if error >= 0 else -2) if is_worse else up
        worst_error = size if is_worse else worst_error
    if total % 2:
        u[worst] += up
        distance += 1.0 - 2.0 * worst_error
    return distance


@njit(cache=True)
def _code_of(u, code):
    """Code of the lattice point u / 2, as workloads.lattice.class_index; -1 if its entry is another point."""
    q, half, above = code.q, u[7], 0
    index = half & 3 if q == 4 else half % q  # a division costs as much as the rest of the step
    for i in range(6, 0, -1):
        above += (u[i] - half) >> 1
        index = index * q + (above & 3 if q == 4 else above % q)
    above = (above + ((u[0] - half) >> 1)) >> 1
    index = index * q + (above & 3 if q == 4 else above % q)
    for i in range(8):
        if code.table[index, i] != 2 * u[i] - code.shift[i]:
            return -1
    return index


@njit(cache=True)
def _best_step(x, u, other, gain, index, code):
    """Best codeword at most one minimal vector away from u / 2, the point of code `index`."""
    gain[:] = 0
    for i in range(8):
        residual = np.float32(4.0 * x[i] + code.shift[i] - 2 * u[i])
        for k in range(gain.size):
            gain[k] += residual * code.steps[i, k]
    best = np.float32(8.0)  # nearer only if <residual, step> > |step|^2 / 2 = 1, here in quarters times halves
    for k in range(gain.size):
        if gain[k] > best:
            for i in range(8):
                other[i] = u[i] + int(code.steps[i, k])
            candidate = _code_of(other, code)
            if candidate >= 0:
                best, index = gain[k], candidate
    return index


@njit(cache=True)
def encode_e8(vectors: NDArray[np.float32], code: E8Code) -> NDArray[np.int64]:
    """Code of each finite row [N, 8], saturating: the nearest lattice point where the code holds it.

    Elsewhere the vector shrinks towards zero until its nearest point fits, and takes the best step back
    by one minimal vector, which almost always gives the nearest codeword.
    """
    index = np.empty(len(vectors), np.int64)
    y, gain = np.empty(8), np.empty(code.steps.shape[1], np.float32)
    u, other = np.empty(8, np.int64), np.empty(8, np.int64)
    rim = 0.25 * np.abs(code.table).max() * np.sqrt(8.0)  # no entry is longer
    for n in range(len(vectors)):
        x = vectors[n]
        shrink = min(1.0, rim / (1e-9 + np.sqrt((x * x).sum())))
        index[n] = -1
        is_first = True
        while index[n] < 0:
            for i in range(8):
                y[i] = shrink * x[i] + 0.25 * code.shift[i]
            if _nearest_d8(y, 1, other) < _nearest_d8(y, 0, u):
                u[:] = other
            index[n] = _code_of(u, code)
            if index[n] >= 0 and not is_first:
                index[n] = _best_step(x, u, other, gain, index[n], code)
            is_first = False
            shrink *= _SHRINK
    return index
