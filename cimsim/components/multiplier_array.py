"""An array of multipliers that holds no weights: sub-vectors of the input meet codebook entries in it.

A systolic grid: `rows` sub-vectors lie in it while the entries of a book pass, so that a pass takes as many cycles as
there are entries, for each `columns` of their length, and `fill_cycles`.
"""

from __future__ import annotations

from math import ceil
from typing import ClassVar, Literal

from pydantic import Field

from cimsim.components.base import LEAKAGE_SCALE, CheckPoint, Component, Source, band
from cimsim.components.laws.logic import (
    ADD_PJ,
    ADD_UM2,
    ARITHMETIC_TECH,
    FLIP_FLOP_UM2,
    HOROWITZ,
    MULTIPLY_PJ,
    MULTIPLY_UM2,
    NEUROSIM,
    SZE,
    area_at,
    leakage_uw,
)
from cimsim.components.laws.scaling import Technology, area_factor, energy_factor

OPERANDS_HELD = 3  # registers of a cell: input, entry, sum


class MultiplierArray(Component):
    """`rows` x `columns` multiply-accumulate cells for numbers of `operand_bits`; `peak_rate_hz` is its clock."""

    ACTIONS: ClassVar = ("multiply",)
    SOURCES: ClassVar = (
        Source(
            f"{HOROWITZ}: fp16 multiply 1.1 and add 0.4 pJ; int8 0.2 and 0.03",
            (CheckPoint({"rows": 1, "columns": 1}, ARITHMETIC_TECH, "multiply", 1.5, 0.001),),
        ),
        Source(
            f"{SZE}: fp16 multiply 1,640 and add 1,360 um2; registers: {NEUROSIM}",
            (CheckPoint({"rows": 1, "columns": 1}, ARITHMETIC_TECH, "area_um2", 3000 + 48 * 5.171, 0.001),),
        ),
        Source(
            "github.com/dbw6/Eva, synthesised at 28 nm: 32 x 8 cells of fp16 in 0.480928 mm2",
            (CheckPoint({"rows": 32, "columns": 8}, Technology(28, 0.9), "area_um2", 480_928, 0.45),),
        ),
    )
    ASSUMPTIONS: ClassVar = (
        band(
            "energy_scale",
            1,
            1,
            15,
            unit="x",
            why="arithmetic alone; EVA's array draws 11 pJ per cell and cycle at 28 nm",
        ),
        LEAKAGE_SCALE,
    )
    IS_ARRAY: ClassVar = True

    kind: Literal["multiplier_array"] = "multiplier_array"
    rows: int = Field(ge=1, le=4096)
    columns: int = Field(ge=1, le=4096)
    number: Literal["fp16", "int8"] = "fp16"
    fill_cycles: int | None = Field(default=None, ge=0)
    energy_scale: float = Field(default=1.0, ge=0)

    @property
    def actions_per_access(self) -> int:
        """Cells that multiply in one cycle."""
        return self.rows * self.columns

    @property
    def operand_bits(self) -> int:
        """Width of inputs, entries, products and sums."""
        return 16 if self.number == "fp16" else 8

    def pass_cycles(self, num_entries: int, length: int) -> int:
        """Cycles in which `rows` sub-vectors of `length` numbers meet a whole book; by default it fills and empties
        in as many cycles as it has rows and columns."""
        fill = self.rows + self.columns if self.fill_cycles is None else self.fill_cycles
        return ceil(length / self.columns) * num_entries + fill

    def base_energy_pj(self, action: str, tech: Technology) -> float:
        both = MULTIPLY_PJ[self.number] + ADD_PJ[self.number]
        return both * energy_factor(ARITHMETIC_TECH, tech) * self.energy_scale

    def base_area_um2(self, tech: Technology) -> float:
        logic = (MULTIPLY_UM2[self.number] + ADD_UM2[self.number]) * area_factor(ARITHMETIC_TECH.node_nm, tech.node_nm)
        registers = OPERANDS_HELD * self.operand_bits * area_at(FLIP_FLOP_UM2, tech)
        return self.rows * self.columns * (logic + registers)

    def base_leakage_uw(self, tech: Technology) -> float:
        return leakage_uw(self.base_area_um2(tech), tech)
