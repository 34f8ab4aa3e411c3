"""Digital lanes after the arrays: requantization, pooling, adding."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from cimsim.components.base import LEAKAGE_SCALE, CheckPoint, Component, Source
from cimsim.components.laws.logic import leakage_uw
from cimsim.components.laws.scaling import Technology, area_factor, energy_factor

HOROWITZ_TECH = Technology(45, 0.9)
INT8_ADD_PJ, INT32_ADD_PJ, INT8_MULTIPLY_PJ = 0.03, 0.1, 0.2
ALADDIN_NM = 40
ADD32_UM2, COMPARE32_UM2, MULTIPLY8_UM2 = (
    278.0,
    71.0,
    6350.0 / 16,
)  # a multiplier's area goes with bits squared

# One element: activation = multiply and add (requantize), pool = compare, alu = one 32-bit addition.
OP_PJ = {"activation": INT8_MULTIPLY_PJ + INT32_ADD_PJ, "pool": INT8_ADD_PJ, "alu": INT32_ADD_PJ}
LANE_UM2 = {"activation": MULTIPLY8_UM2 + ADD32_UM2, "pool": COMPARE32_UM2, "alu": ADD32_UM2}


class Digital(Component):
    """`lanes` units that each do one element a cycle."""

    ACTIONS: ClassVar = ("op",)
    ROLES: ClassVar = ("activation", "pool", "alu")
    SOURCES: ClassVar = (
        Source(
            "M. Horowitz, ISSCC 2014, 45 nm, 0.9 V: int8 add 0.03, int8 multiply 0.2, int32 add 0.1 pJ",
            (
                CheckPoint({"role": "alu", "lanes": 1}, HOROWITZ_TECH, "op", 0.1, 0.001),
                CheckPoint({"role": "pool", "lanes": 1}, HOROWITZ_TECH, "op", 0.03, 0.001),
            ),
        ),
        Source(
            "Y. S. Shao et al., Aladdin, ISCA 2014, 40 nm: adder 278, comparator 71, multiplier 6,350 um2",
            (CheckPoint({"role": "alu", "lanes": 2}, Technology(40, 0.9), "area_um2", 556, 0.001),),
        ),
    )
    ASSUMPTIONS: ClassVar = (LEAKAGE_SCALE,)

    kind: Literal["digital"] = "digital"
    role: Literal["activation", "pool", "alu"] = "alu"
    lanes: int = Field(ge=1)

    @property
    def actions_per_access(self) -> int:
        return self.lanes

    def base_energy_pj(self, action: str, tech: Technology) -> float:
        return OP_PJ[self.role] * energy_factor(HOROWITZ_TECH, tech)

    def base_area_um2(self, tech: Technology) -> float:
        return LANE_UM2[self.role] * self.lanes * area_factor(ALADDIN_NM, tech.node_nm)

    def base_leakage_uw(self, tech: Technology) -> float:
        return leakage_uw(self.base_area_um2(tech), tech)
