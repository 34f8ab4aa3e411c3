"""Lattices and their finite codes against brute force: nearest points, overload, saturation, stored forms."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from tests.helpers.blocks import decoded, gaussian, relative_error, unshifted
from workloads.lattices import lattice_code
from workloads.lattices.code import all_codes
from workloads.lattices.e8p import E8P, patterns
from workloads.lattices.named import measured, nested_code
from workloads.lattices.points import SHIFTS, TIE_DITHER, babai, basis, coordinates, lattice_table, nearest_point
from workloads.lattices.shells import points_within, shortest_vectors

LATTICES = ["z1", "z4", "a2", "d2", "d3", "d4", "d5", "d8", "e8"]
CODES = list(measured())


def any_point(lattice: str, num_blocks: int, reach: int, seed: int) -> np.ndarray:
    rows = basis(lattice)
    return np.random.default_rng(seed).integers(-reach, reach + 1, (num_blocks, len(rows))) @ rows


# ---- the lattices ----

# Volume of a cell, shortest vector, covering radius, normalised second moment and kissing number (Conway & Sloane
# 1999, "Sphere packings, lattices and groups", tables 1.2, 2.1 and 2.3), and a deepest hole.
CONSTANTS = {
    "z1": (1, 1, 0.5, 0.08333, 2, (0.5,)),
    "z4": (1, 1, 1, 0.08333, 8, (0.5,) * 4),
    "a2": (0.8660, 1, 0.5774, 0.08019, 6, (0.5, 0.288675)),
    "d4": (2, 2**0.5, 1, 0.07660, 24, (1, 0, 0, 0)),
    "e8": (1, 2**0.5, 1, 0.07168, 240, (1,) + (0,) * 7),
}


@pytest.mark.parametrize("lattice", CONSTANTS)
def test_constants(lattice):
    volume, shortest, covering, second_moment, kissing, hole = CONSTANTS[lattice]
    d = len(hole)
    assert abs(np.linalg.det(basis(lattice))) == pytest.approx(volume, rel=1e-4)
    vectors = shortest_vectors(lattice)
    assert len(vectors) == kissing
    np.testing.assert_allclose((vectors**2).sum(1), shortest**2)
    deepest = np.array([hole])
    assert np.linalg.norm(deepest - nearest_point(lattice, deepest)) == pytest.approx(covering, abs=1e-4)
    x = np.random.default_rng(0).uniform(0, 1, (60_000, d)) @ basis(lattice)
    squares = ((x - nearest_point(lattice, x)) ** 2).sum(1)
    assert squares.max() <= covering**2 + 1e-4
    assert squares.mean() / d / volume ** (2 / d) == pytest.approx(second_moment, rel=0.01)


@pytest.mark.parametrize(
    ("lattice", "shells"), [("d4", (1, 24, 24, 96, 24, 144)), ("e8", (1, 240, 2160, 6720, 17520, 30240))]
)
def test_shells(lattice, shells):
    norms = (points_within(lattice, 10) ** 2).sum(1)
    assert np.unique(norms, return_counts=True)[1].tolist() == list(shells)
    assert np.unique(norms).tolist() == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize("lattice", LATTICES)
def test_nearest_point_against_all_points_around_it(lattice):
    """A point nearer to x than the one found would be at most twice as far from that one as x is."""
    d = int(lattice[1:])
    x = np.random.default_rng(1).uniform(-4, 4, (100_000, d))
    point = nearest_point(lattice, x)
    whole = coordinates(lattice, point)
    np.testing.assert_allclose(whole @ basis(lattice), point, atol=1e-12)
    rest = (x - point).astype(np.float32)
    reach = 4 * float((rest**2).sum(1).max())
    if lattice == "a2":
        others = np.array(list(product(range(-3, 4), repeat=2))) @ basis(lattice)
    else:
        others = points_within(lattice, round(reach + 0.5))
    others = others[(others**2).sum(1) > 0].astype(np.float32)
    squares = (others**2).sum(1)
    for part in np.array_split(rest, 1 + len(rest) * len(others) // 2**22):
        assert (squares - 2 * part @ others.T).min() > -1e-5  # |rest - other|^2 - |rest|^2


@pytest.mark.parametrize("lattice", LATTICES)
def test_nearest_point_moves_with_the_lattice_and_the_dither_leaves_no_ties(lattice):
    d = int(lattice[1:])
    x = np.random.default_rng(2).integers(-8, 8, (20_000, d)) / 4  # many lie on borders of cells
    x = x @ basis(lattice) if lattice == "a2" else x
    move = any_point(lattice, len(x), 3, seed=3)
    dither = TIE_DITHER[:d]
    point = nearest_point(lattice, x + dither)
    np.testing.assert_allclose(nearest_point(lattice, x + move + dither), point + move, atol=1e-9)


@pytest.mark.parametrize(("sigma", "by_babai", "exact"), [(0.45, 0.93, 0.354), (0.15, 6.8, 1.0)])
def test_babai_rounding_is_far_from_the_nearest_point(sigma, by_babai, exact):
    x = sigma * gaussian(20_000, 8)
    assert relative_error(babai("e8", x), x, sigma) == pytest.approx(by_babai, rel=0.02)
    assert relative_error(nearest_point("e8", x), x, sigma) == pytest.approx(exact, rel=0.02)


# ---- what every code keeps ----


@pytest.mark.parametrize("name", CODES)
def test_bits_range_and_table(name):
    code = lattice_code(name)
    container = code.code_bits * code.num_digits / code.dimension
    assert code.nominal_bits_per_weight <= container < code.nominal_bits_per_weight + code.num_digits / code.dimension
    assert (code.table is None) == (code.num_codewords > 1 << 16)
    low, high = (np.rint(code.grid * side).astype(int) for side in code.members.extent())
    if code.table is not None:
        assert code.table.shape == (code.num_codewords, code.dimension)
        assert not code.table.flags.writeable
        assert (code.table.min(0), code.table.max(0)) == (pytest.approx(low), pytest.approx(high))
        codes, overloaded = code.encode(code.table / code.grid)
        assert not overloaded.any()
        np.testing.assert_array_equal(codes, all_codes(code.digit_size, code.num_digits))
    half = 1 << (code.array_bits - 1)
    assert -half <= low.min() and high.max() < half
    assert low.min() < -half // 2 or high.max() >= half // 2  # one bit less would not do


@pytest.mark.parametrize("name", CODES)
def test_error_at_the_best_scale(name):
    code, found = lattice_code(name), measured()[name]
    z = gaussian((32_000 if code.dimension > 4 else 128_000) // code.dimension, code.dimension, seed=4)
    below, at, above = (relative_error(decoded(code, s * z), s * z, s) for s in code.sigma * np.array([0.9, 1, 1.1]))
    assert at == pytest.approx(found.error_per_weight, rel=0.03)
    assert at <= min(below, above)


@pytest.mark.parametrize("name", CODES)
def test_saturated_blocks_far_outside_decode_to_codewords_on_the_same_side(name):
    code = lattice_code(name)
    direction = gaussian(50, code.dimension, seed=5)
    assert not code.encode(1e-3 * direction)[1].any()  # so shrinking ends
    codes, overloaded = code.encode(1e6 * direction)
    assert overloaded.all()
    points = code.decode(codes) / code.grid
    np.testing.assert_array_equal(code.encode(points)[0], codes)
    assert ((points * direction).sum(1) > 0).all()


def test_table_of_public_codes_is_unchanged():
    for lattice, q in SHIFTS:
        np.testing.assert_array_equal(lattice_code(f"{lattice}-q{q}").table, lattice_table(lattice, q))


def test_what_is_refused():
    for name in ("e8-q5", "z9-q4", "z-q4", "e8-q4m1", "e8-r3"):
        with pytest.raises(ValueError, match=r"unknown lattice code .* known are e8-q2, .*z1 also z2 to z8"):
            lattice_code(name)
    with pytest.raises(ValueError, match="e8p: overload = 'wrap': must be 'saturate'"):
        lattice_code("e8p").encode(np.zeros((1, 8)), "wrap")
    with pytest.raises(ValueError, match="e8-q4: blocks to encode hold NaN or infinity"):
        lattice_code("e8-q4").encode(np.full((1, 8), np.nan))


# ---- overload is exact ----


def mixed_blocks(name: str, num_blocks: int) -> np.ndarray:
    """Gaussian blocks, some of them overloaded; and fractions of lattice points, many on borders of cells."""
    code = lattice_code(name)
    x = 1.5 * code.sigma * gaussian(num_blocks, code.dimension, seed=6)
    for start, divisor in ((0, 2), (1, 4), (2, 3)):
        x[start::6] = any_point(code.lattice, len(x[start::6]), round(4 * code.sigma), seed=divisor) / divisor
    return x


@pytest.mark.parametrize(
    "name",
    [f"{lattice}-q{suffix}" for lattice in ("d4", "e8") for suffix in ("2", "2m2", "4", "3", "4m2")]
    + ["z2-q3", "z2-q4m2", "a2-q4", "a2-q2m2", "d3-q4", "d8-q3", "d8-q2m2"],
)
def test_not_overloaded_means_decoded_to_the_nearest_point(name):
    x = mixed_blocks(name, 50_000)
    for code in (lattice_code(name), unshifted(name)):
        codes, overloaded = code.encode(x, "wrap")
        assert 0.01 < overloaded.mean() < 0.99
        is_nearest = np.abs(code.members.points(codes) - code.unbounded(x)).max(1) < 1e-9
        np.testing.assert_array_equal(is_nearest, ~overloaded)
        saturated, again = code.encode(x[:1000])
        np.testing.assert_array_equal(again, overloaded[:1000])
        np.testing.assert_array_equal(saturated[~again], codes[:1000][~again])


def nearest_with_ties_to_zero(lattice: str, x: np.ndarray) -> np.ndarray:
    """As published with the first lattice training: the same algorithm, but halves round towards zero."""

    def checkerboard(x):
        point = np.sign(x) * np.ceil(np.abs(x) - 0.5)
        rows, worst = np.arange(len(x)), np.abs(x - point).argmax(1)
        point[rows, worst] += np.where(x[rows, worst] < point[rows, worst], -1, 1) * (point.sum(1) % 2)
        return point

    if lattice == "d4":
        return checkerboard(x)
    whole, half = checkerboard(x), checkerboard(x - 0.5) + 0.5
    is_half = ((x - half) ** 2).sum(1) < ((x - whole) ** 2).sum(1)
    return np.where(is_half[:, None], half, whole)


# Per cent of Gaussian blocks that decode to another point although the last residual vanishes. The source of these
# shares gives no scale: each sigma is the one at which they appear. Ours: none, at any scale.
TIES_TO_ZERO = [
    ("d4", 2, 1, 0.299, 6.97), ("d4", 2, 2, 0.446, 26.95), ("d4", 4, 1, 0.62, 0.09), ("d4", 3, 1, 0.451, 0.12),
    ("d4", 4, 2, 1.86, 14.15), ("e8", 2, 1, 0.2525, 10.67), ("e8", 2, 2, 0.2775, 17.26), ("e8", 4, 1, 0.56, 0.07),
    ("e8", 3, 1, 0.426, 0.37), ("e8", 4, 2, 1.41, 28.56),
]  # fmt: skip


@pytest.mark.parametrize(("lattice", "q", "digits", "sigma", "percent"), TIES_TO_ZERO)
def test_ties_to_zero_break_the_published_flag(lattice, q, digits, sigma, percent):
    x = sigma * gaussian(40_000, int(lattice[1:]), seed=7)
    residual = nearest = nearest_with_ties_to_zero(lattice, x)
    total = np.zeros_like(x)
    for digit in range(digits):
        representative = coordinates(lattice, residual) % q @ basis(lattice)
        total += q**digit * (representative - q * nearest_with_ties_to_zero(lattice, representative / q))
        residual = nearest_with_ties_to_zero(lattice, residual / q)
    is_wrong = ~residual.any(1) & (total != nearest).any(1)
    assert 100 * is_wrong.mean() == pytest.approx(percent, rel=0.08, abs=0.06)

    code = nested_code(f"{lattice}-q{q}m{digits}", (0,) * x.shape[1], 1.0)
    codes, overloaded = code.encode(x, "wrap")
    assert not (~overloaded & (code.members.points(codes) != nearest_point(lattice, x)).any(1)).any()


@pytest.mark.parametrize(("one", "other"), [("d4-q4", "d4-q2m2"), ("e8-q4", "e8-q2m2"), ("e8-q4m2", "e8-q2m4")])
def test_equal_powers_decode_alike_where_neither_is_overloaded(one, other):
    x = 0.7 * lattice_code(one).sigma * gaussian(20_000, lattice_code(one).dimension, seed=8)
    (codes, out), (other_codes, other_out) = unshifted(one).encode(x, "wrap"), unshifted(other).encode(x, "wrap")
    both = ~out & ~other_out
    assert both.mean() > 0.03
    points, other_points = unshifted(one).decode(codes), unshifted(other).decode(other_codes)
    np.testing.assert_array_equal(points[both], other_points[both])


# ---- saturation ----


SEARCHED = [
    ("z2-q4", 5000), ("z2-q4m2", 5000), ("a2-q4", 5000), ("d4-q3", 2000), ("d4-q2m2", 2000), ("e8-q2", 2000),
    ("e8-r2", 2000), ("e8-r8", 300), ("e8p", 200),
]  # fmt: skip


@pytest.mark.parametrize(("name", "num_blocks"), SEARCHED)
def test_saturation_takes_the_nearest_codeword(name, num_blocks):
    code = lattice_code(name)
    members = code.members.points(all_codes(code.digit_size, code.num_digits))
    x = 1.5 * code.sigma * gaussian(num_blocks, code.dimension, seed=9)
    squares = (x**2).sum(1) + ((members**2).sum(1) - 2 * x @ members.T).min(1)
    found = code.members.points(code.encode(x)[0])
    np.testing.assert_allclose(((x - found) ** 2).sum(1), squares, atol=1e-9)


@pytest.mark.parametrize(("name", "share"), [("e8-q4", 0.97), ("d8-q3", 0.97)])
def test_climbing_in_large_codes_seldom_misses_the_nearest_codeword(name, share):
    code = lattice_code(name)
    members = code.members.points(all_codes(code.digit_size, code.num_digits))
    x = code.sigma * gaussian(2500, 8, seed=10)
    x = x[code.encode(x)[1]]
    nearest = np.concatenate([((members**2).sum(1) - 2 * part @ members.T).argmin(1) for part in np.array_split(x, 40)])
    found = decoded(code, x)
    assert (found == members[nearest]).all(1).mean() > share
    assert ((found - x) ** 2).sum() < 1.003 * ((members[nearest] - x) ** 2).sum()


# ---- E8P ----


def test_e8p_patterns():
    norms = (patterns() ** 2).sum(1)
    assert np.unique(norms, return_counts=True)[1].tolist() == [1, 8, 28, 64, 126, 29]
    assert len(np.unique(patterns(), axis=0)) == 256


def test_e8p_decodes_bit_by_bit():
    codes = np.random.default_rng(18).integers(0, 1 << 16, 300)
    vectors = E8P().points(codes[:, None])
    for code, vector in zip(codes.tolist(), vectors, strict=True):
        halves = [-p if code >> (i + 1) & 1 else p for i, p in enumerate(patterns()[code >> 8][:7])]
        last = patterns()[code >> 8][7]
        halves.append(last if (sum(halves) + last) % 2 == 0 else -last)
        quarter = 0.25 if code & 1 else -0.25
        assert vector.tolist() == [half + quarter for half in halves]
