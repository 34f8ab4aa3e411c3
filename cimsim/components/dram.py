"""The memory outside the chip. Its energy is charged, its area and idle power are not the chip's."""

from __future__ import annotations

from math import ceil
from typing import ClassVar, Literal

from pydantic import Field

from cimsim.components.base import CheckPoint, Component, Source, band
from cimsim.components.laws.scaling import Technology, nominal

PS_PER_S = 10**12


class Dram(Component):
    """`bandwidth_bits_per_s`, and `latency_ps` from a request to its first bit.

    Whole bursts of `burst_bits` move. Each row of `row_bits` that a transfer touches is activated: `activate_ps`
    is what of that time other banks do not hide.
    """

    ACTIONS: ClassVar = ("read_bit", "write_bit", "activate")
    OFF_CHIP: ClassVar = True
    SOURCES: ClassVar = (
        Source(
            "LPDDR4, interface and device: 8 pJ per bit (hwcomponents-cacti 1.0.40, public data)",
            (CheckPoint({"bandwidth_bits_per_s": 1, "latency_ps": 1}, nominal(22), "read_bit", 8.0, 0.001),),
        ),
    )
    ASSUMPTIONS: ClassVar = (
        band(
            "activate_pj",
            0,
            0,
            2000,
            unit="pJ",
            why="opening a row: inside the energy per bit of a stream; apart if random",
        ),
        band("energy_pj_per_bit", 4, 8, 12.23, unit="pJ/bit", why="LPDDR4: 10 in CiMFlowSim, 12.23 in EVA; 4 for HBM3"),
    )

    kind: Literal["dram"] = "dram"
    bandwidth_bits_per_s: int = Field(gt=0)
    latency_ps: int = Field(ge=0)
    energy_pj_per_bit: float = Field(default=8.0, gt=0)
    burst_bits: int = Field(default=1, ge=1)
    row_bits: int = Field(default=16_384, ge=1)
    activate_ps: int = Field(default=0, ge=0)
    activate_pj: float = Field(default=0.0, ge=0)

    def actions(self) -> tuple[str, ...]:
        """Opening rows is an action where it has a price of its own."""
        return self.ACTIONS if self.activate_pj else self.ACTIONS[:2]

    def bus_bits(self, bits: int) -> int:
        """Bits that move when `bits` are wanted: whole bursts."""
        return ceil(bits / self.burst_bits) * self.burst_bits

    def transfer_ps(self, moved_bits: int, opened_rows: int = 0) -> int:
        """Time on the channel of so many bits, whole bursts counted, and of opening rows."""
        return -(-moved_bits * PS_PER_S // self.bandwidth_bits_per_s) + opened_rows * self.activate_ps

    def base_energy_pj(self, action: str, tech: Technology) -> float:
        return self.activate_pj if action == "activate" else self.energy_pj_per_bit

    def base_area_um2(self, tech: Technology) -> float:
        return 0.0
