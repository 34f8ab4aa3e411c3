"""On-chip buffers: SRAM as CACTI models it, and embedded DRAM relative to it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from cimsim.components.base import LEAKAGE_SCALE, CheckPoint, Source, band
from cimsim.components.laws.scaling import Technology
from cimsim.components.laws.sram_table import CACTI, SramFigures, SramPriced

SRAM_64KB = {"memory": "sram", "capacity_bits": 524_288, "width_bits": 256, "role": "tile"}


class Buffer(SramPriced):
    """A tile's or the chip's buffer; or one for sums, or for the codebooks that a multiplier array meets."""

    ROLES: ClassVar = ("tile", "global", "output", "codebook")
    SOURCES: ClassVar = (
        Source(
            CACTI,
            (
                CheckPoint(SRAM_64KB, Technology(32, 1.0), "read_bit", 29.6 / 256, 0.005),
                CheckPoint(SRAM_64KB, Technology(32, 1.0), "area_um2", 101_000, 0.005),
            ),
        ),
    )
    ASSUMPTIONS: ClassVar = (
        band("edram_energy_ratio", 0.5, 1.0, 2.0, unit="x", why="eDRAM over SRAM energy: not settled; no refresh"),
        band(
            "edram_area_ratio",
            0.5,
            0.82,
            1.0,
            unit="x",
            why="eDRAM over SRAM area: ISAAC's 0.083 over CACTI's 0.101 mm2",
        ),
        LEAKAGE_SCALE,
    )

    kind: Literal["buffer"] = "buffer"
    memory: Literal["sram", "edram"]
    role: Literal["tile", "global", "output", "codebook"] = "tile"
    edram_energy_ratio: float = Field(default=1.0, gt=0)
    edram_area_ratio: float = Field(default=0.82, gt=0)

    def figures(self, tech: Technology) -> SramFigures:
        read, write, area, leak = super().figures(tech)
        if self.memory == "sram":
            return SramFigures(read, write, area, leak)
        energy = self.edram_energy_ratio
        return SramFigures(read * energy, write * energy, area * self.edram_area_ratio, leak)
