"""What codewords give their vectors, or get from them: a choice, a scale, a value, and the sum of gradients.

One pass over memory each, for float32 on the CPU; elsewhere plain torch. A row [L] is cut into n = ceil(L / d) vectors,
of which the last may be padded with zeros; R rows [R, L] have a scale each. Codes [R, n] name entries of a book [K, d].
Sums run in the order of the vectors, so that the same input always gives the same bits.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from numba.core.dispatcher import Dispatcher
from torch import Tensor
from torch.nn import functional

from qat.kernels.assign import MAX_LENGTH, best_match, best_match_into

_MAX_KNOWN = 32  # books whose angles are remembered: layers share them, and roundings change seldom


class Fit(NamedTuple):
    """Rows as codes [R, n], a scale for each row [R], and what these decode to, [R, L]."""

    codes: Tensor
    scale: Tensor
    rows: Tensor


def fit_rows(rows: Tensor, book: Tensor, min_scale: float) -> Fit:
    """Of each vector the entry at the least angle, and of each row [R, L] the scale that fits it best.

    Entries [K, d] are integers; one that points the same way as an earlier one is never chosen. A row that points
    away from all its entries gets `min_scale`.
    """
    d = book.shape[1]
    if d > MAX_LENGTH or not _is_simple(rows, book):
        return fit_rows_torch(rows, book, min_scale)
    x, integers = _arrays(rows, book)
    codes = np.empty((len(x), -(-x.shape[1] // d)), np.int64)
    scale, out = np.full(len(x), min_scale, np.float32), np.empty_like(x)
    directions, bias, squares = _angles(integers, False)
    whole = x
    if x.shape[1] % d:
        whole = np.zeros((len(x), codes.shape[1] * d), np.float32)
        whole[:, : x.shape[1]] = x
    best_match_into(whole.reshape(-1, d), directions, bias, codes.reshape(-1))
    kernels = _kernels(d)
    kernels.project(x, codes, integers, squares, scale)
    kernels.take(codes, integers, scale, out)
    return Fit(torch.from_numpy(codes), torch.from_numpy(scale), torch.from_numpy(out))


def fit_rows_torch(rows: Tensor, book: Tensor, min_scale: float) -> Fit:
    """`fit_rows` for any device and type."""
    x, (directions, bias) = rows.detach(), angle_book(book)
    vectors = functional.pad(x, (0, -x.shape[1] % book.shape[1])).view(len(x), -1, book.shape[1])
    codes = best_match(vectors.flatten(0, 1), directions, bias).view(vectors.shape[:2])
    entries = book[codes].flatten(1)[:, : x.shape[1]]
    scale = ((x * entries).sum(1) / entries.square().sum(1).clamp_min(1.0)).clamp_min(min_scale)
    return Fit(codes, scale, entries * scale[:, None])


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
    _kernels(book.shape[1]).take(*_arrays(codes, book, scale.expand(len(codes))), out.flatten(1).numpy())
    return out


def sum_by_index(index: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    """Sum of the vectors [N, d] that share an index [N] -> [num_rows, d]."""
    return sum_rows(index[None], rows.reshape(1, -1), rows.new_ones(1), (num_rows, rows.shape[1]))


def sum_rows(codes: Tensor, rows: Tensor, scale: Tensor, shape: tuple[int, int]) -> Tensor:
    """Sum of the vectors of rows [R, L] that share a code [R, n], each times its row's scale [R] -> `shape` (K, d)."""
    d = shape[1]
    if not _is_simple(rows, scale, codes):
        scaled = functional.pad(rows * scale[:, None], (0, -rows.shape[1] % d)).view(-1, d)
        return scaled.new_zeros(shape).index_add_(0, codes.flatten(), scaled)
    total = np.zeros(shape)
    _kernels(d).scatter(*_arrays(codes, rows, scale), total)
    return torch.from_numpy(total.astype(np.float32))


def _is_simple(values: Tensor, table: Tensor, codes: Tensor | None = None) -> bool:
    is_plain = all(t.dtype == torch.float32 and t.device.type == "cpu" for t in (values, table))
    return is_plain and (codes is None or (codes.dtype == torch.int64 and codes.device.type == "cpu"))


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def _angles(integers: np.ndarray, is_signed: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Directions [K, d], bias [K] and squared lengths [K] of integer entries; not to be changed."""
    return _known_angles(integers.tobytes(), integers.dtype, integers.shape, is_signed)


@lru_cache(maxsize=_MAX_KNOWN)
def _known_angles(
    stored: bytes, dtype: np.dtype, shape: tuple[int, int], is_signed: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    integers = np.frombuffer(bytearray(stored), dtype).reshape(shape)
    angles = np.empty_like(integers), np.empty(len(integers), dtype), np.empty(len(integers), dtype)
    _fill_angles(integers, is_signed, np.full(1 << (2 * len(integers)).bit_length(), -1), angles)
    return angles


@njit(cache=True, nogil=True)
def _fill_angles(integers, is_signed, places, angles):
    """`places` [power of two], -1 everywhere, becomes a hash table of the directions seen so far."""
    directions, bias, squares = angles
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
    def project(rows, codes, book, squares, scale):
        """Each row's scale, at least what `scale` holds before."""
        num_whole = rows.shape[1] // d
        for r in range(len(rows)):
            along, size = 0.0, 0.0
            for i in range(num_whole):
                k, product = codes[r, i], np.float32(0)
                for j in range(d):
                    product += rows[r, i * d + j] * book[k, j]
                along += product
                size += squares[k]
            for j in range(rows.shape[1] - num_whole * d):  # of a last vector with padding
                entry = book[codes[r, num_whole], j]
                along += rows[r, num_whole * d + j] * entry
                size += entry * entry
            scale[r] = max(np.float32(along / max(size, 1.0)), scale[r])

    @njit(cache=True, nogil=True)
    def take(codes, book, scale, out):
        num_whole = out.shape[1] // d
        for r in range(len(out)):
            factor = scale[r]
            for i in range(num_whole):
                k = codes[r, i]
                for j in range(d):
                    out[r, i * d + j] = book[k, j] * factor
            for j in range(out.shape[1] - num_whole * d):
                out[r, num_whole * d + j] = book[codes[r, num_whole], j] * factor

    @njit(cache=True, nogil=True)
    def scatter(codes, rows, scale, total):
        num_whole = rows.shape[1] // d
        for r in range(len(rows)):
            factor = scale[r]
            for i in range(num_whole):
                k = codes[r, i]
                for j in range(d):
                    total[k, j] += rows[r, i * d + j] * factor
            for j in range(rows.shape[1] - num_whole * d):
                total[codes[r, num_whole], j] += rows[r, num_whole * d + j] * factor

    return _Kernels(project, take, scatter)
