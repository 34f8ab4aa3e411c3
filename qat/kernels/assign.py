"""Which codeword a vector gets: the largest product, found without ever holding all products.

A score is the bias, then plus x_j e_j for j = 0, 1, ... in float32; product and sum are rounded once, where the
machine can. Nothing depends on how rows are cut into tiles or over threads. Vectors are rows: x [N, d], books [K, d].
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from numba import njit
from numba.core.dispatcher import Dispatcher
from numpy.typing import NDArray
from torch import Tensor

_TILE = 256  # rows that stay in the first cache, side by side in the registers
MAX_LENGTH = 32  # of vectors; a longer one no longer fits the registers, and a matrix product is faster
_MIN_PRODUCTS = 1 << 22  # per thread
_MAX_SCORES = 1 << 18  # at a time (1 MB) where there is no kernel: they stay in the cache

_Floats = NDArray[np.float32]


def best_match(x: Tensor, book: Tensor, bias: Tensor | None = None) -> Tensor:
    """argmax_k <x_n, book_k> + bias_k for each row of x [N, d] -> int64 [N]; the lowest index wins ties."""
    x, book = x.detach(), book.detach()
    bias = book.new_zeros(len(book)) if bias is None else bias.detach()
    if x.shape[1] > MAX_LENGTH or any(t.dtype != torch.float32 or t.device.type != "cpu" for t in (x, book, bias)):
        return best_match_torch(x, book, bias)
    index = torch.empty(len(x), dtype=torch.int64)
    best_match_into(*(tensor.contiguous().numpy() for tensor in (x, book, bias, index)))
    return index


def best_match_torch(x: Tensor, book: Tensor, bias: Tensor) -> Tensor:
    """`best_match` for any device and type, by matrix products of its library (and their order of summing)."""
    num_rows = max(1, _MAX_SCORES // len(book))
    parts = [torch.addmm(bias, rows, book.T).argmax(1) for rows in x.split(num_rows)]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64, device=x.device)


def best_match_into(x: _Floats, book: _Floats, bias: _Floats, index: NDArray[np.int64]) -> None:
    """`best_match` of arrays, d at most MAX_LENGTH, to `index` [N]; on as many threads as torch may use."""
    if len(book) % 2:  # entries are taken in pairs, and a second last one wins nothing
        book, bias = np.concatenate([book, book[-1:]]), np.append(bias, bias[-1])
    kernel = _best_match(book.shape[1])
    num_parts = min(torch.get_num_threads(), x.shape[0] * book.size // _MIN_PRODUCTS)
    if num_parts <= 1:
        kernel(x, book, bias, index)
        return
    with ThreadPoolExecutor(num_parts) as threads:  # the kernel holds no lock
        parts = zip(np.array_split(x, num_parts), np.array_split(index, num_parts), strict=True)
        for done in [threads.submit(kernel, rows, book, bias, out) for rows, out in parts]:
            done.result()


@cache
def _best_match(d: int) -> Dispatcher:
    """The kernel for vectors of this length, a constant to the compiler: it unrolls the sums."""

    @njit(cache=True, error_model="numpy", nogil=True, fastmath={"contract"})
    def best_match(x, book, bias, index):
        tile, best, which = np.empty((d, _TILE), np.float32), np.empty(_TILE, np.float32), np.empty(_TILE, np.int32)
        for start in range(0, len(x), _TILE):
            num_rows = min(_TILE, len(x) - start)
            for t in range(num_rows):
                for j in range(d):
                    tile[j, t] = x[start + t, j]
            best[:] = -np.inf
            which[:] = 0
            for k in range(0, len(book), 2):
                first = np.int32(k)
                for t in range(_TILE):
                    score, second = bias[k], bias[k + 1]
                    for j in range(d):
                        score += tile[j, t] * book[k, j]
                        second += tile[j, t] * book[k + 1, j]
                    is_second = second > score
                    score = second if is_second else score
                    is_better = score > best[t]
                    best[t] = score if is_better else best[t]
                    which[t] = first + np.int32(is_second) if is_better else which[t]
            for t in range(num_rows):
                index[start + t] = which[t]

    return best_match
