"""Codes of the nearest codeword of a shifted E8 Voronoi code, saturating, many vectors at a time.

Conway & Sloane, "A fast encoding method for lattice codes and quantizers", IEEE Trans. Inf. Theory 29(6),
1983. A vector whose nearest lattice point is no codeword shrinks towards zero until its nearest point is one,
then takes the best step by one minimal vector to another codeword: the nearest one, but for about one
vector in 10,000.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from qat.kernels.e8_tiles import (
    BIAS,
    INDEX,
    NO_STEP,
    POINT,
    SCRATCH,
    SIGNS,
    SUMS,
    WORDS,
    best_steps,
    clamp_and_shift,
    index_tile,
    pack_tile,
    partial_sums,
    shrink_tile,
    subtract_entries,
)
from qat.kernels.nearest import LANES, nearest_e8_tile
from workloads.lattices.points import GRID, SHIFTS, lattice_table

_CHUNK = 8192  # vectors whose lists stay in the cache
_MARGIN = 2.0  # a codeword's Voronoi cell reaches less than sqrt(2) over the code's
_RETREAT, _SHRINK = 0.75, 0.9  # almost every vector fits at the first shrinking

_F, _I, _U, _L = np.float32, np.int32, np.uint32, np.int64


class E8Code(NamedTuple):
    """What the encoder reads: `entries` [q^8], each eight bytes, a coordinate in quarters plus 128; `shift` [8].

    `steps` [256 + 1, 8] are the minimal vectors and zero, `groups` [32, 2] names the partial sums that make their
    gains, and bit k of `exits` [q^8, 8] says whether entry + step k is a codeword.
    """

    entries: NDArray[np.int64]
    shift: NDArray[np.float32]
    steps: NDArray[np.float32]
    groups: NDArray[np.int64]
    exits: NDArray[np.int32]
    q: int


@cache
def e8_code(q: int) -> E8Code:
    """The code of radix q."""
    table = lattice_table("e8", q)
    shift = (np.array(SHIFTS["e8", q]) / GRID).astype(np.float32)
    entries = (table + BIAS).astype(np.uint8).view(np.int64)[:, 0]
    steps, groups = _minimal_vectors()
    exits = np.zeros((len(table), WORDS), np.int32)
    code = E8Code(entries, shift, steps, groups, exits, q)
    _find_exits(code)
    return code


def _minimal_vectors() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The minimal vectors of E8 in 32 groups of 8 (16 occur twice) and zero, and each group's rows [32, 2].

    A vector is the sum of two rows of `partial_sums`: its group's first row, and one of eight in a row.
    """
    units, none = np.repeat(np.eye(8), 2, 0) * np.tile([[1.0], [-1.0]], (8, 1)), np.zeros_like(SIGNS)
    rows = np.concatenate([units, units[:8], np.hstack([SIGNS, none]), np.hstack([none, SIGNS])])
    pairs = [(i, 2 * (i // 2) + 2) for i in range(16)]  # +-e_i with the next four +-e_j in the round
    halves = [(24 + m, 40 + 8 * (m // 8)) for m in range(16)]  # as many minuses on either side, or one more on both
    groups = np.array(pairs + halves)
    steps = (rows[groups[:, :1]] + rows[groups[:, 1:] + np.arange(8)]).reshape(NO_STEP, 8)
    return np.concatenate([steps, np.zeros((1, 8))]).astype(np.float32), groups


def encode_e8(vectors: NDArray[np.float32], code: E8Code) -> NDArray[np.int64]:
    """Code of each finite row [N, 8] in lattice units."""
    index = np.empty(len(vectors), np.int64)
    _encode(np.ascontiguousarray(vectors, np.float32), code, index)
    return index


@njit(cache=True, error_model="numpy", nogil=True)
def _encode(x, code, index):
    scratch = _new_scratch()
    todo, late = np.zeros(_CHUNK + LANES, _U), np.zeros(_CHUNK + LANES, _U)
    for start in range(0, len(x), _CHUNK):
        chunk = _Chunk(x[start : start + _CHUNK], index[start : start + _CHUNK], todo)
        for row in range(len(chunk.rows)):
            todo[row] = row
        todo[len(chunk.rows) :] = 0
        num_late = num_todo = _try(chunk, len(chunk.rows), _F(np.inf), code, scratch)
        late[:] = todo
        reach = _F(code.q - _RETREAT)
        while num_todo:
            num_todo = _try(chunk, num_todo, reach, code, scratch)
            reach *= _F(_SHRINK)
        _take_steps(chunk, late, num_late, code, scratch)


class _Chunk(NamedTuple):
    rows: NDArray[np.float32]
    codes: NDArray[np.int64]
    todo: NDArray[np.uint32]  # rows that have no code yet, in front


class _Scratch(NamedTuple):
    s: NDArray[np.float32]  # what belongs to the rows of a tile, transposed
    sums: NDArray[np.float32]
    words: NDArray[np.int32]
    packed: NDArray[np.int64]


@njit(cache=True)
def _new_scratch():
    return _Scratch(
        np.zeros(SCRATCH, _F), np.zeros((SUMS + 1) * LANES, _F),
        np.zeros((WORDS + 1) * LANES, _I), np.zeros(LANES, _L),
    )  # fmt: skip


@njit(cache=True, error_model="numpy", nogil=True)
def _try(chunk, num_todo, reach, code, scratch):
    """Codes of the rows to do, shrunk to `reach`; puts those that do not fit in front and returns their number."""
    s, packed = scratch.s, scratch.packed
    rows, codes, todo = chunk
    num_left = 0
    for start in range(0, num_todo, LANES):
        listed = todo[start : start + LANES]
        for t in range(LANES):
            row = listed[t]
            for i in range(8):
                s[i * LANES + t] = rows[row, i]
        if reach < np.inf:
            shrink_tile(s, reach)
        clamp_and_shift(s, _F(code.q + _MARGIN), code.shift)
        nearest_e8_tile(s)
        index_tile(s, _F(code.q))
        pack_tile(s, code.shift, packed)
        for t in range(min(LANES, num_todo - start)):
            row, k = listed[t], _U(s[INDEX + t])
            codes[row] = k
            todo[num_left] = row
            num_left += code.entries[k] != packed[t]
    todo[num_left : num_left + LANES] = 0
    return num_left


@njit(cache=True, error_model="numpy", nogil=True)
def _take_steps(chunk, late, num_late, code, scratch):
    """Moves the codes of the listed rows by the minimal vector that gains most, the first of equals."""
    s, words = scratch.s, scratch.words
    rows, codes, _ = chunk
    for start in range(0, num_late, LANES):
        listed = late[start : start + LANES]
        for t in range(LANES):
            row = listed[t]
            k = _U(codes[row])
            scratch.packed[t] = code.entries[k]
            for i in range(8):
                s[i * LANES + t] = rows[row, i]
                words[i * LANES + t] = code.exits[k, i]
        subtract_entries(s, scratch.packed, code.shift)
        partial_sums(s, scratch.sums)
        best_steps(scratch.sums, words, code.groups)
        for t in range(LANES):
            step = _U(words[WORDS * LANES + t])
            for i in range(8):
                s[POINT + i * LANES + t] += code.steps[step, i]
        index_tile(s, _F(code.q))
        for t in range(min(LANES, num_late - start)):
            codes[listed[t]] = _L(s[INDEX + t])


@njit(cache=True, error_model="numpy", nogil=True)
def _find_exits(code):
    """Fills `code.exits`."""
    s, packed, num_entries = np.zeros(SCRATCH, _F), np.zeros(LANES, _L), len(code.entries)
    none = np.zeros(8, _F)
    for start in range(0, num_entries, LANES):
        s[: 8 * LANES] = 0
        for t in range(LANES):
            packed[t] = code.entries[min(start + t, num_entries - 1)]
        subtract_entries(s, packed, none)  # leaves the entries as points
        for k in range(NO_STEP):
            moved = _L(0)
            for i in range(8):
                moved += _L(GRID * code.steps[k, i]) << _L(8 * i)
                for t in range(LANES):
                    s[POINT + i * LANES + t] = code.shift[i] + code.steps[k, i] - s[i * LANES + t]
            index_tile(s, _F(code.q))
            for t in range(min(LANES, num_entries - start)):
                is_entry = code.entries[_U(s[INDEX + t])] == packed[t] + moved
                code.exits[start + t, k >> 5] |= _I(is_entry) << _I(k & 31)
