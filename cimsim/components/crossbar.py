"""A compute-in-memory array of SRAM or ReRAM cells: reads, writes, area.

ReRAM is ohmic: energy = V^2 x conductance x time, at the mean conductance of its cells. SRAM is charge: the
word lines of active rows and the bit lines of active cells, with capacitances that shrink with the node.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from cimsim.component import LEAKAGE_SCALE, CheckPoint, Source, band
from cimsim.components.memory_array import MemoryArray
from cimsim.components.sram_table import CACTI
from cimsim.scaling import Technology, nominal

INPUT_DENSITY = 0.5  # reference: half the inputs on ...
CELL_DENSITY = 0.5  # ... and half the cells on; a cell conducts in a quarter of all reads
# ZigZag-IMC, 28 nm, fitted to silicon: word and bit line 0.35 fF per cell each, cell gate (NAND2) 0.7 fF.
WORD_LINE_FF, BIT_LINE_FF, GATE_FF, CAPACITANCE_NM = 0.35, 0.35, 0.7, 28.0

ARRAY = {"rows": 128, "columns": 128, "rows_on": 128, "encoding": "offset", "read_ps": 10_000}
NEURRAM_CELL = {**ARRAY, "cell": "reram", "cell_bits": 2, "write_ps": 8_520_000}
SRAM_CELL = {**ARRAY, "cell": "sram", "cell_bits": 1, "write_ps": 1_000}
NEURRAM = "W. Wan et al., NeuRRAM, Nature 608, 2022: 250 kohm and 1 Mohm cells; write-verify of 8.52 us at 1.75 V"


class Crossbar(MemoryArray):
    """`rows` x `columns` cells of `cell_bits` bits, `rows_on` word lines driven per read.

    `read_ps` is the time of one read.
    """

    ACTIONS: ClassVar = ("read_cell", "write_cell")
    STATED_ACTIONS: ClassVar = ("read_cell",)  # printed powers are inference powers
    SOURCES: ClassVar = (
        Source(
            f"{NEURRAM}; energies of its cell by NeuroSim V1.3 (X. Peng et al., IEDM 2019)",
            (
                CheckPoint(NEURRAM_CELL, nominal(22), "read_cell", 0.00310892, 0.01),
                CheckPoint(NEURRAM_CELL, nominal(22), "write_cell", 64.8989, 0.01),
            ),
        ),
        Source(  # (0.5 x 0.35 + 0.25 x 1.05) fF at 0.9 V
            "J. Sun et al., ZigZag-IMC, ICCAD 2023, 28 nm: line and gate capacitances fitted to silicon",
            (CheckPoint(SRAM_CELL, Technology(28, 0.9), "read_cell", 354.375e-6, 0.001),),
        ),
        Source(f"{CACTI}: SRAM cell writes and leakage, as a memory of the array's size"),
    )
    ASSUMPTIONS: ClassVar = (
        band("r_on_ohm", 1_333, 250_000, 250_000, "ohm", "ReRAM: NeuRRAM's cell; ISAAC prints none"),
        band("r_off_ohm", 20_000, 1_000_000, 1_000_000, "ohm", "ReRAM: NeuRRAM's cell; RAELLA's is the low end"),
        band("read_v", 0.1, 0.5, 0.55, "V", "ReRAM: NeuRRAM reads at 0.5 V, ISAAC-like models at 0.2 V"),
        band("set_v", 1.75, 1.75, 2.0, "V", "ReRAM: NeuRRAM sets at 1.75 V, NeuroSim at 2 V"),
        band("read_scale", 0.35, 1, 5.7, "x", "SRAM: low, NeuroSim's array; high, 2 fF cells of Jia (JSSC 2020)"),
        band("write_scale", 1, 1, 38, "x", "SRAM: CACTI's cell write; high, NeuroSim's array write"),
        band("sram_cell_f2", 80, 280, 426, "F2", "SRAM: NeuroSim's 22 nm cell; high, Jia (JSSC 2020)"),
        band("reram_cell_f2", 4, 48, 126, "F2", "ReRAM: NeuroSim's 1T1R; low, a cross-point; high, NeuRRAM"),
        LEAKAGE_SCALE,
    )

    kind: Literal["crossbar"] = "crossbar"
    cell: Literal["sram", "reram"]
    read_ps: int = Field(gt=0)
    column_flip: bool = False
    r_on_ohm: float = Field(default=250_000, gt=0)
    r_off_ohm: float = Field(default=1_000_000, gt=0)
    read_v: float = Field(default=0.5, gt=0)
    set_v: float = Field(default=1.75, gt=0)
    read_scale: float = Field(default=1.0, gt=0)
    write_scale: float = Field(default=1.0, gt=0)
    sram_cell_f2: float = Field(default=280, gt=0)
    reram_cell_f2: float = Field(default=48, gt=0)

    @model_validator(mode="after")
    def _array_is_possible(self) -> Self:
        if self.cell == "sram" and self.cell_bits != 1:
            raise ValueError(f"cell_bits = {self.cell_bits}: must be 1 (an SRAM cell holds one bit)")
        if self.column_flip and self.encoding != "offset":
            raise ValueError("column_flip = True: needs encoding: offset (it inverts offset columns)")
        return self

    @property
    def actions_per_access(self) -> int:
        return self.rows_on * self.columns

    def base_energy_pj(self, action: str, tech: Technology) -> float:
        """One cell: `read_cell` once at reference density; `write_cell`, verified if ReRAM."""
        if self.cell == "reram":
            return self._ohmic_pj(action)
        if action == "write_cell":
            return self.as_memory(tech).write_pj / self.columns * self.write_scale
        conducting = INPUT_DENSITY * CELL_DENSITY
        femtofarad = INPUT_DENSITY * WORD_LINE_FF + conducting * (BIT_LINE_FF + GATE_FF)
        return femtofarad * 1e-3 * tech.node_nm / CAPACITANCE_NM * tech.supply_v**2 * self.read_scale

    def base_area_um2(self, tech: Technology) -> float:
        cell_f2 = self.sram_cell_f2 if self.cell == "sram" else self.reram_cell_f2
        return self.cells_um2(cell_f2, tech)

    def base_leakage_uw(self, tech: Technology) -> float:
        return self.copies * self.as_memory(tech).leakage_uw if self.cell == "sram" else 0.0

    def _ohmic_pj(self, action: str) -> float:
        mean_siemens = (1 / self.r_on_ohm + 1 / self.r_off_ohm) * CELL_DENSITY
        if action == "write_cell":
            return self.set_v**2 * mean_siemens * self.write_ps
        return self.read_v**2 * mean_siemens * self.read_ps * INPUT_DENSITY
