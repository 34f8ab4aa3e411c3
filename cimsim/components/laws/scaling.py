"""Laws of node or supply: how area, dynamic energy, delay and wires move between technologies.

Area and energy factors: A. Stillmaker and B. Baas, "Scaling equations for the accurate prediction of CMOS
device performance from 180 nm to 7 nm", Integration 58, 2017 (tables as carried by hwcomponents 1.0.114).
Nodes between the tabulated ones (28, 22) are interpolated on log-log axes, and 5 nm continues the last two
nodes: 0.61 in area and 0.72 in energy at usual supplies, where the foundry says 0.54 (1.84 times the density)
and 0.70 (G. Yeap et al., IEDM 2019).

Dynamic energy follows V^2 around any supply. Published macros that were measured at two supplies between 0.8 and 1.2 V
have exponents of 1.6 to 2.7, around 2 (tests/cimsim/components/test_scaling.py lists them). One chip falls much faster
at 0.6 to 0.8 V (Colonnade, JSSC 2021: 3.5 to 5.9); short-circuit currents end at twice the threshold and leakage
flattens the curve, so no mechanism of the circuit explains that one, and the law does not follow it.

Delay is the alpha-power law (T. Sakurai and A. R. Newton, JSSC 25(2), 1990), with the drive current continued
through the threshold as in the EKV model (C. Enz et al., 1995), so that it holds from 0.5 V up.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping
from math import exp, log, log1p
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

# NeuroSim V1.3, delay of a one-bit adder at each node's usual supply, in ps: the shape of delay over nodes.
ADDER_PS: dict[float, float] = {7: 45.2172, 22: 110.976, 32: 190.206, 45: 304.008, 65: 507.006}
# Threshold of low-power transistors, in V: Predictive Technology Model, as NeuroSim V1.3 tabulates it.
THRESHOLD_V: dict[float, float] = {7: 0.4025, 10: 0.3906, 22: 0.4199, 65: 0.5017, 90: 0.5013, 130: 0.4661}
DRIVE_EXPONENT = 1.3  # Sakurai and Newton: 2 for long channels, 1.3 to 1.2 for short ones
SUBTHRESHOLD_V = 0.039  # slope factor 1.5 times kT/q at 300 K

# Wires of the first metal: width by node (NeuroSim), and copper's resistivity in 1e-8 ohm m and height over width
# by wire width (NeuroSim V1.3 parameters).
WIRE_NM: dict[float, float] = {7: 20, 10: 22, 14: 32, 22: 40, 32: 56, 45: 80, 65: 105, 90: 110, 130: 175}
RESISTIVITY: dict[float, float] = {
    18: 6.35,
    25: 5.08,
    40: 4.03,
    56: 3.70,
    80: 3.31,
    105: 2.68,
    110: 2.52,
    175: 2.20,
}
WIRE_ASPECT: dict[float, float] = {18: 2.0, 25: 2.0, 40: 1.9, 56: 1.8, 80: 1.7, 105: 1.7, 110: 1.6, 175: 1.6}
WIRE_FF_PER_UM = 0.2  # NeuroSim V1.3; hardly depends on the node


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


def delay_factor(source: Technology, target: Technology) -> float:
    """Delay of a gate in `target` over that in `source`.

    Three 65 nm macros measured at two supplies slow down 1.6, 1.6 and 2.5 times where this says 1.56, 1.75 and 1.75.
    """
    return adder_ps(target) / adder_ps(source)


def adder_ps(tech: Technology) -> float:
    """A one-bit adder's delay in ps: the node's, moved from its usual supply by V over the drive current.

    Colonnade (JSSC 2021, 65 nm, 0.8 V) has 400 where this says 916; ZigZag-IMC (28 nm, 0.9 V) 143 and 152.
    """
    usual = nominal(tech.node_nm)
    return interpolate(ADDER_PS, tech.node_nm) * _relative_delay(tech) / _relative_delay(usual)


def _relative_delay(tech: Technology) -> float:
    """V over (V - Vt)^1.3, and far below the threshold V over exp((V - Vt) / (n kT/q))."""
    over_v = tech.supply_v - interpolate(THRESHOLD_V, tech.node_nm)
    return tech.supply_v / log1p(exp(over_v / (DRIVE_EXPONENT * SUBTHRESHOLD_V))) ** DRIVE_EXPONENT


def wire_ohm_per_um(node_nm: float) -> float:
    """Resistance of the narrowest wire of a node, in ohm per um of length."""
    width_nm = interpolate(WIRE_NM, node_nm)
    height_nm = width_nm * interpolate(WIRE_ASPECT, width_nm)
    return interpolate(RESISTIVITY, width_nm) * 1e4 / (width_nm * height_nm)
