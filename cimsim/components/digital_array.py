"""A digital compute-in-memory array: SRAM cells with multipliers and adders beside them, exact, without converters.

`adder_tree`: the products of `rows_on` rows and `step_bits` input bits are added by one tree per output.
`cell_adders`: each cell has a full adder and passes its sum to the row below (H. Kim et al., Colonnade, JSSC 2021).
"""

from __future__ import annotations

from math import ceil, log2
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from cimsim.components.base import LEAKAGE_SCALE, REFERENCE, Activity, CheckPoint, Source, band
from cimsim.components.laws.logic import (
    ADDER_8B_PJ,
    ADDER_8B_UM2,
    FLIP_FLOP_PJ,
    FLIP_FLOP_UM2,
    NEUROSIM,
    area_at,
    energy_at,
    leakage_uw,
)
from cimsim.components.laws.memory_array import PERIPHERY, MemoryArray
from cimsim.components.laws.scaling import Technology, adder_ps, area_factor, delay_factor
from cimsim.components.laws.sram_table import CACTI

# ZigZag-IMC, 28 nm, fitted to silicon: a two-input gate, each of its inputs, and a line past one cell.
GATE_FF, GATE_INPUT_FF, LINE_FF, GATE_UM2, GATE_NM = 0.7, 0.35, 0.35, 0.614, 28.0
INPUT_BITS = 8  # what an accumulator is built for
# A library's adder adds random bits, which change every other time. Products of two random bits are ones in a quarter
# of all cases and change three times in eight; sums that ripple through a column of cells are random again.
PRODUCT_ACTIVITY = (2 * 0.25 * 0.75) / (2 * 0.5 * 0.5)

TREE = {
    "rows": 32, "columns": 48, "rows_on": 32, "outputs_on": 6, "weight_bits": 8, "step_bits": 1, "cell_bits": 1,
    "encoding": "twos_complement", "write_ps": 1000, "reduction": "adder_tree",
}  # fmt: skip


def tree_adders(operands: int, width: int) -> int:
    """Full adders of a binary tree over `operands` numbers of `width` bits: a bit wider at each level."""
    adders = 0
    while operands > 1:
        pairs, rest = divmod(operands, 2)
        adders += pairs * width
        operands, width = pairs + rest, width + 1
    return adders


