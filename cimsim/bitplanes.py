"""Column sums of array reads, counted 64 columns at a time: the compiled half of `cimsim.functional`.

Each byte of input bits (8 rows at 1 bit, 4 rows at 2 bits, ...) selects one row of a table that holds the
sums these rows can give (Arlazarov et al., "On economical construction of the transitive closure", 1970).
The table is built once per row group and read by every input vector and every input step.

Shapes: N vectors, G row groups, S input steps, K bytes per step and group, R = K * rows per byte,
C columns padded to a multiple of LANES.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

LANES = 64  # columns per block: two AVX2 registers of bytes, one cache line
ENTRIES = 256  # table rows: all values of a byte


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


class Scratch(NamedTuple):
    """Work space: table [K, ENTRIES, LANES] and sums [LANES] of one unsigned type, partial [LANES] signed."""

    table: np.ndarray
    sums: np.ndarray
    partial: np.ndarray


def scratch_for(reading: Reading, largest_sum: int, num_bytes: int, num_steps: int) -> Scratch:
    """Work space in the narrowest types that hold the largest column sum the stored cells can give."""
    largest_code = min((largest_sum + reading.step // 2) // reading.step, reading.top)
    largest_partial = largest_code * (reading.radix**num_steps - 1) // (reading.radix - 1)
    kind = np.min_scalar_type(largest_sum)
    size, line = num_bytes * ENTRIES * LANES * kind.itemsize, 64  # no table line straddles two cache lines
    raw = np.empty(size + line, np.uint8)
    first = -raw.ctypes.data % line
    table = raw[first : first + size].view(kind).reshape(num_bytes, ENTRIES, LANES)
    partial = np.zeros(LANES, np.promote_types(np.int16, np.min_scalar_type(-largest_partial - 1)))
    return Scratch(table, np.zeros(LANES, kind), partial)


@intrinsic
def _add_rows_vector(typingctx, table, picks, row, sums):  # numba passes the typing context
    """LLVM vector code of `add_rows`: the LANES sums never leave the registers."""

    def codegen(context, builder, signature, args):
        tables, picked, result = (
            context.make_array(signature.args[i])(context, builder, args[i]) for i in (0, 1, 3)
        )
        lane = context.get_data_type(signature.args[0].dtype)
        vector, word = ir.VectorType(lane, LANES), args[2].type
        num_bytes = builder.extract_value(picked.shape, 1)
        bytes_of_row = builder.gep(picked.data, [builder.mul(args[2], num_bytes)])
        lines = builder.bitcast(tables.data, vector.as_pointer())
        total = cgutils.alloca_once_value(builder, ir.Constant(vector, [0] * LANES))
        with cgutils.for_range(builder, num_bytes) as loop:
            pick = builder.zext(builder.load(builder.gep(bytes_of_row, [loop.index])), word)
            line = builder.add(builder.mul(loop.index, ir.Constant(word, ENTRIES)), pick)
            value = builder.load(builder.gep(lines, [line]), align=1)
            builder.store(builder.add(builder.load(total), value), total)
        where = builder.bitcast(result.data, vector.as_pointer())
        builder.store(builder.load(total), where, align=1)
        return context.get_dummy_value()

    return types.void(table, picks, types.intp, sums), codegen


def add_rows(table: np.ndarray, picks: np.ndarray, row: int, sums: np.ndarray) -> None:
    """sums[c] = sum over k of table[k, picks[row, k], c]."""
    sums[:] = table[np.arange(picks.shape[1]), picks[row]].sum(axis=0)


@overload(add_rows)
def _add_rows_compiled(table, picks, row, sums):
    return lambda table, picks, row, sums: _add_rows_vector(table, picks, row, sums)


def _fill_table(digits, radix, table):
    """table[k, byte] = sum over the byte's rows of its digit times the row's cells; digits [R, LANES]."""
    num_bytes = table.shape[0]
    per_byte = digits.shape[0] // num_bytes
    for k in range(num_bytes):
        table[k, 0, :] = 0
        filled = 1
        for row in range(k * per_byte, (k + 1) * per_byte):
            for level in range(1, radix):
                for entry in range(filled):
                    for c in range(LANES):
                        table[k, level * filled + entry, c] = table[k, entry, c] + level * digits[row, c]
            filled *= radix


def _convert(reading, sums, partial):
    """partial = partial * radix + code(sums), on LANES columns."""
    radix = partial.dtype.type(reading.radix)
    top = sums.dtype.type(min(reading.top, np.iinfo(sums.dtype).max))
    if reading.step == 1:
        for c in range(LANES):
            partial[c] = partial[c] * radix + min(sums[c], top)
    else:
        for c in range(LANES):
            code = np.int32((np.float32(sums[c]) + reading.offset) * reading.inverse)
            partial[c] = partial[c] * radix + min(code, np.int32(top))


def _read_columns(cells, signs, picks, reading, scratch, codes):
    """Adds to codes [N, C] what the converters return for all groups and steps.

    cells uint8 [G, R, C], signs int8 [G, C] (-1: the column counts negative), picks uint8 [N * G * S, K].
    Steps are taken most significant first; with `is_signed` the first one weighs negative.
    """
    num_vectors, num_groups = codes.shape[0], cells.shape[0]
    num_steps = picks.shape[0] // (num_vectors * num_groups)
    table, sums, partial = scratch
    for first in range(0, codes.shape[1], LANES):
        for group in range(num_groups):
            fill_table(cells[group, :, first : first + LANES], reading.radix, table)
            for n in range(num_vectors):
                partial[:] = 0
                for step in range(num_steps - 1, -1, -1):
                    add_rows(table, picks, (n * num_groups + group) * num_steps + step, sums)
                    convert(reading, sums, partial)
                    if reading.is_signed and step == num_steps - 1:
                        for c in range(LANES):
                            partial[c] = -partial[c]
                for c in range(LANES):
                    codes[n, first + c] += signs[group, first + c] * np.int64(partial[c])


def _pack_inputs(x, starts, stops, dac_bits, picks):
    """Fills picks uint8 [N, G, S, K], the bytes that select table rows; returns group sums int64 [N, G].

    Eight input bytes form a word; the digits of one step are masked out and a multiplication gathers them in
    the top byte. dac_bits is 1, 2, 4 or 8.
    """
    num_vectors, num_groups, num_steps, num_bytes = picks.shape
    per_byte = 8 // dac_bits
    mask, gather = np.uint64(0), np.uint64(0)
    for i in range(per_byte):
        mask |= np.uint64((1 << dac_bits) - 1) << np.uint64(8 * i)
        gather |= np.uint64(1) << np.uint64(56 - 8 * i + dac_bits * i)
    sums = np.zeros((num_vectors, num_groups), np.int64)
    for n in range(num_vectors):
        for group in range(num_groups):
            for k in range(num_bytes):
                first = starts[group] + k * per_byte
                last = min(first + per_byte, stops[group])
                for i in range(first, last):
                    sums[n, group] += x[n, i]
                for low in range(0, num_steps, per_byte):
                    word = np.uint64(0)
                    for i in range(first, last):
                        byte = (np.int64(x[n, i]) >> (low * dac_bits)) & 255
                        word |= np.uint64(byte) << np.uint64(8 * (i - first))
                    for step in range(low, min(low + per_byte, num_steps)):
                        digits = (word >> np.uint64((step - low) * dac_bits)) & mask
                        picks[n, group, step, k] = (digits * gather) >> np.uint64(56)
    return sums


def _shift_add(codes, weights, out):
    """out[n, o] += sum over planes p of weights[p] * codes[n, p * O + o]: the digital shift-add, int64."""
    num_outputs = out.shape[1]
    for n in range(out.shape[0]):
        for plane in range(weights.shape[0]):
            for o in range(num_outputs):
                out[n, o] += weights[plane] * codes[n, plane * num_outputs + o]


fill_table = njit(cache=True)(_fill_table)
convert = njit(cache=True)(_convert)
read_columns = njit(cache=True)(_read_columns)
pack_inputs = njit(cache=True)(_pack_inputs)
shift_add = njit(cache=True)(_shift_add)
