"""What a stored weight means: vectors, packed codes, and the integers and real numbers they decode to.

The one definition. A weight [O, C/g, kh, kw] (or [O, I]) is read per output in im2col order
(kh, kw, channel; channel fastest), padded with zeros to a multiple of d, and cut into n vectors of d.
A real weight is always (array integer) x (float32 scale of its output).
"""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workloads.format import WeightFormat
from workloads.lattice import lattice_table

_CHUNK = 1 << 19  # codes expanded to bits at a time; a multiple of 8, so chunks end on whole bytes


def to_rows(weight: ArrayLike) -> NDArray:
    """Weight [O, C/g, kh, kw] or [O, I] -> [O, I] in im2col order."""
    array = np.asarray(weight)
    return np.ascontiguousarray(np.moveaxis(array, 1, -1)).reshape(len(array), -1)


def from_rows(rows: NDArray, shape: tuple[int, ...]) -> NDArray:
    """[O, I] in im2col order -> the weight of this shape; inverse of `to_rows`."""
    outputs, channels, *kernel = shape
    return np.ascontiguousarray(np.moveaxis(rows.reshape(outputs, *kernel, channels), -1, 1))


def to_vectors(weight: ArrayLike, d: int) -> NDArray:
    """Weight [O, ...] -> vectors [O, n, d], zero-padded at the end of each output."""
    rows = to_rows(weight)
    padding = -rows.shape[1] % d
    return np.pad(rows, ((0, 0), (0, padding))).reshape(len(rows), -1, d)


def from_vectors(vectors: NDArray, shape: tuple[int, ...]) -> NDArray:
    """Vectors [O, n, d] -> weight of `shape`, padding dropped; inverse of `to_vectors`."""
    rows = vectors.reshape(shape[0], -1)[:, : int(np.prod(shape[1:]))]
    return from_rows(rows, shape)


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


def decode_integers(
    fmt: WeightFormat,
    codes: NDArray,
    table: NDArray | None = None,
    scale_codes: NDArray | None = None,
    num_inputs: int | None = None,
) -> NDArray[np.int32]:
    """Codes [O, n] -> array integers [O, I] in im2col order.

    linear: the code itself in two's complement (signed or unsigned codes are accepted). vq: entry of
    `table` [K, d], times `scale_codes` [O, n] in 1..2^s where the format has scale bits. lattice: the
    lattice's own table. `num_inputs` is I; without it the padding stays. Raises ValueError where a code or
    scale code is out of range or missing.
    """
    if fmt.kind == "linear":
        half = 1 << (fmt.code_bits - 1)
        return (((codes + half) & (2 * half - 1)) - half).astype(np.int32)[:, :num_inputs]
    entries = lattice_table(fmt.lattice, fmt.radix) if fmt.kind == "lattice" else table
    if entries is None:
        raise ValueError(f"{fmt.name}: a codebook is needed to decode")
    _require_range(f"{fmt.name}: code", codes, 0, len(entries) - 1)
    vectors = np.asarray(entries, np.int32)[codes]
    if fmt.scale_bits:
        vectors = vectors * _checked_scale_codes(fmt, scale_codes)[..., None]
    return vectors.reshape(len(codes), -1)[:, :num_inputs]


def _checked_scale_codes(fmt: WeightFormat, scale_codes: NDArray | None) -> NDArray[np.int32]:
    if scale_codes is None:
        raise ValueError(f"{fmt.name}: scale codes are needed to decode")
    _require_range(f"{fmt.name}: scale code", scale_codes, 1, 1 << fmt.scale_bits)
    return scale_codes.astype(np.int32)


def _require_range(what: str, values: NDArray, low: int, high: int) -> None:
    if values.size and not low <= values.min() <= values.max() <= high:
        raise ValueError(f"{what} = {values.min()} to {values.max()}: must be {low} to {high}")


def decode_weight(integers: NDArray, scale: NDArray, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Array integers [O, I] and float32 scales [O] -> the real weight of `shape`."""
    return from_rows(integers.astype(np.float32) * scale.astype(np.float32)[:, None], shape)