class DigitalArray(MemoryArray):
    """`peak_rate_hz` counts steps: `rows_on` inputs meet `outputs_on` outputs, `step_bits` input bits at a time.

    With `booth` a step takes two input bits as one radix-4 digit, whose product is one bit wider than the weight.
    A full adder takes the node's time unless `adder_ps` states it, at `adder_v`; without a rate the logic sets it.
    An adder tree serves weights of `weight_bits`; narrower ones leave it idle in part. Arrays with an adder in each
    cell take any width, and `sum_columns` more columns for the carries of each output. `registers` cut a column's
    ripple, `pipeline_steps` is the latency of a sum in a tree. Without `overlaps` a step waits until the sum of the one
    before it is out.
    """

    ACTIONS: ClassVar = ("multiply_bit", "add_bit", "register_bit", "write_cell")
    STATED_ACTIONS: ClassVar = ("multiply_bit", "add_bit", "register_bit")
    SOURCES: ClassVar = (
        Source(  # (0.5 x 0.7 + 0.25 x 0.7) fF at 0.9 V
            "J. Sun et al., ZigZag-IMC, ICCAD 2023, 28 nm: gates of 0.7 fF and 0.614 um2, lines of 0.35 fF a cell",
            (CheckPoint(TREE, Technology(28, 0.9), "multiply_bit", 0.525e-3 * 0.81, 0.001),),
        ),
        Source(
            f"full adder and flip-flop: {NEUROSIM}",
            (
                CheckPoint(TREE, Technology(22, 0.85), "add_bit", 0.75 * 0.00857844 / 8, 0.001),
                CheckPoint(TREE, Technology(22, 0.85), "register_bit", 0.00255214, 0.001),
            ),
        ),
        Source(f"{CACTI}: SRAM cell writes and leakage, as a memory of the array's size"),
    )
    ASSUMPTIONS: ClassVar = (
        band("adder_scale", 0.5, 1, 3.2, unit="x", why="NeuroSim's full adder; high, ZigZag-IMC's 3.4 fJ at 28 nm"),
        band("cell_f2", 80, 280, 426, unit="F2", why="NeuroSim's 22 nm cell; low, a dense 6T; high, Jia (JSSC 2020)"),
        band(
            "logic_factor",
            1,
            1.6,
            2.4,
            unit="x",
            why="tree's placed area over NeuroSim's adders; joint fit; ZigZag-IMC has 2.1",
        ),
        band("write_scale", 1, 1, 38, unit="x", why="CACTI's cell write; high, NeuroSim's array write"),
        PERIPHERY,
        LEAKAGE_SCALE,
    )

    kind: Literal["digital_array"] = "digital_array"
    reduction: Literal["adder_tree", "cell_adders"]
    encoding: Literal["twos_complement"] = "twos_complement"
    cell_bits: Literal[1] = 1
    outputs_on: int | None = Field(default=None, ge=1)
    weight_bits: int = Field(default=8, ge=1, le=16)
    step_bits: Literal[1, 2, 4, 8] = 1
    booth: bool = False
    sum_columns: int = Field(default=0, ge=0)
    registers: int = Field(default=0, ge=0)
    pipeline_steps: int = Field(default=1, ge=1)
    overlaps: bool = True
    adder_ps: int | None = Field(default=None, gt=0)
    adder_v: float | None = Field(default=None, gt=0)
    adder_scale: float = Field(default=1.0, gt=0)
    logic_factor: float = Field(default=1.6, ge=1)
    cell_f2: float = Field(default=280, gt=0)
    write_scale: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _logic_is_possible(self) -> Self:
        if self.booth and self.step_bits != 2:
            raise ValueError(f"step_bits = {self.step_bits}: must be 2 with booth (a radix-4 digit)")
        if self.reduction == "cell_adders" and self.step_bits != 1:
            raise ValueError(f"step_bits = {self.step_bits}: must be 1 with cell_adders (one product bit a cell)")
        if self.reduction == "adder_tree" and (self.sum_columns or self.registers):
            raise ValueError("sum_columns, registers: only with cell_adders")
        if (self.adder_ps is None) != (self.adder_v is None):
            raise ValueError("adder_ps: needs adder_v beside it, and the other way round (the supply where it holds)")
        return self

    @property
    def actions_per_access(self) -> int:
        """Product bits of one step."""
        return self.rows_on * self.num_outputs_on * self.product_bits(self.weight_bits)

    @property
    def num_outputs_on(self) -> int:
        """Outputs that one step serves."""
        return self.outputs_on or self.columns // self.columns_per_output(self.weight_bits)

    def columns_per_output(self, array_bits: int) -> int:
        """Bit lines of one output."""
        if self.reduction == "cell_adders":
            return array_bits + self.sum_columns
        return ceil(array_bits / self.weight_bits) * self.weight_bits

    @property
    def latency_steps(self) -> int:
        """Steps from an input digit to its sum."""
        return self.registers + 1 if self.reduction == "cell_adders" else self.pipeline_steps

    def product_bits(self, columns: int) -> int:
        """Gates of one product in one step: a Booth digit selects one number, other digits multiply bit by bit."""
        return columns + 1 if self.booth else columns * self.step_bits

    def added_bits(self, rows: int, columns: int) -> int:
        """Full-adder operations of one output in one step: tree and accumulator, or the adders of its cells."""
        if self.reduction == "cell_adders":
            return rows * columns
        product = columns + 1 if self.booth else columns + self.step_bits - 1
        inside = (self.step_bits - 1) * rows * columns if not self.booth else 0  # adding the bits of one product
        return inside + tree_adders(rows, product) + self.sum_bits(rows, columns)

    def registered_bits(self, rows: int, columns: int) -> int:
        """Flip-flops that take a new value for one output in one step."""
        stages = self.registers * columns if self.reduction == "cell_adders" else 0
        return stages + self.sum_bits(rows, columns) * self.pipeline_steps

    def sum_bits(self, rows: int, columns: int) -> int:
        """Width of an accumulator over `rows` products."""
        return columns + INPUT_BITS + ceil(log2(max(2, rows)))

    def step_ps(self, tech: Technology) -> float:
        """The longest way through the logic between two registers, in ps; carries ripple.

        A tree of L levels passes its first bit in L adders and the rest behind it; the register takes one more.
        In a column of cells a sum ripples through the rows of one register while its carry crosses the columns, and
        two more adders (the rule that fits Colonnade's 15 clocks within 2.5 %, as CiMLoop has it).
        """
        width, full = self.columns_per_output(self.weight_bits), self._full_adder_ps(tech)
        if self.reduction == "cell_adders":
            return (width + ceil(self.rows_on / max(1, self.registers)) + 2) * full
        levels = ceil(log2(max(2, self.rows_on)))
        tree = levels + self.product_bits(width) // (1 if self.booth else self.step_bits) + levels
        whole = self.sum_bits(self.rows_on, width)
        return (1 + (max(tree, whole) if self.pipeline_steps > 1 else levels + whole)) * full

    def natural_rate_hz(self, tech: Technology) -> int:
        """Steps a second that the logic allows."""
        return round(1e12 / self.step_ps(tech))

    def row_line_ff(self, tech: Technology) -> float:
        return self.columns * (LINE_FF + GATE_INPUT_FF) * tech.node_nm / GATE_NM

    def peak_energy_pj(self, tech: Technology) -> float:
        """Energy of one step in which everything is in use."""
        width = self.columns_per_output(self.weight_bits)
        outputs = self.num_outputs_on
        return (
            self.actions_per_access * self.energy_pj("multiply_bit", tech)
            + outputs * self.added_bits(self.rows_on, width) * self.energy_pj("add_bit", tech)
            + outputs * self.registered_bits(self.rows_on, width) * self.energy_pj("register_bit", tech)
        )

    def base_energy_pj(self, action: str, tech: Technology) -> float:
        if action == "write_cell":
            return self.as_memory(tech).write_pj / self.columns * self.write_scale
        if action == "multiply_bit":
            return self.product_pj(tech, REFERENCE)
        if action == "add_bit":
            activity = PRODUCT_ACTIVITY if self.reduction == "adder_tree" else 1.0
            return energy_at(ADDER_8B_PJ, tech) / 8 * activity * self.adder_scale
        return energy_at(FLIP_FLOP_PJ, tech)

    def data_factor(self, action: str, tech: Technology, activity: Activity) -> float:
        """Adders switch as often as the products that they add are ones."""
        if action == "add_bit":
            return activity.joint_density / REFERENCE.joint_density
        return self.product_pj(tech, activity) / self.product_pj(tech, REFERENCE) if action == "multiply_bit" else 1.0

    def product_pj(self, tech: Technology, activity: Activity) -> float:
        """Energy of one product bit in pJ: its input line and gate, and the gate's output where both are ones."""
        femtofarad = activity.input_density * (LINE_FF + GATE_INPUT_FF) + activity.joint_density * GATE_FF
        return femtofarad * 1e-3 * tech.node_nm / GATE_NM * tech.supply_v**2

    def base_area_um2(self, tech: Technology) -> float:
        return self.cells_um2(self.cell_f2, tech) + self.logic_um2(tech)

    def base_leakage_uw(self, tech: Technology) -> float:
        return self.copies * self.as_memory(tech).leakage_uw + leakage_uw(self.logic_um2(tech), tech)

    def _full_adder_ps(self, tech: Technology) -> float:
        if self.adder_ps is None or self.adder_v is None:
            return adder_ps(tech)
        return self.adder_ps * delay_factor(Technology(tech.node_nm, self.adder_v), tech)

    def logic_um2(self, tech: Technology) -> float:
        """Multipliers, adders and registers of the array: placed by a tool in a tree, by hand in cells."""
        adder, flop = area_at(ADDER_8B_UM2, tech) / 8, area_at(FLIP_FLOP_UM2, tech)
        gate = GATE_UM2 * area_factor(GATE_NM, tech.node_nm)
        if self.reduction == "cell_adders":
            return self.num_cells * (gate + adder) + self.registers * self.columns * flop
        width = self.columns_per_output(self.weight_bits)
        multipliers = self.actions_per_access * gate
        adders = self.num_outputs_on * self.added_bits(self.rows_on, width) * adder
        registers = self.num_outputs_on * self.registered_bits(self.rows_on, width) * flop
        return (multipliers + adders + registers) * self.logic_factor
