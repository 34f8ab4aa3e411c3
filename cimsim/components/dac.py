"""Row driver or digital-to-analogue converter of one word line."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from cimsim.component import CheckPoint, Component, Source
from cimsim.components.logic import NEUROSIM
from cimsim.scaling import Technology, area_factor, energy_factor

ZIGZAG_TECH = Technology(28, 0.9)
CAPACITANCE_FF_PER_BIT = 50.0  # ZigZag-IMC, 28 nm, fitted to silicon: (50 fF x bits) V^2 per drive
ROW_DRIVER_UM2, ROW_DRIVER_NM = 417.138 / 128, 22  # NeuroSim V1.3, row drivers of a 128 x 128 SRAM array
BRAHMS_UM2, BRAHMS_NM, BRAHMS_BITS = 438.0, 40, 8  # BRAHMS 8-bit DAC


class Dac(Component):
    """Drives one row for one input step of `bits` bits."""

    ACTIONS: ClassVar = ("drive",)
    SOURCES: ClassVar = (
        Source(
            "J. Sun et al., ZigZag-IMC, ICCAD 2023, 28 nm: 50 fF per bit and drive, fitted to silicon",
            (CheckPoint({"bits": 8}, ZIGZAG_TECH, "drive", 0.324, 0.001),),
        ),
        Source(
            f"area, linear in bits: row driver of {NEUROSIM}; 8-bit DAC of BRAHMS (accelergy tables)",
            (
                CheckPoint({"bits": 1}, Technology(22, 0.85), "area_um2", 417.138 / 128, 0.001),
                CheckPoint({"bits": 8}, Technology(40, 0.9), "area_um2", 438.0, 0.001),
            ),
        ),
    )

    kind: Literal["dac"] = "dac"
    bits: int = Field(ge=1, le=8)

    def base_energy_pj(self, action: str, tech: Technology) -> float:
        at_28nm = CAPACITANCE_FF_PER_BIT * self.bits * ZIGZAG_TECH.supply_v**2 * 1e-3
        return at_28nm * energy_factor(ZIGZAG_TECH, tech)

    def base_area_um2(self, tech: Technology) -> float:
        one = ROW_DRIVER_UM2 * area_factor(ROW_DRIVER_NM, tech.node_nm)
        eight = BRAHMS_UM2 * area_factor(BRAHMS_NM, tech.node_nm)
        return one + (eight - one) * (self.bits - 1) / (BRAHMS_BITS - 1)
