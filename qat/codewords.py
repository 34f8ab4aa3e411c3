"""What codewords and their vectors give each other: a choice, a scale, a value, and the sum of gradients.

One pass over memory each, for float32 on the CPU; elsewhere plain torch. Vectors [R, n, d] come in R rows that have
a scale each; codes [R, n] name entries of a book [K, d]. Sums run in the order of the vectors, so that the same
input always gives the same bits.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from numba.core.dispatcher import Dispatcher
from torch import Tensor

from qat.assign import MAX_LENGTH, best_match, best_match_into


class Fit(NamedTuple):
    """Rows of vectors as codes [R, n], a scale for each row [R], and what these decode to, [R, n, d]."""

    codes: Tensor
    scale: Tensor
    rows: Tensor


def fit_rows(v: Tensor, book: Tensor, length: int, min_scale: float) -> Fit:
    """Of each vector the entry at the least angle, and of each row the scale that fits its `length` elements best.

    What is beyond `length` in a row [n * d] is padding. Entries [K, d] are integers; one that points the same way as
    an earlier one is never chosen. A row that points away from all its entries gets `min_scale`.
    """
    if v.shape[2] > MAX_LENGTH or not _is_simple(v, book):
        return fit_rows_torch(v, book, length, min_scale)
    x, integers = _arrays(v, book)
    codes, scale, rows = np.empty(x.shape[:2], np.int64), np.empty(len(x), np.float32), np.empty_like(x)
    directions, bias, squares = _angles(integers, False)
    best_match_into(x.reshape(-1, x.shape[2]), directions, bias, codes.reshape(-1))
    kernels = _kernels(x.shape[2])
    kernels.project(x, codes, integers, squares, length, scale)
    np.maximum(scale, np.float32(min_scale), out=scale)
    kernels.take(codes, integers, scale, rows)
    return Fit(*(torch.from_numpy(array) for array in (codes, scale, rows)))


def fit_rows_torch(v: Tensor, book: Tensor, length: int, min_scale: float) -> Fit:
    """`fit_rows` for any device and type."""
    directions, bias = angle_book(book)
    codes = best_match(v.detach().flatten(0, 1), directions, bias).view(v.shape[:2])
    entries = book[codes].flatten(1)[:, :length]
    along, squares = (v.detach().flatten(1)[:, :length] * entries).sum(1), entries.square().sum(1)
    scale = (along / squares.clamp_min(1.0)).clamp_min(min_scale)
    return Fit(codes, scale, scaled_entries(codes, book, scale))


def angle_book(book: Tensor, is_signed: bool = False) -> tuple[Tensor, Tensor]:
    """Entries of length 1 [K, d], and their bias [K]: -inf if an earlier entry points the same way, else 0.

    `is_signed`: or the opposite way. Entries are integers; zero stays zero.
    """
    directions, bias, _ = _angles(book.detach().cpu().contiguous().numpy(), is_signed)
    return torch.from_numpy(directions).to(book.device), torch.from_numpy(bias).to(book.device)


def scaled_entries(codes: Tensor, book: Tensor, scale: Tensor) -> Tensor:
    """Each code's entry times its row's scale [R], or the scale of all [1] -> [R, n, d]."""
    if not _is_simple(scale, book, codes):
        return book[codes] * scale[:, None, None]
    out = torch.empty(*codes.shape, book.shape[1])
    _kernels(book.shape[1]).take(*_arrays(codes, book, scale.expand(len(codes))), out.numpy())
    return out


def sum_by_index(index: Tensor, rows: Tensor, num_rows: int, scale: Tensor | None = None) -> Tensor:
    """Sum of the vectors [N, d] that share an index [N] -> [num_rows, d].

    Or of vectors [R, n, d] by an index [R, n], each times its row's scale [R] (or [1]).
    """
    if scale is None:
        index, rows = index[None], rows[None]
    scale = rows.new_ones(1) if scale is None else scale
    if not _is_simple(rows, scale, index):
        scaled = (rows * scale[:, None, None]).flatten(0, 1)
        return scaled.new_zeros(num_rows, rows.shape[2]).index_add_(0, index.flatten(), scaled)
    total = np.zeros((num_rows, rows.shape[2]))
    _kernels(rows.shape[2]).scatter(*_arrays(index, rows, scale.expand(len(rows))), total)
    return torch.from_numpy(total.astype(np.float32))


def _is_simple(values: Tensor, table: Tensor, codes: Tensor | None = None) -> bool:
    is_plain = all(t.dtype == torch.float32 and t.device.type == "cpu" for t in (values, table))
    return is_plain and (codes is None or (codes.dtype == torch.int64 and codes.device.type == "cpu"))


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def _angles(integers: np.ndarray, is_signed: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Directions [K, d], bias [K] and squared lengths [K] of integer entries."""
    directions, bias, squares = np.empty_like(integers), *np.empty((2, len(integers)), integers.dtype)
    places = np.full(1 << (2 * len(integers)).bit_length(), -1)
    _fill_angles(integers, is_signed, places, directions, bias, squares)
    return directions, bias, squares


