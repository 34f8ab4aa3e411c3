"""What a stored weight means: vectors, packed codes, and the integers and real numbers they decode to.

The one definition. An array holds a weight [O, C/g, kh, kw] (or [O, I]) as rows [O, I] in im2col order (kh, kw,
channel; channel fastest). A format cuts it into vectors of d, zero-padded at the end of each row of vectors:
`in` along the im2col order of one output, `kernel` along (channel, kh, kw) of one output (so d = 9 is one 3x3
kernel), `out` along the outputs that one input feeds, `flat` through the whole tensor in memory order.
A real weight is always (array integer) x (float32 scale of its output, or of its tensor).
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, prod
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workloads.format import POOL_GROUP, WeightFormat, num_kept
from workloads.lattices import lattice_code
from workloads.rotation import unrotate

_CHUNK = 1 << 19  # codes expanded to bits at a time; a multiple of 8, so chunks end on whole bytes


class Codes(NamedTuple):
    """The integers of one stored weight: `codes` [R, n] (or [R, n, M] with M codes per vector), unsigned.

    `scale_codes`: multiples 1 .. 2^s per vector or group, signed where the format says so; a pool's two
    multiples. `errors`: a pool's signs, -1 or 1, [O, inputs kept].
    """

    codes: NDArray
    scale_codes: NDArray | None = None
    errors: NDArray | None = None


def to_rows(weight: ArrayLike) -> NDArray:
    """Weight [O, C/g, kh, kw] or [O, I] -> [O, I] in im2col order."""
    array = np.asarray(weight)
    return np.ascontiguousarray(np.moveaxis(array, 1, -1)).reshape(len(array), -1)


def from_rows(rows: NDArray, shape: tuple[int, ...]) -> NDArray:
    """[O, I] in im2col order -> the weight of this shape; inverse of `to_rows`."""
    outputs, channels, *kernel = shape
    return np.ascontiguousarray(np.moveaxis(rows.reshape(outputs, *kernel, channels), -1, 1))


def to_vectors(weight: ArrayLike, d: int, axis: str = "in") -> NDArray:
    """Weight [O, ...] -> vectors [R, n, d], zero-padded at the end of each row."""
    weight = np.asarray(weight)
    if axis == "in":
        rows = to_rows(weight)
    elif axis == "out":
        rows = to_rows(weight).T
    else:
        rows = weight.reshape(len(weight) if axis == "kernel" else 1, -1)
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % d))).reshape(len(rows), -1, d)


def from_vectors(vectors: NDArray, shape: tuple[int, ...], axis: str = "in") -> NDArray:
    """Vectors [R, n, d] -> weight of `shape`, padding dropped; inverse of `to_vectors`."""
    rows = vectors.reshape(len(vectors), -1)
    if axis == "in":
        return from_rows(rows[:, : prod(shape[1:])], shape)
    if axis == "out":
        return from_rows(rows[:, : shape[0]].T, shape)
    return rows[:, : prod(shape) // len(rows)].reshape(shape)


def pack(codes: ArrayLike, bits: int) -> NDArray[np.uint8]:
    """Codes of any shape, in row-major order -> bytes, LSB first; only the low `bits` (1 to 16) are kept."""
    flat = np.asarray(codes).reshape(-1)
    chunks = [_pack_chunk(flat[i : i + _CHUNK], bits) for i in range(0, len(flat), _CHUNK)]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.uint8)


def _pack_chunk(codes: NDArray, bits: int) -> NDArray[np.uint8]:
    octets = codes.astype("<u2").view(np.uint8).reshape(-1, 2)
    expanded = np.unpackbits(octets, axis=1, bitorder="little")[:, :bits]
    return np.packbits(expanded, bitorder="little")


def unpack(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.int64]:
    """The first `count` codes of a packed stream, unsigned. Raises ValueError when it is too short."""
    if len(packed) != ceil(count * bits / 8):
        raise ValueError(f"packed codes: {len(packed)} bytes: must be {ceil(count * bits / 8)} for {count} codes")
    codes = np.empty(count, np.int64)
    for start in range(0, count, _CHUNK):
        stop = min(start + _CHUNK, count)
        codes[start:stop] = _unpack_chunk(packed[start * bits // 8 : ceil(stop * bits / 8)], bits, stop - start)
    return codes


def _unpack_chunk(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray:
    expanded = np.unpackbits(packed, count=count * bits, bitorder="little").reshape(count, bits)
    octets = np.packbits(np.pad(expanded, ((0, 0), (0, 16 - bits))), axis=1, bitorder="little")
    return octets.view("<u2")[:, 0]


class Packed(NamedTuple):
    """`Codes` as bytes, each stream padded to whole bytes; streams that a format lacks are empty."""

    codes: NDArray[np.uint8]
    scale_codes: NDArray[np.uint8]
    errors: NDArray[np.uint8]


def pack_all(fmt: WeightFormat, stored: Codes) -> Packed:
    """A weight's streams. Of a scale code the magnitude is stored less one; its sign, if any, is the top bit."""
    none = np.zeros(0, np.uint8)
    scale_codes, errors = none, none
    if stored.scale_codes is not None:
        top = 1 << (fmt.scale_bits - 1) if fmt.signed_scale else 0
        words = np.abs(stored.scale_codes) - 1 + top * (stored.scale_codes < 0)
        scale_codes = pack(words, fmt.scale_bits)
    if stored.errors is not None:
        errors = pack(stored.errors > 0, 1)
    return Packed(pack(stored.codes, fmt.code_bits), scale_codes, errors)


