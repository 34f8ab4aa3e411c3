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
from cimsim.dataflow.place import Placement, place
from cimsim.records import Actions, ArrayJob, EnergyPj
from cimsim.unit.mvm import count_mvm
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
    fmt = WeightFormat("macro", "linear", 1, point.weight_bits, point.weight_bits)
    layer = _full_layer(chip, fmt)
    placement, units = place(layer, fmt, chip), chip.num_tiles * chip.units_per_tile
    interval, latency, step = _times_ps(layer, fmt, placement, chip, point.input_bits)
    actions = _actions(layer, fmt, placement, chip, point.input_bits) + _blocks(chip, interval)
    inside = {part.name: part for part in chip.parts() if part.level_name == chip.unit.name}
    activity = Activity.of_means(point.input_density, point.weight_density)
    energy = {name: by for name, by in Prices(chip).price(actions, activity).items() if name in inside}
    return Macro(
        layer.num_macs * units,
        layer.num_outputs * units,
        units,
        interval,
        latency,
        step,
        {name: {action: pj * units for action, pj in by.items()} for name, by in energy.items()},
        {name: part.per_level * part.component.area_um2(chip.technology) * units for name, part in inside.items()},
        sum(part.per_level * part.component.leakage_uw(chip.technology) * units for part in inside.values()),
    )


def _full_layer(chip: Chip, fmt: WeightFormat) -> Layer:
    """A matrix that fills one unit: all rows once, every array with outputs of its own."""
    cells = rates.cells(chip)
    outputs = cells.columns // cells.columns_per_output(fmt.array_bits) * chip.arrays_per_unit
    return Layer(name="macro", kind="linear", in_channels=cells.rows, out_channels=max(1, outputs))


def _actions(layer: Layer, fmt: WeightFormat, placement: Placement, chip: Chip, input_bits: int) -> Actions:
    count = digital.actions if isinstance(chip.array, DigitalArray) else compute_actions
    return count(layer, fmt, placement, chip, input_bits)


def _blocks(chip: Chip, interval_ps: float) -> Actions:
    """All arrays of one unit work for one interval."""
    spent = round(interval_ps) * chip.arrays_per_unit
    return Actions({("block", part.name, "array_ps"): spent for part in chip.parts() if part.component.kind == "block"})


def _times_ps(
    layer: Layer, fmt: WeightFormat, placement: Placement, chip: Chip, input_bits: int
) -> tuple[float, float, float]:
    """Between two vectors, of one, and of one step of an input."""
    is_digital, adder = isinstance(chip.array, DigitalArray), chip.part("shift_add", "unit")
    rate_hz = rates.array_rate_hz(chip) if is_digital else rates.converter_rate_hz(chip)
    tick_ps = rates.PS_PER_S / rate_hz
    job = (digital.steps_job if is_digital else array_job)(layer, fmt, placement, chip, input_bits)
    joined_ps = adder.component.add_ps(chip.technology) if adder and not is_digital else 0.0
    fill = job.shift_add_ticks - rates.ticks(rates.pipeline_ps(chip)["shift_add"], rate_hz) if is_digital else 0
    alone = job._replace(vectors=MEASURED_VECTORS, fetch_ticks=0, shift_add_ticks=fill, digital_ticks=0, write_ticks=0)
    interval = count_mvm(alone).interval * tick_ps
    latency = count_mvm(alone._replace(vectors=1)).first_result * tick_ps + joined_ps
    return interval, latency, job.read_ticks * tick_ps + joined_ps + _converting_ps(job, tick_ps)


def _converting_ps(job: ArrayJob, tick_ps: float) -> float:
    """Of the values of one read that are converted after it."""
    return ceil(job.conversions / job.adcs) * tick_ps
