"""The memory outside the chip. Its energy is charged, its area and idle power are not the chip's."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from cimsim.component import CheckPoint, Component, Source, band
from cimsim.scaling import Technology, nominal


class Dram(Component):
    """`bandwidth_bits_per_s`, and `latency_ps` from a request to its first bit."""

    ACTIONS: ClassVar = ("read_bit", "write_bit")
    OFF_CHIP: ClassVar = True
    SOURCES: ClassVar = (
        Source(
            "LPDDR4, interface and device: 8 pJ per bit (hwcomponents-cacti 1.0.40, public data)",
            (CheckPoint({"bandwidth_bits_per_s": 1, "latency_ps": 1}, nominal(22), "read_bit", 8.0, 0.001),),
        ),
    )
    ASSUMPTIONS: ClassVar = (
        band("energy_pj_per_bit", 4, 8, 12.23, "pJ/bit", "LPDDR4: 10 in CiMFlowSim, 12.23 in EVA; 4 for HBM3"),
    )

    kind: Literal["dram"] = "dram"
    bandwidth_bits_per_s: int = Field(gt=0)
    latency_ps: int = Field(ge=0)
    energy_pj_per_bit: float = Field(default=8.0, gt=0)

    def base_energy_pj(self, action: str, tech: Technology) -> float:
        return self.energy_pj_per_bit

    def base_area_um2(self, tech: Technology) -> float:
        return 0.0
