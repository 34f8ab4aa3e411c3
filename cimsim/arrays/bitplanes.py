"""Column sums of array reads by counting bits, LANES columns at a time: compiled for `cimsim.arrays.mvm`.

Rows lie side by side in the bits of a word, columns in the lanes of a vector; a column's sum is the count of bits
that a row of input bits and a plane of cell bits share (or, with xnor, on which they agree), weighted by powers of two.

Shapes: N vectors, G row groups, B bit rows of an input (those of one step side by side), S steps, K bit planes of a
digit (two's complement, the highest first), W words of rows, C columns (plane by plane, output fastest) padded to a
multiple of LANES, P planes, O outputs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

LANES = 32  # columns per block: one AVX-512 register of 16-bit sums
TILE = 8  # bit rows that meet a word of cells once it is loaded


class Columns(NamedTuple):
    """Physical columns: bits [G, C / LANES, K, W, LANES] and lows, highs [C], the range of codes, as wide as a sum;
    signs [G, C], -1 where a column counts negative; weights int64 [P], what a code of each plane is worth."""

    bits: np.ndarray
    lows: np.ndarray
    highs: np.ndarray
    signs: np.ndarray
    weights: np.ndarray


class BitRead(NamedTuple):
    """How bit rows become codes: min(max((sum + step // 2) // step, low), high), in float32.

    scales [B], of the sum's type: what a bit row counts in its step. Of each step, [S]: `ends`, where its bit rows end;
    `factors`, of the type of `signs`, what its code counts; `tapers`, of the sum's type, by what power of two it has
    fewer codes; its ADC `steps`, with the `offsets` and `inverses` that divide by them.
    """

    scales: np.ndarray
    ends: np.ndarray
    factors: np.ndarray
    tapers: np.ndarray
    steps: np.ndarray
    offsets: np.ndarray
    inverses: np.ndarray
    is_xnor: bool
    is_signed: bool


def reading_of(rows: tuple, factors: np.ndarray, tapers: np.ndarray, step: int, flags: tuple[bool, bool]) -> BitRead:
    """rows: scales and ends; step: of a conversion without taper; flags: xnor, signed digits. Offsets add half a step,
    and half a unit so that rounding cannot reach the next code."""
    (scales, ends), steps = rows, step << tapers.astype(np.int64)
    inverses = (1 / steps).astype(np.float32)
    offsets = (steps // 2 + 0.5).astype(np.float32)
    return BitRead(scales, ends, factors, tapers, steps, offsets, inverses, *flags)


def count_bits(
    bits: np.ndarray, words: np.ndarray, first: tuple[int, int], reading: BitRead, counts: np.ndarray
) -> None:
    """counts [., LANES] of TILE bit rows: words uint32 [., W] against bits [K, W, LANES]; first: of each."""
    width = 8 * bits.itemsize
    for row in range(TILE):
        total = np.zeros(LANES, np.int64)
        for k, plane in enumerate(bits.view(f"u{bits.itemsize}")):
            driven = (words[first[1] + row] & ((1 << width) - 1)).astype(plane.dtype)[:, None]
            shared = ~(plane ^ driven) if reading.is_xnor else plane & driven
            found = np.bitwise_count(shared).sum(axis=0, dtype=np.int64)
            total = 2 * total + (-found if reading.is_signed and k == 0 else found)
        counts[first[0] + row] = total


def convert(counts: np.ndarray, first: tuple[int, int], column: tuple, reading: BitRead, codes: np.ndarray) -> None:
    """codes [., LANES] += sign times the sum over steps of factor times code, of one vector; first: row of its codes
    and of its counts [., LANES]; column: lows, highs and signs [LANES]."""
    low, high, sign = column
    codes, start = codes[first[0]], 0
    for i, end in enumerate(reading.ends.tolist()):
        read = counts[first[1] + start : first[1] + end].astype(np.int64)
        sums = (read * reading.scales[start:end, None]).sum(axis=0)
        if reading.steps[i] > 1:
            sums = np.floor((sums + reading.offsets[i]) * reading.inverses[i]).astype(np.int64)
        limits = low >> reading.tapers[i], high >> reading.tapers[i]
        codes += sign * reading.factors[i] * np.clip(sums, *limits).astype(codes.dtype)
        start = end


@overload(count_bits, inline="always")
def _count_bits_compiled(bits, words, first, reading, counts):
    def compiled(bits, words, first, reading, counts):
        _count_bits_vector(bits, words, first, reading, counts)  # pyright: ignore[reportCallIssue]

    return compiled


@overload(convert, inline="always")
def _convert_compiled(counts, first, column, reading, codes):
    def compiled(counts, first, column, reading, codes):
        _convert_vector(counts, first, column, reading, codes)  # pyright: ignore[reportCallIssue]

    return compiled


@intrinsic
def _count_bits_vector(typing_context, bits, words, first, reading, counts):
    """`count_bits` in LLVM vector code: the loop vectorizer knows no vectors of this shape."""

    def codegen(context, builder, signature, args):
        cells, driven, result = (context.make_array(signature.args[i])(context, builder, args[i]) for i in (0, 1, 4))
        flags = cgutils.unpack_tuple(builder, args[3])[-2:]
        is_xnor, is_signed = (builder.trunc(flag, ir.IntType(1)) if flag.type.width > 1 else flag for flag in flags)
        firsts = cgutils.unpack_tuple(builder, args[2])
        with builder.if_else(is_xnor) as (then, otherwise):
            for branch, agrees in ((then, True), (otherwise, False)):
                with branch:
                    _count_tile(builder, (cells, driven, result), firsts, (is_signed, agrees))
        return context.get_dummy_value()

    return types.void(bits, words, first, reading, counts), codegen


def _count_tile(builder, operands, firsts, kind):
    """One loop over planes and words; TILE sums stay in registers."""
    (cells, driven, result), (is_signed, agrees) = operands, kind
    vector = ir.VectorType(result.data.type.pointee, LANES)
    num_planes, num_words = (builder.extract_value(cells.shape, axis) for axis in (0, 1))
    lines = builder.bitcast(cells.data, vector.as_pointer())
    zero = _zero(vector)
    totals, sums = ([cgutils.alloca_once(builder, vector) for _ in range(TILE)] for _ in range(2))
    counted, first = firsts
    rows = [builder.gep(driven.data, [builder.mul(builder.add(first, first.type(i)), num_words)]) for i in range(TILE)]
    for total in totals:
        builder.store(zero, total)
    with cgutils.for_range(builder, num_planes) as plane:
        for item in sums:
            builder.store(zero, item)
        with cgutils.for_range(builder, num_words) as word:
            at = builder.add(builder.mul(plane.index, num_words), word.index)
            line = builder.load(builder.gep(lines, [at]), align=1)
            for row, item in zip(rows, sums, strict=True):
                bits = _spread(builder, builder.load(builder.gep(row, [word.index])), vector)
                shared = builder.not_(builder.xor(line, bits)) if agrees else builder.and_(line, bits)
                builder.store(builder.add(builder.load(item), _call(builder, "ctpop", shared)), item)
        is_negative = builder.and_(is_signed, builder.icmp_signed("==", plane.index, plane.index.type(0)))
        for total, item in zip(totals, sums, strict=True):
            found = builder.load(item)
            found = builder.select(is_negative, builder.sub(zero, found), found)
            doubled = builder.shl(builder.load(total), ir.Constant(vector, [1] * LANES))
            builder.store(builder.add(doubled, found), total)
    for i, total in enumerate(totals):
        where = builder.gep(builder.bitcast(result.data, vector.as_pointer()), [builder.add(counted, first.type(i))])
        builder.store(builder.load(total), where, align=1)


@intrinsic
def _convert_vector(typing_context, counts, first, column, reading, codes):
    """`convert` in LLVM vector code."""

    def codegen(context, builder, signature, args):
        def data(kind, value):
            return context.make_array(kind)(context, builder, value).data

        kinds = signature.args
        types_of = kinds[0], kinds[3].types[2], kinds[4]  # of sums, of one group's codes, of all groups' codes
        vector, wide, widest = (ir.VectorType(context.get_data_type(kind.dtype), LANES) for kind in types_of)
        arrays = [
            context.make_array(kind)(context, builder, value)
            for kind, value in zip(kinds[3].types[:7], cgutils.unpack_tuple(builder, args[3])[:7], strict=True)
        ]
        num_rows, num_steps = (builder.extract_value(array.shape, 0) for array in arrays[:2])
        scales, ends, factors, tapers, *division = (array.data for array in arrays)
        row, first = cgutils.unpack_tuple(builder, args[1])
        lines = builder.gep(builder.bitcast(data(kinds[0], args[0]), vector.as_pointer()), [first])
        low, high, sign = map(data, kinds[2].types, cgutils.unpack_tuple(builder, args[2]))
        limits = [_load_lanes(builder, limit, vector) for limit in (low, high)]
        result = cgutils.alloca_once(builder, wide)
        builder.store(_zero(wide), result)
        total, start = cgutils.alloca_once(builder, vector), cgutils.alloca_once(builder, first.type)
        builder.store(first.type(0), start)
        with cgutils.for_range(builder, num_steps) as turn:
            with builder.if_else(builder.icmp_signed("==", num_rows, num_steps)) as (one_bit, more_bits):
                with one_bit:
                    builder.store(_load_lanes(builder, builder.gep(lines, [turn.index]), vector), total)
                with more_bits:
                    end = builder.load(builder.gep(ends, [turn.index]))
                    builder.store(_weighted_sum(builder, (lines, scales), builder.load(start), end), total)
                    builder.store(end, start)
            taper, *of_step = (builder.load(builder.gep(each, [turn.index])) for each in (tapers, *division))
            code = _clip(builder, _divide(builder, builder.load(total), of_step), limits, taper)
            factor = _splat(builder, builder.load(builder.gep(factors, [turn.index])))
            builder.store(builder.add(builder.load(result), builder.mul(_widen(builder, code, wide), factor)), result)
        counted = builder.mul(builder.load(result), _load_lanes(builder, sign, wide))
        where = builder.gep(builder.bitcast(data(kinds[4], args[4]), widest.as_pointer()), [row])
        builder.store(builder.add(builder.load(where, align=1), _widen(builder, counted, widest)), where, align=1)
        return context.get_dummy_value()

    return types.void(counts, first, column, reading, codes), codegen


def _weighted_sum(builder, operands, start, end):
    """Sum over bit rows start .. end of counts times scale."""
    lines, scales = operands
    vector = lines.type.pointee
    total = cgutils.alloca_once(builder, vector)
    builder.store(_zero(vector), total)
    with cgutils.for_range_slice(builder, start, end, start.type(1), start.type) as (row, _):
        scale = _splat(builder, builder.load(builder.gep(scales, [row])))
        value = builder.mul(_load_lanes(builder, builder.gep(lines, [row]), vector), scale)
        builder.store(builder.add(builder.load(total), value), total)
    return builder.load(total)


def _divide(builder, total, division):
    """Sums to whole steps, rounded to the nearest, halves up; by the float32 reciprocal unless the step is one."""
    step, offset, inverse = division
    result = cgutils.alloca_once_value(builder, total)
    with builder.if_then(builder.icmp_signed(">", step, step.type(1)), likely=False):
        real = builder.sitofp(total, ir.VectorType(ir.FloatType(), LANES))
        real = builder.fmul(builder.fadd(real, _splat(builder, offset)), _splat(builder, inverse))
        builder.store(builder.fptosi(_call(builder, "floor", real), total.type), result)
    return builder.load(result)


def _call(builder, name, value):
    """LLVM's function of this name on every lane."""
    lane = "f32" if isinstance(value.type.element, ir.FloatType) else str(value.type.element)
    kind = ir.FunctionType(value.type, [value.type])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}{lane}")
    return builder.call(function, [value])


def _clip(builder, code, limits, taper):
    """Codes within their columns' ranges, these tapered."""
    low, high = (builder.ashr(limit, _splat(builder, taper)) for limit in limits)
    code = builder.select(builder.icmp_signed("<", code, low), low, code)
    return builder.select(builder.icmp_signed(">", code, high), high, code)


def _widen(builder, value, kind):
    return value if value.type == kind else builder.sext(value, kind)


def _load_lanes(builder, pointer, vector):
    return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=1)


def _zero(vector):
    return ir.Constant(vector, [0] * LANES)


def _splat(builder, scalar, lanes=LANES):
    """The scalar in all lanes."""
    single = builder.insert_element(
        ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined), scalar, ir.IntType(32)(0)
    )
    return builder.shuffle_vector(single, single, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))


