"""The fast kernels of training against their plain twins."""

from __future__ import annotations

from math import gcd

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qat.kernels.assign import best_match, best_match_torch
from qat.kernels.codewords import angle_book, fit_rows, fit_rows_torch, scaled_entries, sum_by_index, sum_rows
from qat.kernels.e8 import E8Code, e8_code, encode_e8
from qat.kernels.nearest import LANES, nearest_d4, nearest_e8
from workloads.lattices import lattice_code
from workloads.lattices.points import GRID, SHIFTS, class_index, lattice_table, nearest_point

torch.set_num_threads(1)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("d", [1, 2, 3, 4, 8, 16, 32, 33])
@pytest.mark.parametrize("num_entries", [1, 17, 256])
def test_assignment_of_whole_numbers_is_exact_and_the_lowest_index_wins_ties(d, num_entries):
    rng = np.random.default_rng(d)
    x, book = rng.integers(-4, 5, (1000, d)), rng.integers(-4, 5, (num_entries, d))
    bias = rng.integers(-3, 4, num_entries)
    floats = [torch.from_numpy(a.astype(np.float32)) for a in (x, book, bias)]
    np.testing.assert_array_equal(best_match(*floats).numpy(), (x @ book.T + bias).argmax(1))
    np.testing.assert_array_equal(best_match(floats[0], floats[1]).numpy(), (x @ book.T).argmax(1))


@pytest.mark.parametrize("d", [3, 8, 16])
def test_assignment_finds_the_largest_score_to_the_last_bits(d):
    x, book = torch.randn(5000, d, generator=generator(d)), torch.randn(256, d, generator=generator(1))
    bias = torch.randn(256, generator=generator(2))
    index = best_match(x, book, bias)
    scores = x.double() @ book.double().T + bias.double()
    # Each of d sums rounds by half a unit of the partial sums, which are at most the sum of all sizes.
    slack = d * 2.0**-24 * (x.abs().double() @ book.abs().double().T + bias.abs().double()).amax(1)
    assert (scores.gather(1, index[:, None])[:, 0] >= scores.amax(1) - 2 * slack).all()
    top = scores.topk(2).values
    is_clear = top[:, 0] - top[:, 1] > 2 * slack
    assert is_clear.float().mean() > 0.99
    assert torch.equal(index[is_clear], scores.argmax(1)[is_clear])


def test_assignment_depends_on_no_other_row_and_on_no_number_of_threads():
    x, book = torch.randn(40_000, 8, generator=generator(0)), torch.randn(256, 8, generator=generator(1))
    whole = best_match(x, book)
    for start, stop in ((0, 1), (0, 255), (1, 257), (700, 2000)):
        assert torch.equal(best_match(x[start:stop], book), whole[start:stop])
    try:
        torch.set_num_threads(2)
        assert torch.equal(best_match(x, book), whole)
    finally:
        torch.set_num_threads(1)


def test_assignment_takes_other_types_layouts_and_nothing():
    x, book = torch.randn(300, 5, generator=generator(0)), torch.randn(7, 5, generator=generator(1))
    whole = best_match(x, book)
    assert torch.equal(best_match(x.double(), book.double()), whole)
    assert torch.equal(best_match_torch(x, book, torch.zeros(7)), whole)
    assert torch.equal(best_match(x.T.contiguous().T.requires_grad_(), book), whole)
    for empty in (x[:0], x[:0].double()):
        assert best_match(empty, book.to(empty.dtype)).shape == (0,)


def test_an_entry_that_may_not_be_chosen_is_not():
    bias = torch.zeros(4).index_fill(0, torch.tensor([0, 2]), -torch.inf)
    assert best_match(torch.ones(3, 2), torch.tensor([[9.0, 9], [1, 1], [8, 8], [0, 1]]), bias).tolist() == [1, 1, 1]


