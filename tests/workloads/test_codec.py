"""The codec against brute force: layout, packing, decoding, and the lattice codes' published error."""

from __future__ import annotations

from itertools import product
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.codec import Codes, decode_integers, decode_weight, from_vectors, pack, to_rows, to_vectors, unpack
from workloads.format import parse_format
from workloads.lattices.points import SHIFTS, TIE_DITHER, basis, class_index, lattice_table, nearest_point

LATTICES = list(SHIFTS)


def naive_rows(weight: np.ndarray) -> list[list[float]]:
    outputs, channels, height, width = weight.shape
    return [
        [weight[o, c, y, x] for y in range(height) for x in range(width) for c in range(channels)]
        for o in range(outputs)
    ]


def test_vectors_follow_im2col_order_with_the_channel_fastest():
    weight = np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    assert to_rows(weight).tolist() == naive_rows(weight)
    assert to_vectors(weight, 5).tolist()[0][-1][-3:] == [0, 0, 0]  # 12 inputs are padded to 15


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(1, 9), st.booleans())
def test_from_vectors_undoes_to_vectors(outputs, channels, kernel, d, is_linear):
    shape = (outputs, channels) if is_linear else (outputs, channels, kernel, kernel)
    weight = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    vectors = to_vectors(weight, d)
    assert vectors.shape == (outputs, ceil(weight[0].size / d), d)
    np.testing.assert_array_equal(from_vectors(vectors, shape), weight)


@given(st.integers(1, 16), st.lists(st.integers(0, 65535), max_size=40))
def test_pack_is_a_little_endian_number(bits, values):
    codes = [value % (1 << bits) for value in values]
    number = sum(code << (bits * i) for i, code in enumerate(codes))
    expected = number.to_bytes(ceil(len(codes) * bits / 8), "little")
    packed = pack(np.array(codes, np.int64), bits)
    assert packed.tobytes() == expected
    assert unpack(packed, bits, len(codes)).tolist() == codes


def test_pack_is_right_beyond_one_chunk():
    codes = np.random.default_rng(0).integers(0, 16, 11_700_003)  # the weights of ResNet-18
    packed = pack(codes, 4)
    assert len(packed) == 5_850_002
    np.testing.assert_array_equal(packed[:-1], codes[:-1:2] + 16 * codes[1::2])
    np.testing.assert_array_equal(unpack(packed, 4, len(codes)), codes)


def test_a_stream_of_wrong_length_is_refused():
    with pytest.raises(ValueError, match="3 bytes: must be 2 for 3 codes"):
        unpack(np.zeros(3, np.uint8), 5, 3)


def test_linear_codes_are_twos_complement():
    fmt = parse_format("linear-4")
    signed = np.arange(-8, 8)[None]
    np.testing.assert_array_equal(decode_integers(fmt, Codes(signed), (1, 16)), signed)
    unsigned = unpack(pack(signed, 4), 4, 16)[None]
    np.testing.assert_array_equal(decode_integers(fmt, Codes(unsigned), (1, 16)), signed)


def test_vq_decodes_entry_times_scale_code_without_padding():
    fmt = parse_format("vq-2x4-e4-s1")
    table = np.array([[1, 2], [3, 4], [5, 6], [-7, 7]])
    integers = decode_integers(fmt, Codes(np.array([[3, 0]]), np.array([[2, 1]])), (1, 3), table)
    assert integers.dtype == np.int32 and integers.tolist() == [[-14, 14, 1]]
    weight = decode_weight(fmt, integers, np.array([0.5], np.float32), (1, 3))
    assert weight.tolist() == [[-7, 7, 0.5]]


