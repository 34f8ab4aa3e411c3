"""Synthesised logic: adders, flip-flops and their leakage, by node.

Figures: NeuroSim V1.3 engine (X. Peng et al., IEDM 2019), 1 ns cycle, run through hwcomponents-neurosim
1.0.43, at the nominal supply of each node. Energy in pJ, area in um2.
"""

from __future__ import annotations

from collections.abc import Mapping

from cimsim.components.laws.scaling import Technology, interpolate, nominal_supply_v, supply_factor

NEUROSIM = "X. Peng et al., DNN+NeuroSim, IEDM 2019; V1.3 engine run through hwcomponents-neurosim 1.0.43"

ADDER_8B_PJ: dict[float, float] = {7: 0.00234722, 22: 0.00857844, 32: 0.016304, 45: 0.0324338, 65: 0.0686694}
ADDER_8B_UM2: dict[float, float] = {7: 1.57067, 22: 11.1235, 32: 23.534, 45: 46.5394, 65: 97.1006}
SHIFT_ADD_8B_PJ: dict[float, float] = {7: 0.0223944, 22: 0.0698297, 32: 0.130792, 45: 0.25716, 65: 0.536191}
SHIFT_ADD_8B_UM2: dict[float, float] = {7: 5.75911, 22: 40.7861, 32: 86.2913, 45: 170.644, 65: 356.036}
FLIP_FLOP_PJ: dict[float, float] = {
    7: 0.000835298,
    22: 0.00255214,
    32: 0.00477034,
    45: 0.00936359,
    65: 0.0194801,
}
FLIP_FLOP_UM2: dict[float, float] = {7: 0.174518, 22: 1.23594, 32: 2.61489, 45: 5.17104, 65: 10.789}

# One comparator of a multi-level sense amplifier (SRAM arrays): of 5 and 8 bits alike, within 1 % in energy and
# 13 % in area, 1 / (2^bits - 1) of the whole.
COMPARATOR_PJ: dict[float, float] = {22: 0.00194250, 32: 0.00383553, 65: 0.0107718}
COMPARATOR_UM2: dict[float, float] = {22: 15.4, 32: 32.6, 65: 134.5}

# NeuroSim row drivers of a 128 x 128 SRAM array (low-standby-power): leakage over area, uW per um2.
LEAKAGE_UW_PER_UM2: dict[float, float] = {
    22: 0.0275144 / 417.138,
    32: 0.0424175 / 775.623,
    65: 0.105413 / 2759.06,
}


# Arithmetic by number format, at 45 nm and 0.9 V.
ARITHMETIC_TECH = Technology(45, 0.9)
HOROWITZ = "M. Horowitz, ISSCC 2014, 45 nm, 0.9 V"
SZE = "area as V. Sze et al. tabulate it, Proc. IEEE 105(12), 2017, synthesised at 45 nm"
MULTIPLY_PJ: dict[str, float] = {"fp16": 1.1, "int8": 0.2}
ADD_PJ: dict[str, float] = {"fp16": 0.4, "int8": 0.03, "int32": 0.1}
MULTIPLY_UM2: dict[str, float] = {"fp16": 1640, "int8": 282}
ADD_UM2: dict[str, float] = {"fp16": 1360, "int8": 36, "int32": 137}


def energy_at(table_pj: Mapping[float, float], tech: Technology) -> float:
    """A table's energy in `tech`, in pJ; the table holds at nominal supplies."""
    return interpolate(table_pj, tech.node_nm) * supply_factor(nominal_supply_v(tech.node_nm), tech.supply_v)


def area_at(table_um2: Mapping[float, float], tech: Technology) -> float:
    """A table's area in `tech`, in um2."""
    return interpolate(table_um2, tech.node_nm)


def leakage_uw(area_um2: float, tech: Technology) -> float:
    """Leakage of `area_um2` of logic, in uW: current taken as constant, so linear in the supply."""
    density = interpolate(LEAKAGE_UW_PER_UM2, tech.node_nm)
    return area_um2 * density * tech.supply_v / nominal_supply_v(tech.node_nm)
