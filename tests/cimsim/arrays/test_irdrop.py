"""Voltage lost on wires: closed forms, laws of linear networks, a dense twin, and published exact solutions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimsim.arrays.irdrop import LARGEST_LOSS, Wires, solve, transfer, transfer_by_ladders

# Exact sparse nodal solves, all cells equal, one segment of wire per cell on rows and columns, the segments to driver
# and sense node among them; all rows at 1 V: current over ideal of the first, the last and the mean column.
EQUAL_CELLS = {
    (1, 10_000, 1): (0.9998, 0.9998, 0.9998),
    (64, 100_000, 1): (0.98564, 0.966361, 0.972879),
    (64, 10_000, 1): (0.875718, 0.740063, 0.78546),
    (128, 100_000, 1): (0.947071, 0.87846, 0.901392),
    (128, 100_000, 2.5): (0.879179, 0.741878, 0.787462),
    (128, 10_000, 1): (0.661934, 0.411157, 0.492294),
    (256, 100_000, 2.5): (0.665519, 0.41233, 0.493893),
}
# 128 x 128, 100 kohm, 2.5 ohm: only this row driven (row 127 is nearest the sense end): first and last column.
ONE_ROW = {0: (0.822053, 0.701971), 127: (0.994373, 0.822053)}


@st.composite
def arrays(draw, most=9):
    """Cells between nothing and 1 mS, and wires."""
    shape = draw(st.integers(1, most)), draw(st.integers(1, most))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    cells = rng.uniform(0, 1e-3, shape) * rng.integers(0, 2, shape)
    return cells, Wires(draw(st.floats(0.1, 100)), draw(st.floats(0.1, 100)))


def dense(cells, wires, volts):
    """Column currents by Kirchhoff's law, node by node, in plain Python and a dense solve."""
    rows, columns = cells.shape
    law, known = np.zeros((2 * rows * columns, 2 * rows * columns)), np.zeros(2 * rows * columns)

    def node(kind, i, j):
        return kind * rows * columns + i * columns + j

    def connect(a, b, ohm):
        law[a, a] += 1 / ohm
        law[a, b] -= 1 / ohm

    for i in range(rows):
        for j in range(columns):
            for kind in (0, 1):
                law[node(kind, i, j), node(kind, i, j)] += cells[i, j]
                law[node(kind, i, j), node(1 - kind, i, j)] -= cells[i, j]
            if j + 1 < columns:
                connect(node(0, i, j), node(0, i, j + 1), wires.row_ohm)
                connect(node(0, i, j + 1), node(0, i, j), wires.row_ohm)
            if i + 1 < rows:
                connect(node(1, i, j), node(1, i + 1, j), wires.column_ohm)
                connect(node(1, i + 1, j), node(1, i, j), wires.column_ohm)
        law[node(0, i, 0), node(0, i, 0)] += 1 / wires.row_ohm
        known[node(0, i, 0)] += volts[i] / wires.row_ohm
    for j in range(columns):
        law[node(1, rows - 1, j), node(1, rows - 1, j)] += 1 / wires.column_ohm
    found = np.linalg.solve(law, known)
    return np.array([found[node(1, rows - 1, j)] for j in range(columns)]) / wires.column_ohm


@pytest.mark.parametrize(("size", "cell_ohm", "segment_ohm"), EQUAL_CELLS)
def test_equal_cells_lose_what_exact_solutions_say(size, cell_ohm, segment_ohm):
    cells = np.full((size, size), 1 / cell_ohm)
    ratios = solve(cells, Wires(segment_ohm, segment_ohm), np.ones((1, size))).column_a[0] * cell_ohm / size
    found = ratios[0], ratios[-1], ratios.mean()
    assert found == pytest.approx(EQUAL_CELLS[size, cell_ohm, segment_ohm], abs=6e-7)
    fast = transfer_by_ladders(cells, Wires(segment_ohm, segment_ohm)).sum(axis=0) * cell_ohm / size
    assert np.abs(fast / ratios - 1).max() <= (1 - ratios.min()) ** 2 / 2


def test_one_driven_row_loses_by_its_place():
    cells = np.full((128, 128), 1e-5)
    ratios = solve(cells, Wires(2.5, 2.5), np.eye(128)[list(ONE_ROW)]).column_a * 1e5
    for ratio, (first, last) in zip(ratios, ONE_ROW.values(), strict=True):
        assert (ratio[0], ratio[-1]) == pytest.approx((first, last), abs=6e-7)