def test_decoding_names_what_is_missing_or_out_of_range():
    fmt, codes = parse_format("vq-2x4-e4-s1"), np.array([[0]])
    with pytest.raises(ValueError, match="a codebook is needed"):
        decode_integers(fmt, Codes(codes), (1, 2))
    table = np.zeros((4, 2), int)
    with pytest.raises(ValueError, match="scale codes are needed"):
        decode_integers(fmt, Codes(codes), (1, 2), table)
    with pytest.raises(ValueError, match="scale code = 0 to 0: must be 1 to 2"):
        decode_integers(fmt, Codes(codes, codes), (1, 2), table)
    with pytest.raises(ValueError, match="code = 4 to 4: must be 0 to 3"):
        decode_integers(fmt, Codes(codes + 4, codes + 1), (1, 2), table)


@pytest.mark.parametrize("lattice", ["d4", "e8"])
def test_nearest_point_is_a_lattice_point_that_no_neighbour_beats(lattice):
    rng = np.random.default_rng(1)
    x = rng.uniform(-4, 4, (300, len(basis(lattice))))
    point = nearest_point(lattice, x)
    coordinates = point @ np.linalg.inv(basis(lattice))
    np.testing.assert_allclose(coordinates, np.rint(coordinates), atol=1e-9)
    steps = np.array([v for v in product((-1, 0, 1), repeat=len(x[0])) if sum(map(abs, v)) == 2], float)
    if lattice == "e8":
        halves = [v for v in product((-0.5, 0.5), repeat=8) if np.prod(v) > 0]
        steps = np.concatenate([steps, np.array(halves)])
        assert len(steps) == 240  # kissing number
    # the facets of these lattices' Voronoi cells belong to their shortest vectors
    others = ((x[:, None] - point[:, None] - steps) ** 2).sum(2).min(1)
    assert (((x - point) ** 2).sum(1) <= others + 1e-9).all()


@pytest.mark.parametrize("lattice", ["d4", "e8"])
def test_nearest_point_moves_with_the_lattice(lattice):
    rng = np.random.default_rng(2)
    d = len(basis(lattice))
    x = rng.integers(-8, 8, (500, d)) / 4 + TIE_DITHER[:d]  # many ties without the dither
    move = rng.integers(-3, 4, (500, d)) @ basis(lattice)
    np.testing.assert_array_equal(nearest_point(lattice, x + move), nearest_point(lattice, x) + move)


@pytest.mark.parametrize(("lattice", "q"), LATTICES)
def test_the_table_holds_each_class_once_in_the_array_bits(lattice, q):
    fmt, table = parse_format(f"{lattice}-q{q}"), lattice_table(lattice, q)
    points = (table + np.array(SHIFTS[lattice, q])) / 4
    np.testing.assert_array_equal(class_index(lattice, points, q), np.arange(q**fmt.vector_length))
    half = 1 << (fmt.array_bits - 1)
    assert -half <= table.min() and table.max() < half
    assert np.abs(table).max() >= half // 2  # one bit less would not do


@pytest.mark.parametrize(("lattice", "q"), LATTICES)
def test_entries_lie_in_the_voronoi_cell_of_the_coarse_lattice(lattice, q):
    table = lattice_table(lattice, q) / 4
    coarse = q * nearest_point(lattice, table / q)
    closer = ((table - coarse) ** 2).sum(1)
    np.testing.assert_array_less((table**2).sum(1), closer + 1e-9)  # zero is (one of) the nearest


@pytest.mark.parametrize(
    ("lattice", "q", "scale", "expected"),
    [("d4", 2, 0.76, 0.361), ("d4", 3, 0.98, 0.173), ("d4", 4, 1.22, 0.1024), ("e8", 2, 0.63, 0.325)],
)
def test_gaussian_error_of_the_shifted_saturating_code(lattice, q, scale, expected):
    table = lattice_table(lattice, q) / 4
    x = np.random.default_rng(3).standard_normal((40_000, table.shape[1]))
    nearest = (scale * x @ table.T - (table**2).sum(1) / 2).argmax(1)
    assert ((table[nearest] / scale - x) ** 2).mean() == pytest.approx(expected, rel=0.03)
