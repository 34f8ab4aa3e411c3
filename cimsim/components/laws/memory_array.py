"""What every array of memory cells shares, whatever computes beside them: shape, cell area, writes, leakage."""

from __future__ import annotations

from math import ceil
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from cimsim.components.base import Component, band
from cimsim.components.laws.scaling import Technology
from cimsim.components.laws.sram_table import SramFigures, sram_figures

SQUARE_UM_PER_F2_NM2 = 1e-6
# Fitted jointly to Jia, AIMC2, DIMC1, DIMC2, TSMC and Colonnade (`cimsim validate --leave-one-out`); NeuRRAM, left
# out of the fit, has cells on 12 % and drivers on 21 % of a core: 2.75.
PERIPHERY = band(
    "periphery_factor",
    1.2,
    2.7,
    3.9,
    unit="x",
    why="an array's area over its cells: drivers, decoders, ports; low, CACTI's SRAM",
)


class MemoryArray(Component):
    """`rows` x `columns` cells of `cell_bits` bits that hold weights, `rows_on` word lines used together.

    The array's area is `periphery_factor` times its cells. `write_ps` is the time of writing one word line
    (write-verify included). `weight_sets`: each place in the array has so many cells, one of which is used at a time.
    """

    IS_ARRAY: ClassVar = True

    rows: int = Field(ge=1, le=4096)
    columns: int = Field(ge=1, le=4096)
    rows_on: int = Field(ge=1)
    cell_bits: int = Field(ge=1, le=4)
    write_ps: int | None = Field(default=None, gt=0)
    encoding: Literal["offset", "twos_complement", "differential", "sign_magnitude", "xnor"]
    double_buffered: bool = False
    weight_sets: int = Field(default=1, ge=1, le=256)
    endurance_writes: float | None = Field(default=None, gt=0)
    periphery_factor: float = Field(default=2.7, ge=1)

    @model_validator(mode="after")
    def _shape_is_possible(self) -> Self:
        if self.rows_on > self.rows:
            raise ValueError(f"rows_on = {self.rows_on}: must be <= rows = {self.rows}")
        if self.encoding in ("twos_complement", "xnor") and self.cell_bits != 1:
            raise ValueError(f"cell_bits = {self.cell_bits}: must be 1 with encoding: {self.encoding}")
        if self.is_writable and self.write_ps is None:
            raise ValueError("write_ps: this key is required (time to write one word line)")
        return self

    @property
    def is_writable(self) -> bool:
        """Whether weights can be replaced; a layer on other arrays must be resident."""
        return True

    @property
    def num_cells(self) -> int:
        """Cells in use at a time in one array: counted once, however many sets of weights it holds."""
        return self.rows * self.columns

    @property
    def copies(self) -> int:
        """Cells in the place of one: a second set to load while the first computes, and sets to choose from."""
        return self.weight_sets * (2 if self.double_buffered else 1)

    def natural_rate_hz(self, tech: Technology) -> int | None:
        """Accesses a second that the array itself allows, for a chip that states no rate."""
        return None

    def row_line_ff(self, tech: Technology) -> float | None:
        """Capacitance of the line that one input drives across the array, in fF; None where nothing is known of it."""
        return None

    def columns_per_output(self, array_bits: int) -> int:
        """Columns that one output of `array_bits`-bit weights takes: its slices, twice for differential pairs."""
        return ceil(array_bits / self.cell_bits) * (2 if self.encoding == "differential" else 1)

    def cells_um2(self, cell_f2: float, tech: Technology) -> float:
        """Area of all cells, each of `cell_f2` squares of the node, with the array's periphery."""
        return self.periphery_factor * self.copies * self.num_cells * cell_f2 * tech.node_nm**2 * SQUARE_UM_PER_F2_NM2

    def as_memory(self, tech: Technology) -> SramFigures:
        """A plain SRAM of this array's size, one word line wide."""
        return sram_figures(self.num_cells, self.columns, tech)
