"""One array unit at full use: the energy, time and area that papers print for a compute-in-memory macro.

The macro is the chip's innermost level, all its boxes at work: every row and every column of every array meets one
input vector. Parts of outer levels (buffers, buses, memory) are outside it, as they are in the papers' figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import NamedTuple

from pydantic import Field

from cimsim.chip import rates
from cimsim.chip.model import Chip
from cimsim.components.base import Activity
from cimsim.components.digital_array import DigitalArray
from cimsim.cost.prices import Prices
from cimsim.dataflow import digital
from cimsim.dataflow.analog import array_job, compute_actions
from cimsim.dataflow.case import Case
from cimsim.dataflow.place import Placement, place
from cimsim.records import Actions, ArrayJob, EnergyPj
from cimsim.unit.mvm import count_mvm
from workloads.activation import whole_number
from workloads.format import WeightFormat
from workloads.layer import Frozen, Layer

OPS_PER_MAC = 2
MEASURED_VECTORS = 3  # enough for a steady interval between the last two


class OperatingPoint(Frozen):
    """At what a paper measured: widths, and the data's densities (shares of ones; toggle rate, 1 - sparsity)."""

    input_bits: int = Field(default=8, ge=1, le=16)
    weight_bits: int = Field(default=8, ge=1, le=16)
    input_density: float = Field(default=0.5, ge=0, le=1)
    weight_density: float = Field(default=0.5, ge=0, le=1)


class Macro(NamedTuple):
    """All boxes of the innermost level together, for one vector each. Times in ps; energies without leakage."""

    macs: int
    outputs: int
    units: int
    interval_ps: float
    latency_ps: float
    step_ps: float  # of one input step
    energy_pj: EnergyPj
    area_um2: Mapping[str, float]  # by part
    leakage_uw: float

    @property
    def ops(self) -> int:
        return OPS_PER_MAC * self.macs

    @property
    def total_pj(self) -> float:
        """Dynamic energy and what leaks in the time of one vector."""
        return sum(sum(actions.values()) for actions in self.energy_pj.values()) + self.leakage_pj

    @property
    def leakage_pj(self) -> float:
        return self.leakage_uw * self.interval_ps * 1e-6

    @property
    def total_um2(self) -> float:
        return sum(self.area_um2.values())


def measure(chip: Chip, point: OperatingPoint) -> Macro:
    """What the chip's arrays take for one full vector at `point`. Raises Unmappable if the weights are too wide."""
    case = _full_case(chip, point)
    placement, units = place(case), chip.num_tiles * chip.units_per_tile
    times = _times_ps(case, placement)
    actions = _actions(case, placement) + _blocks(chip, times.interval_ps)
    inside = {part.name: part for part in chip.placed if part.level_name == chip.unit.name}
    activity = Activity.of_means(point.input_density, point.weight_density)
    energy = {name: by for name, by in Prices(chip).price(actions, activity).items() if name in inside}
    return Macro(
        macs=case.layer.num_macs * units,
        outputs=case.layer.num_outputs * units,
        units=units,
        interval_ps=times.interval_ps,
        latency_ps=times.latency_ps,
        step_ps=times.step_ps,
        energy_pj={name: {action: pj * units for action, pj in by.items()} for name, by in energy.items()},
        area_um2={
            name: part.per_level * part.component.area_um2(chip.technology) * units for name, part in inside.items()
        },
        leakage_uw=sum(part.per_level * part.component.leakage_uw(chip.technology) * units for part in inside.values()),
    )


def _full_case(chip: Chip, point: OperatingPoint) -> Case:
    """A matrix that fills one unit: all rows once, every array with outputs of its own."""
    fmt, cells = WeightFormat("macro", "linear", 1, point.weight_bits, point.weight_bits), chip.parts.cells
    outputs = cells.columns // cells.columns_per_output(fmt.array_bits) * chip.arrays_per_unit
    layer = Layer(name="macro", kind="linear", in_channels=cells.rows, out_channels=max(1, outputs))
    return Case(layer, fmt, chip, whole_number(point.input_bits))


def _actions(case: Case, placement: Placement) -> Actions:
    count = digital.actions if isinstance(case.chip.array, DigitalArray) else compute_actions
    return count(case, placement)


def _blocks(chip: Chip, interval_ps: float) -> Actions:
    """All arrays of one unit work for one interval."""
    spent = round(interval_ps) * chip.arrays_per_unit
    return Actions({("block", name, "array_ps"): spent for name in chip.parts.blocks})


class _Times(NamedTuple):
    """Between two vectors, of one, and of one step of an input."""

    interval_ps: float
    latency_ps: float
    step_ps: float


def _times_ps(case: Case, placement: Placement) -> _Times:
    chip, adder = case.chip, case.chip.parts.unit_adder
    is_digital = isinstance(chip.array, DigitalArray)
    rate_hz = rates.array_rate_hz(chip) if is_digital else rates.converter_rate_hz(chip)
    tick_ps = rates.PS_PER_S / rate_hz
    job = (digital.steps_job if is_digital else array_job)(case, placement)
    joined_ps = adder.add_ps(chip.technology) if adder and not is_digital else 0.0
    fill = job.shift_add_ticks - rates.ticks(rates.pipeline_ps(chip)["shift_add"], rate_hz) if is_digital else 0
    alone = job._replace(vectors=MEASURED_VECTORS, fetch_ticks=0, shift_add_ticks=fill, digital_ticks=0, write_ticks=0)
    interval = count_mvm(alone).interval * tick_ps
    latency = count_mvm(alone._replace(vectors=1)).first_result * tick_ps + joined_ps
    return _Times(interval, latency, job.read_ticks * tick_ps + joined_ps + _converting_ps(job, tick_ps))


def _converting_ps(job: ArrayJob, tick_ps: float) -> float:
    """Of the values of one read that are converted after it."""
    return ceil(job.conversions / job.adcs) * tick_ps
