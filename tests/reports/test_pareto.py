"""Fronts equal brute force, hypervolumes closed forms, t-intervals the integrated density."""

from math import gamma, pi, sqrt

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.pareto import front, hypervolume
from reports.seeds import T_QUANTILES, interval95, summarize
from tests.helpers.result_rows import rows_of

SMALL = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=24)  # small grid: many ties


def beats(one: tuple, other: tuple) -> bool:
    """Nowhere worse and somewhere better: cost lower, value higher."""
    return one[0] <= other[0] and one[1] >= other[1] and one != other


@given(SMALL)
def test_front_is_the_set_that_nothing_beats(points):
    mask = front([cost for cost, _ in points], [value for _, value in points])
    assert mask.tolist() == [not any(beats(other, point) for other in points) for point in points]


def test_front_ignores_nan_and_keeps_twins():
    assert front([1, 1, 2, np.nan, 3], [5, 5, 4, 9, np.nan]).tolist() == [True, True, False, False, False]
    assert front([], []).tolist() == []


def test_hypervolume_of_one_point_is_a_rectangle():
    assert hypervolume([2.0], [0.9], (10.0, 0.5)) == pytest.approx(8.0 * 0.4)


def test_hypervolume_of_a_staircase():
    # (1, 1), (2, 2), ... (n, n) against (n + 1, 0): columns of width 1 and height i.
    n = 7
    steps = np.arange(1, n + 1)
    assert hypervolume(steps, steps, (n + 1, 0)) == n * (n + 1) / 2


@given(SMALL)
def test_hypervolume_counts_the_dominated_cells_of_a_grid(points):
    cells = sum(any(cost <= x and value >= y + 1 for cost, value in points) for x in range(7) for y in range(7))
    found = hypervolume([cost for cost, _ in points], [value for _, value in points], (7, 0))
    assert found == cells


def test_points_worse_than_the_reference_add_nothing():
    assert hypervolume([1.0, 12.0], [0.4, 0.95], (10.0, 0.5)) == 0.0


@pytest.mark.parametrize("freedom", [1, 2, 5, 13, 30])
def test_t_quantiles_leave_five_percent_outside(freedom):
    scale = gamma((freedom + 1) / 2) / (sqrt(freedom * pi) * gamma(freedom / 2))
    t = np.linspace(-T_QUANTILES[freedom - 1], T_QUANTILES[freedom - 1], 200_001)
    density = scale * (1 + t**2 / freedom) ** (-(freedom + 1) / 2)
    assert np.trapezoid(density, t) == pytest.approx(0.95, abs=5e-5)


def test_interval_of_two_and_of_one_value():
    mean, half = interval95(pd.Series([1.0, 3.0]))
    assert (mean, half) == (2.0, pytest.approx(12.706))  # standard error 1, one degree of freedom
    mean, half = interval95(pd.Series([4.0, np.nan]))
    assert mean == 4.0
    assert np.isnan(half)


def test_summary_averages_seeds_and_keeps_random_plans_apart():
    entries = [("uniform", "u", 1.0, 0.5, 0), ("uniform", "u", 3.0, 0.7, 1)]
    entries += [("random", "random", 1.0, 0.1, 0), ("random", "random", 2.0, 0.2, 0)]
    table = rows_of(*entries)
    table["key"] = ["a", "b", "c", "d"]
    summary = summarize(table)
    assert summary["num_seeds"].tolist() == [2, 1, 1]
    assert summary["energy_pj"].tolist() == [2.0, 1.0, 2.0]
    assert summary["array_accuracy_half"][0] == pytest.approx(12.706 * 0.1)
