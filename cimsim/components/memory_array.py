"""What every array of memory cells shares, whatever computes beside them: shape, cell area, writes, leakage."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from cimsim.component import Component
from cimsim.components.sram_table import SramFigures, sram_figures
from cimsim.scaling import Technology

SQUARE_UM_PER_F2_NM2 = 1e-6


class MemoryArray(Component):
    """`rows` x `columns` cells of `cell_bits` bits that hold weights, `rows_on` word lines used together.

    `write_ps` is the time of writing one word line (write-verify included).
    """

    IS_ARRAY: ClassVar = True

    rows: int = Field(ge=1, le=4096)
    columns: int = Field(ge=1, le=4096)
    rows_on: int = Field(ge=1)
    cell_bits: int = Field(ge=1, le=4)
    write_ps: int = Field(gt=0)
    encoding: Literal["offset", "twos_complement", "differential"]
    double_buffered: bool = False
    endurance_writes: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _rows_on_fit(self) -> Self:
        if self.rows_on > self.rows:
            raise ValueError(f"rows_on = {self.rows_on}: must be <= rows = {self.rows}")
        return self

    @property
    def num_cells(self) -> int:
        """Cells of one array, counted once when double buffered."""
        return self.rows * self.columns

    @property
    def copies(self) -> int:
        return 2 if self.double_buffered else 1

    def cells_um2(self, cell_f2: float, tech: Technology) -> float:
        """Area of all cells, each of `cell_f2` squares of the node."""
        return self.copies * self.num_cells * cell_f2 * tech.node_nm**2 * SQUARE_UM_PER_F2_NM2

    def as_memory(self, tech: Technology) -> SramFigures:
        """A plain SRAM of this array's size, one word line wide."""
        return sram_figures(self.num_cells, self.columns, tech)
