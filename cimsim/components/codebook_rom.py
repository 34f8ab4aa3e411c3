"""The mask ROM that holds the codebooks."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from cimsim.components.base import LEAKAGE_SCALE, CheckPoint, Component, Source, band
from cimsim.components.laws.scaling import Technology
from cimsim.components.laws.sram_table import CACTI, sram_figures

CELL_UM2, CELL_NM = 0.096, 65  # Yin et al., JSSC 2024: area per bit of the ROM cell


class CodebookRom(Component):
    """`capacity_bits` of ROM; `ports` lookups of `width_bits` a cycle.

    Without banks each port has a copy of the ROM. With `banks` there is one copy, in which entry e lies in bank e
    mod `banks`; a bank answers one lookup a cycle, so lookups of one bank wait for each other.
    """

    ACTIONS: ClassVar = ("read_bit",)
    SOURCES: ClassVar = (
        Source(
            "Yin et al., 1T ROM compute-in-memory, JSSC 2024, 65 nm: 0.096 um2/bit; 3,984 kb/mm2",
            (
                CheckPoint(
                    {"capacity_bits": 2_097_152, "ports": 1, "latency_cycles": 1, "width_bits": 64},
                    Technology(65, 1.1),
                    "area_um2",
                    2048 / 3984 * 1e6,
                    0.01,
                ),
            ),
        ),
        Source(
            "upper reference: SRAM codebook buffer of EVA (github.com/dbw6/Eva), 28 nm, 14.25 fJ per bit",
            (
                CheckPoint(  # 256 entries x 8 x 16 bits, one entry per read, at the price of an SRAM
                    {
                        "capacity_bits": 32_768,
                        "ports": 1,
                        "latency_cycles": 1,
                        "width_bits": 128,
                        "energy_ratio": 1.0,
                    },
                    Technology(28, 0.9),
                    "read_bit",
                    0.01425,
                    0.6,
                ),
            ),
        ),
        Source(CACTI),
    )
    ASSUMPTIONS: ClassVar = (
        band("energy_ratio", 0.25, 0.5, 1.0, unit="x", why="ROM bit read over SRAM of that size: no published figure"),
        band("area_ratio", 1.3, 2.55, 2.55, unit="x", why="macro over cell area: high, Yin's macro with converters"),
        band("leakage_ratio", 0.0, 0.5, 1.0, unit="x", why="ROM leakage over SRAM of that size: only periphery leaks"),
        LEAKAGE_SCALE,
    )

    kind: Literal["codebook_rom"] = "codebook_rom"
    capacity_bits: int = Field(ge=64)
    ports: int = Field(ge=1)
    banks: int = Field(default=0, ge=0, le=62)
    latency_cycles: int = Field(ge=1)
    width_bits: int = Field(ge=1)
    energy_ratio: float = Field(default=0.5, gt=0)
    area_ratio: float = Field(default=2.55, ge=1)
    leakage_ratio: float = Field(default=0.5, ge=0)

    @property
    def copies(self) -> int:
        return 1 if self.banks else self.ports

    @property
    def actions_per_access(self) -> int:
        return self.width_bits * self.ports

    def base_energy_pj(self, action: str, tech: Technology) -> float:
        sram = sram_figures(self.capacity_bits, self.width_bits, tech)
        return sram.read_pj / self.width_bits * self.energy_ratio

    def base_area_um2(self, tech: Technology) -> float:
        cell_um2 = CELL_UM2 * (tech.node_nm / CELL_NM) ** 2
        return cell_um2 * self.capacity_bits * self.area_ratio * self.copies

    def base_leakage_uw(self, tech: Technology) -> float:
        sram = sram_figures(self.capacity_bits, self.width_bits, tech)
        return sram.leakage_uw * self.leakage_ratio * self.copies