@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize(
    ("num_entries", "d", "largest"), [(300, 2, 9), (300, 3, 3), (256, 8, 7), (256, 4, 127), (1, 4, 1)]
)
def test_entries_that_point_like_an_earlier_one_are_found(num_entries, d, largest, is_signed):
    integers = np.random.default_rng(d).integers(-largest, largest + 1, (num_entries, d))
    integers[-1] = 0
    seen, expected = set(), []
    for entry in integers.tolist():
        divisor = gcd(*entry) or 1
        primitive = tuple(value // divisor for value in entry)
        if is_signed:
            primitive = max(primitive, tuple(-value for value in primitive))
        expected.append(primitive in seen)
        seen.add(primitive)
    book = torch.from_numpy(integers).float()
    directions, bias = angle_book(book, is_signed)
    assert (bias == -torch.inf).tolist() == expected and ((bias == 0) | bias.isinf()).all()
    torch.testing.assert_close(directions, torch.nn.functional.normalize(book))


@pytest.mark.parametrize(("d", "length"), [(8, 64), (8, 61), (4, 63), (3, 64), (8, 5)])
def test_fitted_rows_are_the_twins(d, length):
    rows = torch.randn(20, length, generator=generator(length))
    rows[3] = 0
    book = torch.randint(-7, 8, (64, d), generator=generator(d)).float()
    fit, twin = fit_rows(rows, book, 1e-9), fit_rows_torch(rows.double(), book.double(), 1e-9)
    assert torch.equal(fit.codes, twin.codes)
    torch.testing.assert_close(fit.scale, twin.scale.float())
    entries = book[fit.codes].flatten(1)[:, :length]
    assert torch.equal(fit.rows, entries * fit.scale[:, None])
    assert fit.scale[3] == np.float32(1e-9)
    residual = (rows - fit.rows).double()
    assert ((residual * entries).sum(1).abs() < 1e-4).all()  # the scale is the projection


def test_rows_that_point_away_get_the_least_scale():
    fit = fit_rows(torch.tensor([[-1.0, -1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), 0.25)
    assert fit.scale.tolist() == [0.25] and fit.codes.tolist() == [[0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_entries_and_their_gradients_are_the_twins(dtype):
    codes = torch.randint(5, (6, 50), generator=generator(0))
    book, scale = torch.randn(7, 4, generator=generator(1)).to(dtype), torch.rand(6, generator=generator(2)).to(dtype)
    grad = torch.randn(6, 50, 4, generator=generator(3)).to(dtype)
    assert torch.equal(scaled_entries(codes, book, scale), book[codes] * scale[:, None, None])
    assert torch.equal(scaled_entries(codes, book, scale[:1]), book[codes] * scale[0])
    expected = np.zeros((7, 4))
    np.add.at(expected, codes.numpy(), (grad * scale[:, None, None]).numpy())
    total = sum_rows(codes, grad.flatten(1), scale, (7, 4))
    np.testing.assert_allclose(total.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert total.dtype == dtype and (total[5:] == 0).all()
    grad[:, -1, 3:] = 0  # as what is cut off counts
    assert torch.equal(
        sum_rows(codes, grad.flatten(1)[:, :-1], scale, (7, 4)), sum_rows(codes, grad.flatten(1), scale, (7, 4))
    )
    assert torch.equal(
        sum_by_index(codes.flatten(), grad.round().flatten(0, 1), 7).double(), _summed(codes, grad.round())
    )


def _summed(codes: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return torch.zeros(7, 4).double().index_add_(0, codes.flatten(), rows.flatten(0, 1).double())


@pytest.mark.parametrize(("lattice", "nearest"), [("d4", nearest_d4), ("e8", nearest_e8)])
@pytest.mark.parametrize("grid", [None, 16, 4, 2])
def test_nearest_points_are_the_twins_on_a_hundred_thousand_blocks(lattice, nearest, grid):
    """Blocks on a grid lie on borders of cells all the time: sums are exact there, so only the tie rule decides."""
    x = np.random.default_rng(1).normal(0, 2, (100_000, int(lattice[1]))).astype(np.float32)
    x = x if grid is None else np.round(x * grid) / grid
    np.testing.assert_array_equal(nearest(x), nearest_point(lattice, x.astype(np.float64)))


@pytest.mark.parametrize("num_rows", [0, 1, LANES - 1, LANES, LANES + 1])
def test_nearest_points_of_any_number_of_rows(num_rows):
    x = 100 * np.random.default_rng(2).standard_normal((num_rows, 8)).astype(np.float32)
    np.testing.assert_array_equal(nearest_e8(x), nearest_point("e8", x.astype(np.float64)))


def gaussian(q: int, num_rows: int, seed: int = 3) -> NDArray[np.float32]:
    blocks = np.random.default_rng(seed).normal(0, lattice_code(f"e8-q{q}").sigma, (num_rows, 8))
    return blocks.astype(np.float32)


def naive_codes(x: NDArray[np.float32], q: int) -> NDArray[np.int64]:
    """The encoder's rule, block by block and in float32 where it decides."""
    table, shift = lattice_table("e8", q), np.array(SHIFTS["e8", q]) / GRID

    def code_of(y: NDArray[np.float32]) -> int | None:
        point = nearest_point("e8", (y + shift.astype(np.float32))[None].astype(np.float64))
        k = int(class_index("e8", point, q)[0])
        return k if (table[k] == np.rint(GRID * (point[0] - shift))).all() else None

    steps = e8_code(q).steps[:256]
    codes = []
    for row in x:
        k = code_of(row)
        reach = np.float32(q - 0.75)
        if k is None:
            while k is None:
                longest = np.float32((steps @ row).max())
                k = code_of(row * min(np.float32(1), reach / longest))
                reach *= np.float32(0.9)
            k = best_neighbour(row, k, table, shift, q)
        codes.append(k)
    return np.array(codes)


def best_neighbour(row: NDArray, k: int, table: NDArray, shift: NDArray, q: int) -> int:
    candidates = table[k] / GRID + np.vstack([np.zeros(8), e8_code(q).steps[:256]])
    index = class_index("e8", candidates + shift, q)
    is_codeword = (table[index] == np.rint(GRID * candidates)).all(1)
    distance = np.where(is_codeword, ((candidates - row) ** 2).sum(1), np.inf)
    return int(index[distance.argmin()])


@pytest.mark.parametrize("q", [2, 3, 4])
def test_e8_codes_are_the_twins(q):
    x = gaussian(q, 400)
    np.testing.assert_array_equal(encode_e8(x, e8_code(q)), naive_codes(x, q))


@pytest.mark.parametrize("q", [2, 3, 4])
def test_e8_codes_are_the_nearest_codewords(q):
    x, table = gaussian(q, 400, seed=4), (lattice_table("e8", q) / GRID).astype(np.float32)
    codes = encode_e8(x, e8_code(q))
    least = ((x**2).sum(1) - 2 * ((x @ table.T) - (table**2).sum(1) / 2).max(1)).clip(0)
    chosen = ((table[codes] - x) ** 2).sum(1)
    assert (chosen >= least - 1e-5).all()
    assert (chosen <= least + 1e-5).mean() >= 0.995
    assert chosen.mean() < 1.001 * least.mean()


@pytest.mark.parametrize("q", [2, 3, 4])
def test_e8_blocks_that_fit_get_their_nearest_point_and_entries_themselves(q):
    x, table, shift = gaussian(q, 100_000), lattice_table("e8", q), np.array(SHIFTS["e8", q]) / GRID
    points = nearest_point("e8", x.astype(np.float64) + shift)
    index = class_index("e8", points, q)
    fits = (table[index] == GRID * (points - shift)).all(1)
    assert 0.2 < fits.mean() < 0.9
    np.testing.assert_array_equal(encode_e8(x, e8_code(q))[fits], index[fits])
    np.testing.assert_array_equal(encode_e8((table / GRID).astype(np.float32), e8_code(q)), np.arange(q**8))


def test_e8_codes_depend_on_no_other_row():
    x, code = gaussian(4, 20_000), e8_code(4)
    whole = encode_e8(x, code)
    for start, stop in ((0, 0), (0, 1), (100, 8300), (8192, 8193), (15_000, 20_000)):
        np.testing.assert_array_equal(encode_e8(x[start:stop], code), whole[start:stop])


@pytest.mark.parametrize("size", [1e2, 1e6, 1e18, 1e35])
def test_e8_codes_saturate_in_the_right_direction(size):
    direction = np.random.default_rng(5).standard_normal((200, 8)).astype(np.float32)
    chosen = lattice_table("e8", 4)[encode_e8(np.float32(size) * direction, e8_code(4))]
    cosine = (chosen * direction).sum(1) / np.linalg.norm(chosen, axis=1) / np.linalg.norm(direction, axis=1)
    assert (cosine > 0.8).all()


def test_the_steps_are_the_minimal_vectors():
    """240 of squared length 2, each a lattice point; 16 of the 256 places hold one again."""
    steps = e8_code(2).steps.astype(np.float64)
    assert (steps[256] == 0).all()
    assert ((steps[:256] ** 2).sum(1) == 2).all() and len(np.unique(steps[:256], axis=0)) == 240
    np.testing.assert_array_equal(nearest_point("e8", steps), steps)


@pytest.mark.parametrize("q", [2, 3, 4])
def test_exits_lead_to_codewords(q):
    code, table = e8_code(q), lattice_table("e8", q)
    np.testing.assert_array_equal(lattice_code(f"e8-q{q}").table, table)
    rows = np.random.default_rng(6).integers(q**8, size=200)
    for k in rows:
        moved = table[k] / GRID + code.steps[:256]
        index = class_index("e8", moved + np.array(SHIFTS["e8", q]) / GRID, q)
        expected = (table[index] == GRID * moved).all(1)
        np.testing.assert_array_equal(exits_of(code, k), expected)


def exits_of(code: E8Code, k: int) -> NDArray[np.bool_]:
    return (code.exits[k][:, None] >> np.arange(32) & 1).astype(bool).ravel()
