"""An analogue compute-in-memory array: reads, writes, area, for every kind of cell and of readout.

One read of one cell, from physical inputs:
  charge   word line, and bit line and cell capacitor where input and cell agree, times V^2
  time     as charge: the cell's current empties the bit line, whose delay is measured
  current  V^2 x conductance x time (ohmic), at the mean conductance of the cells
  voltage  input lines are driven to the read voltage and recharged while the output settles between them
"""

from __future__ import annotations

from math import sqrt
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from cimsim.components.base import LEAKAGE_SCALE, REFERENCE, Activity, Assumption, CheckPoint, Source, band
from cimsim.components.laws.cells import CELLS, SRAM_6T_F2, CellType
from cimsim.components.laws.memory_array import PERIPHERY, MemoryArray
from cimsim.components.laws.scaling import WIRE_FF_PER_UM, Technology, interpolate, nominal, wire_ohm_per_um
from cimsim.components.laws.sram_table import CACTI

# ZigZag-IMC, 28 nm, fitted to silicon: word and bit line 0.35 fF per cell each, cell gate (NAND2) 0.7 fF.
WORD_LINE_FF, BIT_LINE_FF, GATE_FF, CAPACITANCE_NM = 0.35, 0.35, 0.7, 28.0

ARRAY = {"rows": 128, "columns": 128, "rows_on": 128, "encoding": "offset", "read_ps": 10_000}
NEURRAM_CELL = {**ARRAY, "cell": "reram", "cell_bits": 2, "write_ps": 8_520_000}
SRAM_CELL = {**ARRAY, "cell": "sram", "cell_bits": 1, "write_ps": 1_000}
NEURRAM = "W. Wan et al., NeuRRAM, Nature 608, 2022: 250 kohm and 1 Mohm cells; write-verify of 8.52 us at 1.75 V"
LOW_OHM_CELL = {"r_on_ohm": 1_333, "r_off_ohm": 20_000, "read_v": 0.2}  # NeuroSim puts a transistor in series


