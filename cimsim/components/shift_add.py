"""The shift-add accumulator that joins weight slices over input steps."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from cimsim.components.base import LEAKAGE_SCALE, CheckPoint, Component, Source
from cimsim.components.laws.logic import NEUROSIM, SHIFT_ADD_8B_PJ, SHIFT_ADD_8B_UM2, area_at, energy_at, leakage_uw
from cimsim.components.laws.scaling import Technology, adder_ps, nominal


class ShiftAdd(Component):
    """Adds one `bits`-bit value to a register twice as wide, shifted; linear in bits."""

    ACTIONS: ClassVar = ("add",)
    ROLES: ClassVar = ("unit", "tile")
    SOURCES: ClassVar = (
        Source(
            NEUROSIM,
            (
                CheckPoint({"bits": 8}, nominal(32), "add", 0.130792, 0.001),
                CheckPoint({"bits": 16}, nominal(22), "add", 0.139588, 0.001),
                CheckPoint({"bits": 16}, nominal(22), "area_um2", 81.5722, 0.001),
            ),
        ),
    )
    ASSUMPTIONS: ClassVar = (LEAKAGE_SCALE,)

    kind: Literal["shift_add"] = "shift_add"
    bits: int = Field(ge=1, le=64)

    def base_energy_pj(self, action: str, tech: Technology) -> float:
        return energy_at(SHIFT_ADD_8B_PJ, tech) * self.bits / 8

    def add_ps(self, tech: Technology) -> float:
        """Time of one addition, whose carry ripples, in ps."""
        return self.bits * adder_ps(tech)

    def base_area_um2(self, tech: Technology) -> float:
        return area_at(SHIFT_ADD_8B_UM2, tech) * self.bits / 8

    def base_leakage_uw(self, tech: Technology) -> float:
        return leakage_uw(self.base_area_um2(tech), tech)
