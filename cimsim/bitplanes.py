"""Column sums of array reads, counted 64 columns at a time: the compiled half of `cimsim.functional`.

A byte of input bits (8 rows at 1 bit, 4 rows at 2 bits, ...) selects one row of a table that holds the sums
these rows can give (Arlazarov et al., "On economical construction of the transitive closure", 1970). The
table is built once per row group and read by every input vector and every input step.

Shapes: N vectors, G row groups, S input steps, K bytes per step and group (byte k picks among the ENTRIES
table rows from k * ENTRIES on), R = K * rows per byte, C columns (plane by plane, output fastest) padded to a
multiple of LANES, P planes, O outputs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

LANES = 64  # columns per block: two AVX2 registers of bytes, one cache line
ENTRIES = 256  # values of a byte


class Reading(NamedTuple):
    """How one column sum becomes a code, and codes of successive input steps one number.

    code = min((sum + step // 2) // step, top); `offset` and `inverse` do the division in float32.
    """

    step: int
    top: int
    offset: np.float32
    inverse: np.float32
    radix: int
    is_signed: bool

    @classmethod
    def of(cls, step: int, top: int, radix: int, is_signed: bool) -> Reading:
        """Adds half a step, and half a unit so that rounding cannot reach the next code."""
        return cls(step, top, np.float32(step // 2 + 0.5), np.float32(1 / step), radix, is_signed)


class Columns(NamedTuple):
    """Physical columns: cells uint8 [G, R, C]; signs int8 [G, C], -1 where a column counts negative; weights
    int64 [P], what a code of each plane is worth."""

    cells: np.ndarray
    signs: np.ndarray
    weights: np.ndarray


class Scratch(NamedTuple):
    """Work space: table [K * ENTRIES, LANES] unsigned and partial [LANES] signed."""

    table: np.ndarray
    partial: np.ndarray


def scratch_for(reading: Reading, largest_sum: int, num_picks: int, num_steps: int) -> Scratch:
    """Work space in the narrowest types that hold the largest column sum the stored cells can give."""
    largest_code = min((largest_sum + reading.step // 2) // reading.step, reading.top)
    largest_partial = largest_code * (reading.radix**num_steps - 1) // (reading.radix - 1)
    kind, line = np.min_scalar_type(largest_sum), 64
    size = num_picks * ENTRIES * LANES * kind.itemsize
    raw = np.empty(size + line, np.uint8)
    first = -raw.ctypes.data % line  # no row of 64 bytes straddles two cache lines
    table = raw[first : first + size].view(kind).reshape(-1, LANES)
    partial = np.zeros(LANES, np.promote_types(np.int16, np.min_scalar_type(-largest_partial - 1)))
    return Scratch(table, partial)


def read_step(table: np.ndarray, picks: np.ndarray, row: int, reading: Reading, partial: np.ndarray) -> None:
    """partial = partial * radix + codes of the sums over k of table[picks[row, k]], on LANES columns."""
    codes = table[picks[row]].sum(axis=0, dtype=np.int64)
    if reading.step > 1:
        codes = ((codes + reading.offset) * reading.inverse).astype(np.int64)
    partial[:] = partial * reading.radix + np.minimum(codes, reading.top)


@overload(read_step)
def _read_step_compiled(table, picks, row, reading, partial):
    def compiled(table, picks, row, reading, partial):
        _read_step_vector(table, picks, row, reading, partial)  # pyright: ignore[reportCallIssue]

    return compiled


@intrinsic
def _read_step_vector(typing_context, table, picks, row, reading, partial):
    """`read_step` in LLVM vector code: the loop vectorizer would widen the bytes and spill the sums."""

    def codegen(context, builder, signature, args):
        tables, picked, result = (context.make_array(signature.args[i])(context, builder, args[i]) for i in (0, 1, 4))
        step, top, offset, inverse, radix, _ = cgutils.unpack_tuple(builder, args[3])
        lane = context.get_data_type(signature.args[0].dtype)
        kind = context.get_data_type(signature.args[4].dtype)
        total = _sum_of_rows(builder, tables, picked, args[2], lane)
        with builder.if_then(builder.icmp_signed(">", step, step.type(1)), likely=False):
            real = builder.uitofp(builder.load(total), ir.VectorType(ir.FloatType(), LANES))
            real = builder.fmul(builder.fadd(real, _splat(builder, offset)), _splat(builder, inverse))
            builder.store(builder.fptoui(real, ir.VectorType(lane, LANES)), total)
        codes, limit = builder.load(total), _splat(builder, _resize(builder, top, lane))
        codes = builder.select(builder.icmp_unsigned("<", codes, limit), codes, limit)
        where = builder.bitcast(result.data, ir.VectorType(kind, LANES).as_pointer())
        scaled = builder.mul(builder.load(where, align=1), _splat(builder, _resize(builder, radix, kind)))
        builder.store(builder.add(scaled, _resize(builder, codes, ir.VectorType(kind, LANES))), where, align=1)
        return context.get_dummy_value()

    return types.void(table, picks, types.intp, reading, partial), codegen


def _sum_of_rows(builder, tables, picked, row, lane):
    """Pointer to the LANES sums, which the compiler keeps in registers."""
    vector = ir.VectorType(lane, LANES)
    num_picks = builder.extract_value(picked.shape, 1)
    picks_of_row = builder.gep(picked.data, [builder.mul(row, num_picks)])
    lines = builder.bitcast(tables.data, vector.as_pointer())
    total = cgutils.alloca_once(builder, vector)
    builder.store(ir.Constant(vector, [0] * LANES), total)
    with cgutils.for_range(builder, num_picks) as loop:
        pick = builder.zext(builder.load(builder.gep(picks_of_row, [loop.index])), row.type)
        value = builder.load(builder.gep(lines, [pick]), align=1)
        builder.store(builder.add(builder.load(total), value), total)
    return total


def _splat(builder, scalar):
    """The scalar in all lanes."""
    vector = ir.VectorType(scalar.type, LANES)
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.IntType(32)(0))
    return builder.shuffle_vector(single, single, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _resize(builder, value, kind):
    """An unsigned integer, or a vector of them, in another width."""
    have, want = (t.element.width if isinstance(t, ir.VectorType) else t.width for t in (value.type, kind))
    if have == want:
        return value
    return builder.zext(value, kind) if have < want else builder.trunc(value, kind)


def _fill_table(digits, radix, num_picks, table):
    """table[k * ENTRIES + byte] = sum over the byte's rows of its digit times their cells; digits [R, LANES]."""
    rows = digits.shape[0] // num_picks
    for k in range(num_picks):
        part = table[k * ENTRIES : (k + 1) * ENTRIES]
        part[0, :] = 0
        filled = 1
        for row in range(k * rows, (k + 1) * rows):
            for entry in range(filled, radix * filled):
                for c in range(LANES):
                    part[entry, c] = part[entry - filled, c] + digits[row, c]
            filled *= radix


def _read_columns(columns, picks, reading, scratch, out):
    """Adds to out [N, O] what the converters return, shifted and added; picks [G * N * S, K].

    Steps are taken most significant first; with `is_signed` the first one weighs negative.
    """
    (cells, signs, weights), (table, partial) = columns, scratch
    num_vectors, num_groups = out.shape[0], cells.shape[0]
    num_steps = picks.shape[0] // (num_vectors * num_groups)
    codes = np.empty((num_vectors, LANES), np.int64)
    for first in range(0, cells.shape[2], LANES):
        codes[:] = 0
        for group in range(num_groups):
            digits = cells[group, :, first : first + LANES].astype(table.dtype)
            fill_table(digits, reading.radix, picks.shape[1], table)
            sign = signs[group, first : first + LANES].astype(partial.dtype)
            for n in range(num_vectors):
                partial[:] = 0
                for step in range(num_steps - 1, -1, -1):
                    row = (group * num_vectors + n) * num_steps + step
                    read_step(table, picks, row, reading, partial)
                    if reading.is_signed and step == num_steps - 1:
                        for c in range(LANES):
                            partial[c] = -partial[c]
                for c in range(LANES):  # in the narrow type: vectors have no 64-bit product
                    partial[c] = sign[c] * partial[c]
                for c in range(LANES):
                    codes[n, c] += partial[c]
        shift_add(codes, first, weights, out)


def _shift_add(codes, first, weights, out):
    """out[n, o] += weights[plane] * codes [N, LANES] of the columns from `first` on; padding is left out."""
    num_outputs, column = out.shape[1], first
    last = min(first + LANES, weights.shape[0] * num_outputs)
    while column < last:
        o = column % num_outputs
        run = min(last - column, num_outputs - o)
        weight, source = weights[column // num_outputs], codes[:, column - first : column - first + run]
        target = out[:, o : o + run]
        for n in range(out.shape[0]):
            for i in range(run):
                target[n, i] += weight * source[n, i]
        column += run


def _pick_rows(words, dac_bits, picks):
    """Fills picks [G, N, S, K] with the table rows that up to 8 bits of every input select.

    words uint64 [N, G, K]: byte i belongs to row i of a pick. The digits of a step are masked out and folded
    into one byte, neighbours first; dac_bits is 1, 2, 4 or 8.
    """
    num_groups, num_vectors, num_steps, num_picks = picks.shape
    rows, mask, nothing = 8 // dac_bits, np.uint64(0), np.uint64(63)
    for i in range(rows):
        mask |= np.uint64((1 << dac_bits) - 1) << np.uint64(8 * i)
    pairs = np.uint64(8 - dac_bits) if rows >= 2 else nothing
    fours = np.uint64(2 * (8 - dac_bits)) if rows >= 4 else nothing
    eights = np.uint64(4 * (8 - dac_bits)) if rows >= 8 else nothing
    for n in range(num_vectors):
        for group in range(num_groups):
            for step in range(num_steps):
                shift = np.uint64(step * dac_bits)
                for k in range(num_picks):
                    digits = (words[n, group, k] >> shift) & mask
                    digits |= digits >> pairs
                    digits |= digits >> fours
                    digits |= digits >> eights
                    picks[group, n, step, k] = k * ENTRIES + np.int64(digits & np.uint64(255))


fill_table = njit(cache=True)(_fill_table)
shift_add = njit(cache=True)(_shift_add)
read_columns = njit(cache=True)(_read_columns)
pick_rows = njit(cache=True)(_pick_rows)
