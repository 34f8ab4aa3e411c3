"""Node and supply laws: how area and dynamic energy move between technologies.

Area and energy factors: A. Stillmaker and B. Baas, "Scaling equations for the accurate prediction of CMOS
device performance from 180 nm to 7 nm", Integration 58, 2017 (tables as carried by hwcomponents 1.0.114).
Nodes between the tabulated ones (28, 22) are interpolated on log-log axes. Dynamic energy follows V^2 around
any supply: too flat below about 0.7 V, where measured chips fall faster (Colonnade, JSSC 2021).
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping
from math import exp, log
from typing import NamedTuple


class Technology(NamedTuple):
    """A process node in nm and a supply in V."""

    node_nm: float
    supply_v: float


# Stillmaker and Baas 2017, area table, row 32 nm: area at this node over area at 32 nm.
AREA_FROM_32NM: dict[float, float] = {
    7: 0.13,
    10: 0.22,
    14: 0.38,
    16: 0.41,
    20: 0.46,
    32: 1.0,
    45: 2.2,
    65: 3.3,
    90: 6.1,
    130: 14.0,
}

# Stillmaker and Baas 2017, energy polynomials: energy factor = a2 V^2 + a1 V + a0.
ENERGY_POLYNOMIAL: dict[float, tuple[float, float, float]] = {
    7: (0.1776, -0.09097, 0.02447),
    10: (0.2068, -0.09311, 0.02375),
    14: (0.2363, -0.09675, 0.02239),
    16: (0.2958, -0.1241, 0.03024),
    20: (0.373, -0.1582, 0.04104),
    32: (0.9559, -0.7823, 0.471),
    45: (1.103, -0.362, 0.2767),
    65: (3.755, -4.398, 1.975),
    90: (4.762, -4.781, 2.092),
    130: (7.171, -6.709, 2.904),
}
REFERENCE_V = 0.9  # nodes are compared at this supply, inside the fitted range of every polynomial
ENERGY_AT_REFERENCE: dict[float, float] = {
    node: a2 * REFERENCE_V**2 + a1 * REFERENCE_V + a0 for node, (a2, a1, a0) in ENERGY_POLYNOMIAL.items()
}

# Supplies of the NeuroSim V1.3 device tables (Technology.cpp, high-performance devices).
NOMINAL_SUPPLY_V: dict[float, float] = {
    7: 0.7,
    10: 0.75,
    14: 0.8,
    22: 0.85,
    32: 0.9,
    45: 1.0,
    65: 1.1,
    90: 1.2,
    130: 1.3,
}


def interpolate(table: Mapping[float, float], x: float) -> float:
    """The table's value at x: a power law between neighbours and beyond both ends. Keys ascend, all > 0."""
    if x in table:
        return table[x]
    keys = list(table)
    right = min(max(bisect(keys, x), 1), len(keys) - 1)
    low, high = keys[right - 1], keys[right]
    slope = log(table[high] / table[low]) / log(high / low)
    return table[low] * exp(slope * log(x / low))


def nominal_supply_v(node_nm: float) -> float:
    """The usual supply of a node, in V: where a figure without a stated supply is taken to hold."""
    return interpolate(NOMINAL_SUPPLY_V, node_nm)


def nominal(node_nm: float) -> Technology:
    """A node at its usual supply."""
    return Technology(node_nm, nominal_supply_v(node_nm))


def area_factor(from_nm: float, to_nm: float) -> float:
    """Area at `to_nm` over area at `from_nm`."""
    return interpolate(AREA_FROM_32NM, to_nm) / interpolate(AREA_FROM_32NM, from_nm)


def supply_factor(from_v: float, to_v: float) -> float:
    """Dynamic energy at `to_v` over that at `from_v`: V^2."""
    return (to_v / from_v) ** 2


def energy_factor(source: Technology, target: Technology) -> float:
    """Dynamic energy in `target` over that in `source`: node factor at 0.9 V times V^2."""
    node = interpolate(ENERGY_AT_REFERENCE, target.node_nm) / interpolate(ENERGY_AT_REFERENCE, source.node_nm)
    return node * supply_factor(source.supply_v, target.supply_v)