def _spread(builder, word, vector):
    """A word of 32 bits all over a vector."""
    lanes = vector.count * vector.element.width // 32
    return builder.bitcast(_splat(builder, word, lanes), vector)


def _read_columns(columns, words, reading, scratch, out):
    """Adds to out [N, O] what the converters return, shifted and added; words uint32 [G, N padded to TILE, B, W];
    counts [TILE * B, LANES] and codes [N padded, LANES] are work space."""
    bits, lows, highs, signs, weights = columns
    num_groups, num_vectors, num_rows, num_words = words.shape
    rows, (counts, codes) = words.reshape(-1, num_words), scratch
    for block in range(bits.shape[1]):
        codes[:] = 0
        lanes = slice(block * LANES, (block + 1) * LANES)
        for group in range(num_groups):
            cells, column = bits[group, block], (lows[lanes], highs[lanes], signs[group, lanes])
            for tile in range(0, num_vectors, TILE):
                first = (group * num_vectors + tile) * num_rows
                for row in range(0, TILE * num_rows, TILE):
                    count_bits(cells, rows, (row, first + row), reading, counts)
                for n in range(TILE):
                    convert(counts, (tile + n, n * num_rows), column, reading, codes)
        shift_add(codes[: out.shape[0]], block * LANES, weights, out)


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
                target[n, i] += weight * np.int64(source[n, i])
        column += run