class Crossbar(MemoryArray):
    """`rows` x `columns` cells of `cell_bits` bits, `rows_on` word lines driven per read.

    `read_ps` is the time of one read; without it the conversion itself is the read. With `pulse_ps` it is what a read
    takes beside its input pulses of so long each. `phases` reads make one input step, each converted: inputs of either
    sign, or of either sign on weights of either sign, one after the other; a cell conducts in one of them. `folds`
    columns stand beside each other in the place of one and are read as one, so that word lines are as many times
    longer. A capacitor ladder weights the `group_columns` slices of one output by powers of two before one conversion.
    `pair_conversions`: a differential pair is subtracted before its one conversion, or both its columns are converted.

    Fields that are None are the cell's (components/cells.py); capacitances are per cell on the line.
    """

    ACTIONS: ClassVar = ("read_cell", "write_cell")
    ROLES: ClassVar = ("pool",)
    STATED_ACTIONS: ClassVar = ("read_cell",)  # printed powers are inference powers
    SOURCES: ClassVar = (
        Source(
            f"{NEURRAM}; energies of its cell and of others by NeuroSim V1.3 (X. Peng et al., IEDM 2019)",
            (
                CheckPoint(NEURRAM_CELL, nominal(22), "read_cell", 0.00310892, 0.01),
                CheckPoint(NEURRAM_CELL, nominal(22), "write_cell", 64.8989, 0.01),
                CheckPoint(NEURRAM_CELL | {"read_v": 0.1}, nominal(22), "read_cell", 0.000124216, 0.01),
                CheckPoint(NEURRAM_CELL | LOW_OHM_CELL, nominal(22), "read_cell", 0.058173, 0.4),
                CheckPoint(
                    NEURRAM_CELL | {"periphery_factor": 1}, nominal(22), "area_um2", 128 * 128 * 0.023232, 0.001
                ),
            ),
        ),
        Source(  # (0.5 x 0.35 + 0.25 x 1.05) fF at 0.9 V
            "J. Sun et al., ZigZag-IMC, ICCAD 2023, 28 nm: line and gate capacitances fitted to silicon",
            (CheckPoint(SRAM_CELL, Technology(28, 0.9), "read_cell", 354.375e-6, 0.001),),
        ),
        Source(f"{CACTI}: SRAM cell writes and leakage, as a memory of the array's size"),
    )
    ASSUMPTIONS: ClassVar = (
        band(
            "read_scale",
            0.35,
            1,
            5.7,
            unit="x",
            why="charge: low, NeuroSim's array; high, 2 fF in place of a 6T cell's gate",
        ),
        band("write_scale", 1, 1, 38, unit="x", why="SRAM: CACTI's cell write; high, NeuroSim's array write"),
        band(
            "settle_factor", 3, 5, 7, unit="x", why="voltage: time constants until the output is still; 5 leave 0.7 %"
        ),
        PERIPHERY,
        LEAKAGE_SCALE,
    )

    kind: Literal["crossbar"] = "crossbar"
    cell: Literal[
        "sram", "sram_8t", "sram_8t1c", "sram_12t", "reram", "reram_2t2r", "pcm", "fefet", "rom"
    ]  # `sram` is 6T, `reram` 1T1R
    readout: Literal["charge", "current", "voltage", "time"] | None = None
    read_ps: int | None = Field(default=None, gt=0)
    pulse_ps: int | None = Field(default=None, gt=0)
    phases: Literal[1, 2, 4] = 1
    folds: int = Field(default=1, ge=1, le=64)
    group_columns: int = Field(default=1, ge=1, le=16)
    pair_conversions: Literal[1, 2] = 2
    column_flip: bool = False
    cell_f2: float | None = Field(default=None, gt=0)
    cell_ff: float | None = Field(default=None, gt=0)
    word_line_ff: float | None = Field(default=None, ge=0)
    bit_line_ff: float | None = Field(default=None, ge=0)
    r_on_ohm: float | None = Field(default=None, gt=0)
    r_off_ohm: float | None = Field(default=None, gt=0)
    read_v: float | None = Field(default=None, gt=0)
    set_v: float | None = Field(default=None, gt=0)
    write_pj: float | None = Field(default=None, gt=0)
    read_scale: float = Field(default=1.0, gt=0)
    write_scale: float = Field(default=1.0, gt=0)
    settle_factor: float = Field(default=5.0, ge=0)

    @model_validator(mode="after")
    def _array_is_possible(self) -> Self:
        most = self.cell_type.max_bits
        if self.cell_bits > most:
            one = "1 (an SRAM cell holds one bit)" if most == 1 else f"<= {most} for a {self.cell} cell"
            raise ValueError(f"cell_bits = {self.cell_bits}: must be {one}")
        if self.column_flip and self.encoding != "offset":
            raise ValueError("column_flip = True: needs encoding: offset (it inverts offset columns)")
        if self.columns % self.group_columns:
            raise ValueError(f"group_columns = {self.group_columns}: must divide columns = {self.columns}")
        if self.pair_conversions == 1 and self.encoding != "differential":
            raise ValueError("pair_conversions = 1: needs encoding: differential")
        if self.read_ps is None and self.reading in ("current", "voltage"):
            raise ValueError(f"read_ps: this key is required with readout: {self.reading} (cells conduct so long)")
        missing = [name for name in self._needed() if self._value(name) is None]
        if missing:
            raise ValueError(
                f"{missing[0]}: this key is required with cell: {self.cell} and readout: {self.reading}"
                " (this kind of cell has no usual value)"
            )
        return self

    @property
    def cell_type(self) -> CellType:
        return CELLS[self.cell]

    @property
    def reading(self) -> str:
        """The readout, stated or the cell's usual one."""
        return self.readout or self.cell_type.readout

    @property
    def is_writable(self) -> bool:
        return self.cell_type.family != "rom"

    @property
    def joined_columns(self) -> int:
        """Columns that share one conversion: a ladder's group, and a pair that is subtracted before."""
        return self.group_columns * (2 if self._is_pair_of_columns and self.pair_conversions == 1 else 1)

    @property
    def slot_ps(self) -> int:
        """How long one input pulse lets cells conduct: the whole read unless pulses are stated."""
        return self.pulse_ps or self.read_ps or 0

    @property
    def actions_per_access(self) -> int:
        return self.rows_on * self.columns

    def actions(self) -> tuple[str, ...]:
        return self.ACTIONS if self.is_writable else ("read_cell",)

    def natural_rate_hz(self, tech: Technology) -> int | None:
        return max(1, 10**12 // self.read_ps) if self.read_ps else None

    def row_line_ff(self, tech: Technology) -> float:
        return self.columns * self._word_line_ff(tech)

    def columns_per_output(self, array_bits: int) -> int:
        """As every array; a ladder's groups are whole, and a cell of two devices is a pair by itself."""
        slices = -(-array_bits // self.cell_bits)
        groups = -(-slices // self.group_columns)
        return groups * self.group_columns * (2 if self._is_pair_of_columns else 1)

    def evidence(self) -> tuple[str, ...]:
        return super().evidence() + tuple(str(item) for item in self.cell_bands())

    def cell_bands(self) -> tuple[Assumption, ...]:
        """Assumptions of the cell's kind that the chip does not replace by figures of its own."""
        return tuple(item for item in self.cell_type.bands if getattr(self, item.name) is None)

    def base_energy_pj(self, action: str, tech: Technology) -> float:
        """One cell: `read_cell` once at reference density; `write_cell`, verified if resistive."""
        if action == "write_cell":
            return self._write_pj(tech)
        return self.read_pj(tech, REFERENCE)

    def data_factor(self, action: str, tech: Technology, activity: Activity) -> float:
        return self.read_pj(tech, activity) / self.read_pj(tech, REFERENCE) if action == "read_cell" else 1.0

    def read_pj(self, tech: Technology, activity: Activity) -> float:
        """Energy of one read of one cell in pJ with these data.

        With xnor one of a cell's two lines is always driven, and the cell answers where input and weight agree.
        """
        driven, both = activity.input_density, activity.joint_density
        if self.encoding == "xnor":
            driven, both = 1.0, 1 - activity.input_density - activity.cell_density + 2 * both
        if self.reading == "current":
            return self._ohmic_pj(tech, driven, both)
        if self.reading == "voltage":
            volts = self._value("read_v") or tech.supply_v
            femtojoule = self._bit_line_ff(tech) * volts * (tech.supply_v + self.settle_factor * volts)
            return driven * femtojoule * 1e-3
        cell_ff = self._value("cell_ff") or GATE_FF * tech.node_nm / CAPACITANCE_NM
        femtofarad = driven * self._word_line_ff(tech) + both * (self._bit_line_ff(tech) + cell_ff)
        return femtofarad * 1e-3 * (self.read_v or tech.supply_v) ** 2 * self.read_scale

    def base_area_um2(self, tech: Technology) -> float:
        return self.cells_um2(self._cell_f2(tech), tech)

    def base_leakage_uw(self, tech: Technology) -> float:
        return self.copies * self.as_memory(tech).leakage_uw if self.cell_type.family == "sram" else 0.0

    def segment_ohm(self, tech: Technology) -> float:
        """Resistance of one line along one cell, in ohm: the node's narrowest wire."""
        return self._pitch_um(tech) * wire_ohm_per_um(tech.node_nm)

    @property
    def _is_pair_of_columns(self) -> bool:
        return self.encoding == "differential" and self.cell_type.devices == 1

    def _needed(self) -> tuple[str, ...]:
        return {"current": ("r_on_ohm",), "voltage": ("read_v",)}.get(self.reading, ())

    def _value(self, field: str) -> float | None:
        """The chip's figure, else the usual one of this kind of cell."""
        own = getattr(self, field)
        return own if own is not None else self.cell_type.nominal(field)

    def _cell_f2(self, tech: Technology) -> float:
        """F2 of the cell; an SRAM's grows below 22 nm as NeuroSim's 6T does."""
        usual = self.cell_type.nominal("cell_f2") or 0.0
        if self.cell_type.family == "sram" and tech.node_nm < max(SRAM_6T_F2):
            usual *= interpolate(SRAM_6T_F2, tech.node_nm) / SRAM_6T_F2[max(SRAM_6T_F2)]
        return self.cell_f2 or usual

    def _pitch_um(self, tech: Technology) -> float:
        return sqrt(self._cell_f2(tech)) * tech.node_nm * 1e-3

    def _word_line_ff(self, tech: Technology) -> float:
        if self.word_line_ff is not None:
            return self.word_line_ff
        detour_ff = (self.folds - 1) * self._pitch_um(tech) * WIRE_FF_PER_UM
        return WORD_LINE_FF * tech.node_nm / CAPACITANCE_NM + detour_ff

    def _bit_line_ff(self, tech: Technology) -> float:
        return self.bit_line_ff if self.bit_line_ff is not None else BIT_LINE_FF * tech.node_nm / CAPACITANCE_NM

    def _siemens(self, level: float) -> float:
        """Mean conductance of a device at this mean level."""
        on_siemens = 1 / (self._value("r_on_ohm") or float("inf"))
        off_siemens = 1 / (self._value("r_off_ohm") or float("inf"))
        return level * on_siemens + (1 - level) * off_siemens

    def _ohmic_pj(self, tech: Technology, driven: float, both: float) -> float:
        """A driven cell conducts at its level: at the low conductance at least, and between the two by `both`."""
        devices = 1 if self.encoding == "xnor" else self.cell_type.devices
        volts = self._value("read_v") or tech.supply_v
        off = self._siemens(0)
        return volts**2 * (driven * off + both * (self._siemens(1) - off)) * self.slot_ps * devices

    def _write_pj(self, tech: Technology) -> float:
        stated = self._value("write_pj")
        if stated is not None:
            return stated * self.cell_type.devices
        if self.cell_type.family == "sram":
            return self.as_memory(tech).write_pj / self.columns * self.write_scale
        volts = self._value("set_v") or 0.0
        return volts**2 * self._siemens(REFERENCE.cell_density) * (self.write_ps or 0) * self.cell_type.devices
