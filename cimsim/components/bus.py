"""Shared wires: between a tile's buffer and its units, or (role `chip`) between tiles, instead of a mesh."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from cimsim.components.base import CheckPoint, Component, Source
from cimsim.components.laws.scaling import Technology, area_factor, energy_factor, nominal

ISAAC_TECH = nominal(32)
PJ_PER_BIT = 0.054  # accelergy tables for ISAAC's bus; 7 mW over 1,024 B per 100 ns would give 0.085
UM2_PER_WIRE = 0.090e6 / 384


class Bus(Component):
    """`width_bits` wires."""

    ACTIONS: ClassVar = ("transfer_bit",)
    ROLES: ClassVar = ("tile", "chip")
    SOURCES: ClassVar = (
        Source(
            "A. Shafiee et al., ISCA 2016, Table I: 384 wires, 0.090 mm2; 0.054 pJ/bit (accelergy tables)",
            (
                CheckPoint({"width_bits": 384}, ISAAC_TECH, "transfer_bit", 0.054, 0.001),
                CheckPoint({"width_bits": 384}, ISAAC_TECH, "area_um2", 90_000, 0.001),
            ),
        ),
    )

    kind: Literal["bus"] = "bus"
    role: Literal["", "tile", "chip"] = ""
    width_bits: int = Field(ge=1)

    @property
    def actions_per_access(self) -> int:
        return self.width_bits

    def base_energy_pj(self, action: str, tech: Technology) -> float:
        return PJ_PER_BIT * energy_factor(ISAAC_TECH, tech)

    def base_area_um2(self, tech: Technology) -> float:
        return UM2_PER_WIRE * self.width_bits * area_factor(ISAAC_TECH.node_nm, tech.node_nm)