def _pack(words, rows, shifts, out):
    """out [G, N, B, W] gets bits of one byte of all inputs: words uint64 [N, G, W * width / 8], 8 rows each.

    rows: bit rows that take a bit of this byte; shifts: eight times which. Words of 16 rows fill both halves of their
    32 bits. Eight bytes become eight bits each by three exchanges (H. S. Warren, Hacker's Delight, 7-3).
    """
    num_groups, num_vectors, _, num_words = out.shape
    per_word = words.shape[2] // num_words
    copies = np.uint32(0x10001 if per_word == 2 else 1)
    parts = np.empty(4, np.uint64)
    for n in range(num_vectors):
        for group in range(num_groups):
            for word in range(num_words):
                for part in range(per_word):
                    x = words[n, group, word * per_word + part]
                    swapped = (x ^ (x >> np.uint64(7))) & np.uint64(0x00AA00AA00AA00AA)
                    x ^= swapped ^ (swapped << np.uint64(7))
                    swapped = (x ^ (x >> np.uint64(14))) & np.uint64(0x0000CCCC0000CCCC)
                    x ^= swapped ^ (swapped << np.uint64(14))
                    swapped = (x ^ (x >> np.uint64(28))) & np.uint64(0x00000000F0F0F0F0)
                    parts[part] = x ^ swapped ^ (swapped << np.uint64(28))
                for i in range(rows.size):
                    found = (parts[0] >> shifts[i]) & np.uint64(255)
                    for part in range(1, per_word):
                        found |= ((parts[part] >> shifts[i]) & np.uint64(255)) << np.uint64(8 * part)
                    out[group, n, rows[i], word] = np.uint32(found) * copies


shift_add = njit(cache=True)(_shift_add)
read_columns = njit(cache=True, nogil=True)(_read_columns)
pack = njit(cache=True, nogil=True)(_pack)