def unpack_all(fmt: WeightFormat, packed: Packed, shape: tuple[int, ...]) -> Codes:
    """Inverse of `pack_all` for a weight of `shape`; linear codes stay unsigned.

    Raises ValueError for wrong sizes, and for a pool column that a group uses twice.
    """
    codes_shape, scale_shape = fmt.code_shape(shape), fmt.scale_shape(shape)
    codes = unpack(packed.codes, fmt.code_bits, prod(codes_shape) * fmt.codes_per_vector)
    codes = codes.reshape(*codes_shape, *([fmt.codes_per_vector] if fmt.codes_per_vector > 1 else []))
    scale_codes = None
    if fmt.scale_bits:
        words = unpack(packed.scale_codes, fmt.scale_bits, prod(scale_shape)).reshape(scale_shape)
        top = 1 << (fmt.scale_bits - 1) if fmt.signed_scale else 1 << fmt.scale_bits
        scale_codes = np.where(words >= top, -(words - top + 1), words + 1)
    errors = None
    if fmt.kind == "pool":
        _require_permutations(fmt, codes)
        errors = 2 * unpack(packed.errors, 1, fmt.num_errors(shape)).reshape(shape[0], -1) - 1
    return Codes(codes, scale_codes, errors)


def decode_integers(
    fmt: WeightFormat, stored: Codes, shape: tuple[int, ...], table: NDArray | None = None
) -> NDArray[np.int32]:
    """The array integers [O, I], in im2col order, of a stored weight [O, ...] of `shape`.

    `table`: the codebook's entries [K, d], or [M, K, d] with M books. Raises ValueError where a code or scale
    code is out of range or missing.
    """
    return _DECODERS[fmt.kind](fmt, stored, shape, table)


def _decode_linear(fmt: WeightFormat, stored: Codes, shape: tuple[int, ...], table: NDArray | None) -> NDArray:
    """Two's complement (signed or unsigned codes are accepted), or odd; times the multiple of its group."""
    half = 1 << (fmt.code_bits - 1)
    integers = (((stored.codes + half) & (2 * half - 1)) - half).astype(np.int32)
    if fmt.is_odd:
        integers = 2 * integers + 1
    if fmt.group:
        multiples = np.repeat(_checked_multiples(fmt, stored), fmt.group, axis=1)
        integers = integers * multiples[:, : integers.shape[1]]
    return integers


def _decode_vq(fmt: WeightFormat, stored: Codes, shape: tuple[int, ...], table: NDArray | None) -> NDArray:
    if table is None:
        raise ValueError(f"{fmt.name}: a codebook is needed to decode")
    _require_range(f"{fmt.name}: code", stored.codes, 0, fmt.num_entries - 1)
    books = np.asarray(table, np.int32).reshape(fmt.codes_per_vector, fmt.num_entries, fmt.vector_length)
    codes = stored.codes.reshape(*stored.codes.shape[:2], -1)
    vectors = np.add.reduce([book[codes[..., i]] for i, book in enumerate(books)], dtype=np.int32)
    if fmt.scale_bits:
        vectors = vectors * _checked_multiples(fmt, stored)[..., None]
    return to_rows(from_vectors(vectors, shape, fmt.axis))


