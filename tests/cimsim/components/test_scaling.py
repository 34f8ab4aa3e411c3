"""Node and supply laws against the published tables: identity, transitivity, ratios."""

from itertools import pairwise
from math import log
from statistics import geometric_mean, median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cimsim.components.laws.scaling import (
    AREA_FROM_32NM,
    ENERGY_POLYNOMIAL,
    THRESHOLD_V,
    Technology,
    adder_ps,
    area_factor,
    delay_factor,
    energy_factor,
    interpolate,
    nominal,
    supply_factor,
    wire_ohm_per_um,
)

NODES = st.floats(min_value=5, max_value=130)
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
    assert delay_factor(first, second) * delay_factor(second, third) == pytest.approx(delay_factor(first, third))


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


# Macros that were measured at two supplies: (node, supplies, energy per operation, time per operation). Jia, JSSC
# 2020; the others from the benchmark table of UIUC-IMC/UIUC-IMC-Benchmarking (CICC 2022, entries 78 and 79).
TWICE_MEASURED = {
    "Jia, ADC": (65, (0.85, 1.2), (1.79, 3.56), None),
    "Jia, array": (65, (0.85, 1.2), (9.7, 20.4), None),
    "Jia, digital": (65, (0.85, 1.2), (8.3, 14.7), (1350, 540)),
    "DCT-RAM": (65, (0.8, 1.0), (1 / 1288, 1 / 908), (40, 25)),
    "one-step multi-bit": (65, (0.85, 1.2), (1 / 2137.28, 1 / 837.28), (15.6, 9.8)),
}


def test_energy_follows_the_square_of_the_supply_in_the_median():
    exponents = [log(e[1] / e[0]) / log(v[1] / v[0]) for _, v, e, _ in TWICE_MEASURED.values()]
    assert min(exponents) == pytest.approx(1.57, abs=0.02)
    assert max(exponents) == pytest.approx(2.72, abs=0.02)
    assert median(exponents) == pytest.approx(2.0, abs=0.02)


def test_no_square_explains_colonnade():
    """65 nm, 1 bit by 1 bit, 100 MHz (JSSC 2021): the miss that the law is known to make below 0.8 V."""
    measured_fj = {0.6: 17.132, 0.7: 42.5578, 0.8: 68.1005}
    ratios = {v: supply_factor(0.8, v) * measured_fj[0.8] / fj for v, fj in measured_fj.items()}
    assert ratios[0.7] == pytest.approx(1.23, abs=0.01)
    assert ratios[0.6] == pytest.approx(2.24, abs=0.01)


def test_delay_of_measured_macros_within_a_third():
    ratios = [
        delay_factor(Technology(node, v[1]), Technology(node, v[0])) / (t[0] / t[1])
        for node, v, _, t in TWICE_MEASURED.values()
        if t
    ]
    assert all(0.69 < ratio < 1.11 for ratio in ratios)
    assert geometric_mean(ratios) == pytest.approx(0.91, abs=0.01)


@pytest.mark.parametrize(
    ("tech", "published_ps", "low", "high"),
    [
        (nominal(65), 507.006, 0.999, 1.001),  # NeuroSim V1.3, as all nodes of the table
        (nominal(22), 110.976, 0.999, 1.001),
        (Technology(28, 0.9), 2 * 71.7, 1.0, 1.1),  # ZigZag-IMC: two XOR2, fitted to silicon
        (Technology(65, 0.8), 400.0, 1.0, 2.4),  # Colonnade, as CiMLoop fits it: a larger, faster cell
    ],
)
def test_adder_delay(tech, published_ps, low, high):
    assert low < adder_ps(tech) / published_ps < high


@given(node=NODES, low=st.floats(min_value=0.5, max_value=1.1), step=st.floats(min_value=0.01, max_value=0.2))
def test_delay_falls_with_the_supply_and_the_node(node, low, step):
    assert adder_ps(Technology(node, low + step)) < adder_ps(Technology(node, low))
    assert adder_ps(nominal(node)) < adder_ps(nominal(node * 1.2))


def test_delay_is_the_alpha_power_law_above_and_exponential_below_the_threshold():
    vt, ratio = THRESHOLD_V[65], delay_factor(Technology(65, 1.2), Technology(65, 1.0))
    assert ratio == pytest.approx((1.0 / 1.2) * ((1.2 - vt) / (1.0 - vt)) ** 1.3, rel=0.001)
    below = delay_factor(Technology(65, vt - 0.22), Technology(65, vt - 0.3)) * (vt - 0.22) / (vt - 0.3)
    assert below == pytest.approx(2.718281828 ** (0.08 / 0.039), rel=0.02)


def test_5nm_against_the_foundry():
    """G. Yeap et al., IEDM 2019, over 7 nm: 1.84 times the logic density, 30 % less power."""
    assert area_factor(7, 5) == pytest.approx(1 / 1.84, rel=0.15)
    assert energy_factor(nominal(7), nominal(5)) == pytest.approx(0.70, rel=0.05)


@pytest.mark.parametrize(("node_nm", "ohm_per_um"), [(130, 0.44898), (22, 13.2566)])
def test_wires(node_nm, ohm_per_um):
    """NeuroSim V1.3: resistivity over width and height, at 175 and 40 nm wide."""
    assert wire_ohm_per_um(node_nm) == pytest.approx(ohm_per_um, rel=1e-4)
    assert wire_ohm_per_um(node_nm / 1.5) > wire_ohm_per_um(node_nm)


@given(x=st.floats(min_value=0.1, max_value=1000), power=st.floats(min_value=-3, max_value=3))
def test_interpolation_is_exact_for_power_laws(x, power):
    table = {k: 2.5 * k**power for k in (1.0, 3.0, 10.0, 100.0)}
    assert interpolate(table, x) == pytest.approx(2.5 * x**power, rel=1e-9)
