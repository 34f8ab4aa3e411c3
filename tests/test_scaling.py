"""Node and supply laws against the published tables: identity, transitivity, ratios."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cimsim.scaling import (
    AREA_FROM_32NM,
    ENERGY_POLYNOMIAL,
    Technology,
    area_factor,
    energy_factor,
    interpolate,
    nominal,
    supply_factor,
)

NODES = st.floats(min_value=7, max_value=130)
SUPPLIES = st.floats(min_value=0.5, max_value=1.3)


def test_energy_follows_stillmaker_and_baas():
    """65 to 32 nm from the polynomials at 0.9 V."""
    assert energy_factor(Technology(65, 0.9), Technology(32, 0.9)) == pytest.approx(0.511371, rel=1e-4)


@pytest.mark.parametrize(("from_nm", "ratio"), [(45, 0.094309), (32, 0.143035)])
def test_node_factor_hardly_depends_on_the_supply(from_nm, ratio):
    """To 7 nm from the polynomials at 0.8 V; the law compares nodes at 0.9 V."""
    assert energy_factor(Technology(from_nm, 0.8), Technology(7, 0.8)) == pytest.approx(ratio, rel=0.12)


@pytest.mark.parametrize(
    ("from_nm", "to_nm", "printed"),
    [(130, 7, 0.0092), (90, 45, 0.35), (65, 32, 0.31), (45, 65, 1.5), (7, 32, 7.8)],
)
def test_area_matches_other_rows_of_the_printed_matrix(from_nm, to_nm, printed):
    """The model holds one row of the matrix; the other rows are printed with two digits."""
    assert area_factor(from_nm, to_nm) == pytest.approx(printed, rel=0.05)


@given(a=NODES, b=NODES, c=NODES, v=SUPPLIES, w=SUPPLIES)
def test_factors_compose(a, b, c, v, w):
    assert area_factor(a, b) * area_factor(b, c) == pytest.approx(area_factor(a, c))
    first, second, third = Technology(a, v), Technology(b, w), Technology(c, v)
    assert energy_factor(first, second) * energy_factor(second, third) == pytest.approx(energy_factor(first, third))
    assert energy_factor(first, first) == pytest.approx(1.0)


def test_every_node_shrinks():
    nodes = sorted(AREA_FROM_32NM)
    assert nodes == sorted(ENERGY_POLYNOMIAL)
    for small, large in pairwise(nodes):
        assert area_factor(large, small) < 1
        assert energy_factor(Technology(large, 0.9), Technology(small, 0.9)) < 1


def test_nodes_between_the_tables_lie_between_their_neighbours():
    for node, low, high in [(28, 20, 32), (22, 20, 32)]:
        assert area_factor(32, low) < area_factor(32, node) < area_factor(32, high)
        here = energy_factor(Technology(32, 0.9), Technology(node, 0.9))
        assert energy_factor(Technology(32, 0.9), Technology(low, 0.9)) < here < 1


def test_supply_is_quadratic():
    """Jia (JSSC 2020) measured its ADC at 1.79 and 3.56 pJ, at 0.85 and 1.2 V."""
    assert supply_factor(0.85, 1.2) == pytest.approx(3.56 / 1.79, rel=0.01)
    assert nominal(22).supply_v == pytest.approx(0.85)


@given(x=st.floats(min_value=0.1, max_value=1000), power=st.floats(min_value=-3, max_value=3))
def test_interpolation_is_exact_for_power_laws(x, power):
    table = {k: 2.5 * k**power for k in (1.0, 3.0, 10.0, 100.0)}
    assert interpolate(table, x) == pytest.approx(2.5 * x**power, rel=1e-9)