def _decode_lattice(fmt: WeightFormat, stored: Codes, shape: tuple[int, ...], table: NDArray | None) -> NDArray:
    code = lattice_code(fmt.code)
    digits = stored.codes.reshape(-1, fmt.codes_per_vector)
    _require_range(f"{fmt.name}: code", digits, 0, code.digit_size - 1)
    vectors = code.decode(digits).reshape(*stored.codes.shape[:2], fmt.vector_length)
    return to_rows(from_vectors(vectors, shape, fmt.axis))


def _decode_pool(fmt: WeightFormat, stored: Codes, shape: tuple[int, ...], table: NDArray | None) -> NDArray:
    """multiple 0 x pool column + multiple 1 x error sign; code c of output o is a column of o's part of the pool."""
    if table is None:
        raise ValueError(f"{fmt.name}: a pool is needed to decode")
    _require_range(f"{fmt.name}: code", stored.codes, 0, POOL_GROUP - 1)
    _require_permutations(fmt, stored.codes)
    multiples = _checked_multiples(fmt, stored)
    columns = pool_parts(shape[0], fmt.num_entries)[:, None] * POOL_GROUP + stored.codes
    inputs = prod(shape[1:])
    integers = multiples[0] * np.asarray(table, np.int32)[columns].reshape(shape[0], -1)[:, :inputs]
    if stored.errors is None:
        raise ValueError(f"{fmt.name}: error signs are needed to decode")
    integers[:, error_rows(inputs, fmt.pruned_percent)] += multiples[1] * stored.errors.astype(np.int32)
    return integers


def error_rows(inputs: int, pruned_percent: int) -> NDArray[np.int64]:
    """The inputs of each output whose error signs are stored, evenly spread; the others have no error row."""
    kept = num_kept(inputs, pruned_percent)
    return np.arange(kept) * inputs // max(1, kept)


def pool_parts(outputs: int, size: int) -> NDArray[np.int64]:
    """Which part of the pool each output takes its columns from, [O]: groups of outputs go round the parts."""
    return np.arange(outputs) // POOL_GROUP % (size // POOL_GROUP)


_DECODERS: dict[str, Callable[..., NDArray[np.int32]]] = {
    "linear": _decode_linear,
    "vq": _decode_vq,
    "lattice": _decode_lattice,
    "pool": _decode_pool,
}


def _checked_multiples(fmt: WeightFormat, stored: Codes) -> NDArray[np.int32]:
    if stored.scale_codes is None:
        raise ValueError(f"{fmt.name}: scale codes are needed to decode")
    magnitude_bits = fmt.scale_bits - fmt.signed_scale
    _require_range(f"{fmt.name}: scale code", np.abs(stored.scale_codes), 1, 1 << magnitude_bits)
    return stored.scale_codes.astype(np.int32)


def _require_range(what: str, values: NDArray, low: int, high: int) -> None:
    if values.size and not low <= values.min() <= values.max() <= high:
        raise ValueError(f"{what} = {values.min()} to {values.max()}: must be {low} to {high}")


def _require_permutations(fmt: WeightFormat, codes: NDArray) -> None:
    """Within a group of outputs no vector takes a column that another one has: the array permutes what a part gives."""
    for start in range(0, len(codes), POOL_GROUP):
        group = np.sort(codes[start : start + POOL_GROUP], axis=0)
        twice = np.argwhere(group[1:] == group[:-1])
        if len(twice):
            at, vector = twice[0]
            where = f"outputs {start} to {start + len(group) - 1}, vector {vector}"
            raise ValueError(f"{fmt.name}: {where}: column {group[at, vector]} is used twice: must be a permutation")


def decode_weight(fmt: WeightFormat, integers: NDArray, scale: NDArray, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Array integers [O, I] and float32 scales [O] or [1] -> the real weight of `shape`.

    With rotated inputs the array holds the rotated weight; the weight that it amounts to is turned back, exactly.
    """
    values = integers.astype(np.float32)
    if fmt.rotation:
        values = unrotate(values, fmt.rotation)
    return from_rows(values * scale.astype(np.float32)[:, None], shape)