@njit(cache=True, nogil=True)
def _fill_angles(integers, is_signed, places, directions, bias, squares):
    """`places` [power of two], -1 everywhere, becomes a hash table of the directions seen so far."""
    one = integers.dtype.type(1)
    primitive = np.empty(integers.shape, np.int64)  # the entries without their common divisor
    for k in range(len(integers)):
        divisor, first, square = 0, 0, one - one
        for j in range(integers.shape[1]):
            whole, rest = divisor, abs(int(integers[k, j]))
            while rest:
                whole, rest = rest, whole % rest
            divisor = whole
            first = int(integers[k, j]) if first == 0 else first
            square += integers[k, j] * integers[k, j]
        divisor = -divisor if is_signed and first < 0 else divisor
        length, place = np.sqrt(max(square, one)), 0
        for j in range(integers.shape[1]):
            directions[k, j] = integers[k, j] / length
            primitive[k, j] = int(integers[k, j]) // divisor if divisor else 0
            place = (place * 1_000_003 + primitive[k, j]) & 0x7FFFFFFFFFFF
        place = (place ^ place >> 17) & (len(places) - 1)
        while places[place] >= 0 and (primitive[places[place]] != primitive[k]).any():
            place = (place + 1) & (len(places) - 1)
        bias[k] = -np.inf if places[place] >= 0 else 0
        squares[k] = square
        places[place] = k if places[place] < 0 else places[place]


class _Kernels(NamedTuple):
    project: Dispatcher
    take: Dispatcher
    scatter: Dispatcher


@cache
def _kernels(d: int) -> _Kernels:
    """The kernels for vectors of this length, a constant to the compiler."""

    @njit(cache=True, nogil=True)
    def project(v, codes, book, squares, length, scale):
        num_whole = length // d
        for r in range(len(v)):
            along, size = 0.0, 0.0
            for i in range(num_whole):
                k, product = codes[r, i], np.float32(0)
                for j in range(d):
                    product += v[r, i, j] * book[k, j]
                along += product
                size += squares[k]
            for j in range(length - num_whole * d):  # of a last vector with padding
                entry = book[codes[r, num_whole], j]
                along += v[r, num_whole, j] * entry
                size += entry * entry
            scale[r] = along / max(size, 1.0)

    @njit(cache=True, nogil=True)
    def take(codes, book, scale, out):
        for r in range(len(codes)):
            factor = scale[r]
            for i in range(codes.shape[1]):
                k = codes[r, i]
                for j in range(d):
                    out[r, i, j] = book[k, j] * factor

    @njit(cache=True, nogil=True)
    def scatter(index, rows, scale, total):
        for r in range(len(rows)):
            factor = scale[r]
            for i in range(rows.shape[1]):
                k = index[r, i]
                for j in range(d):
                    total[k, j] += rows[r, i, j] * factor

    return _Kernels(project, take, scatter)