@given(st.floats(1, 1e6), st.floats(0.01, 100), st.floats(0.01, 100))
def test_one_cell_is_in_series_with_two_segments(cell_ohm, row_ohm, column_ohm):
    current_a = solve(np.array([[1 / cell_ohm]]), Wires(row_ohm, column_ohm), np.ones((1, 1))).column_a
    assert current_a[0, 0] == pytest.approx(1 / (cell_ohm + row_ohm + column_ohm), rel=1e-9)
    assert transfer_by_ladders(np.array([[1 / cell_ohm]]), Wires(row_ohm, column_ohm))[0, 0] == pytest.approx(
        current_a[0, 0], rel=2 * row_ohm * column_ohm / cell_ohm**2 + 1e-9
    )


@given(arrays(5), st.integers(0, 1 << 30))
@settings(max_examples=30)
def test_equals_the_dense_twin(array, seed):
    cells, wires = array
    volts = np.random.default_rng(seed).normal(size=len(cells))
    assert solve(cells, wires, volts[None]).column_a[0] == pytest.approx(dense(cells, wires, volts), abs=1e-12)


@given(arrays(), st.integers(0, 1 << 30))
@settings(max_examples=50)
def test_laws_of_linear_networks(array, seed):
    """What enters by rows leaves by columns; patterns add up; drivers and sense nodes may change places."""
    cells, wires = array
    volts = np.random.default_rng(seed).normal(size=(3, len(cells)))
    found, matrix = solve(cells, wires, volts), transfer(cells, wires)
    assert found.column_a.sum(axis=1) == pytest.approx(found.row_a.sum(axis=1), abs=1e-12)
    assert found.column_a == pytest.approx(volts @ matrix, abs=1e-12)
    swapped = transfer(np.ascontiguousarray(cells[::-1, ::-1].T), Wires(wires.column_ohm, wires.row_ohm))
    assert matrix == pytest.approx(swapped.T[::-1, ::-1], abs=1e-12)
    assert (matrix.sum(axis=1) <= cells.sum(axis=1) + 1e-12).all()


@given(arrays())
def test_without_resistance_cells_are_what_they_are(array):
    cells, _ = array
    for method in (transfer, transfer_by_ladders):
        assert method(cells, Wires(1e-9, 1e-9)) == pytest.approx(cells, abs=1e-9)


@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize("on_ohm", [2_000, 10_000, 100_000])
@pytest.mark.parametrize("levels", [(1.0,), (0.05, 1.0), (0.02, 0.3, 0.6, 1.0)])
def test_ladders_err_by_half_the_square_of_the_loss(size, on_ohm, levels):
    rng = np.random.default_rng(size)
    cells = rng.choice(np.array(levels) / on_ohm, (size, size))
    for segment_ohm in (0.2, 1, 2.5):
        wires = Wires(segment_ohm, segment_ohm)
        exact, fast, ideal = transfer(cells, wires).sum(0), transfer_by_ladders(cells, wires).sum(0), cells.sum(0)
        loss = (1 - exact / ideal).max()
        if loss <= LARGEST_LOSS:
            assert np.abs(fast / exact - 1).max() <= loss**2 / 2
        assert (fast <= ideal).all()


def test_ladders_err_less_than_what_they_correct():
    """Random inputs on half of the rows: the error left is a small part of the loss."""
    rng = np.random.default_rng(0)
    cells, wires = rng.choice([2e-6, 4e-5], (128, 128)), Wires(1, 1)
    x = rng.integers(0, 2, (50, 128))
    exact, fast, ideal = (x @ matrix for matrix in (transfer(cells, wires), transfer_by_ladders(cells, wires), cells))
    assert np.abs(fast - exact).max() < 0.1 * np.abs(ideal - exact).max()


@pytest.mark.parametrize(
    ("cells", "wires", "message"),
    [
        (np.ones((2, 2)), Wires(0, 1), "must be > 0 ohm"),
        (-np.ones((2, 2)), Wires(1, 1), "matrix of numbers >= 0"),
        (np.ones(2), Wires(1, 1), "matrix of numbers >= 0"),
    ],
)
def test_impossible_networks_are_refused(cells, wires, message):
    for method in (transfer, transfer_by_ladders):
        with pytest.raises(ValueError, match=message):
            method(cells, wires)
