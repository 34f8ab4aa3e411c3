"""Registers of flip-flops: input, output and assembly registers beside the arrays."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from cimsim.components.base import LEAKAGE_SCALE, CheckPoint, Component, Source
from cimsim.components.laws.logic import FLIP_FLOP_PJ, FLIP_FLOP_UM2, NEUROSIM, area_at, energy_at, leakage_uw
from cimsim.components.laws.scaling import Technology, nominal


class Register(Component):
    """`capacity_bits` of flip-flops, `width_bits` per access; each read or write clocks its flip-flop."""

    ACTIONS: ClassVar = ("read_bit", "write_bit")
    ROLES: ClassVar = ("input", "output", "tile_output", "assembly")
    SOURCES: ClassVar = (
        Source(
            NEUROSIM,
            (CheckPoint({"capacity_bits": 1, "width_bits": 1}, nominal(22), "read_bit", 0.00255214, 0.001),),
        ),
        Source(
            "Y. S. Shao et al., Aladdin, ISCA 2014, 40 nm: 9 fJ and 5.98 um2 per bit, another library",
            (
                CheckPoint({"capacity_bits": 1, "width_bits": 1}, nominal(40), "write_bit", 0.009, 0.3),
                CheckPoint({"capacity_bits": 1, "width_bits": 1}, nominal(40), "area_um2", 5.98, 0.35),
            ),
        ),
    )
    ASSUMPTIONS: ClassVar = (LEAKAGE_SCALE,)

    kind: Literal["register"] = "register"
    capacity_bits: int = Field(ge=1)
    width_bits: int = Field(ge=1)

    @property
    def actions_per_access(self) -> int:
        return self.width_bits

    def base_energy_pj(self, action: str, tech: Technology) -> float:
        return energy_at(FLIP_FLOP_PJ, tech)

    def base_area_um2(self, tech: Technology) -> float:
        return area_at(FLIP_FLOP_UM2, tech) * self.capacity_bits

    def base_leakage_uw(self, tech: Technology) -> float:
        return leakage_uw(self.base_area_um2(tech), tech)
