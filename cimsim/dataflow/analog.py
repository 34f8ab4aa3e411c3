"""Products in analogue arrays: reads, conversions, and how often cells and converters act."""

from __future__ import annotations

from collections import Counter
from math import ceil

from cimsim.chip import rates
from cimsim.chip.model import Chip
from cimsim.dataflow.around import count_around, stage_ticks_around
from cimsim.dataflow.place import Placement, Unmappable
from cimsim.records import Actions, ArrayJob
from workloads.format import WeightFormat
from workloads.layer import Layer


def array_job(layer: Layer, fmt: WeightFormat, placement: Placement, chip: Chip, activation_bits: int) -> ArrayJob:
    """The job of the busiest unit, in the busiest tile: all units of a layer run in lockstep on one position.

    Adders are taken to keep pace with the converters that feed them; they cost latency, not throughput. Input steps
    that differ in length (pulse counts, tapering converters) count as one read that is as long as all of them.
    Raises Unmappable if the arrays cannot be rewritten and the layer does not fit.
    """
    crossbar, pace = rates.crossbar(chip), placement.widest
    if placement.rounds > 1 and not crossbar.is_writable:
        raise Unmappable(
            f"{layer.name}: needs {placement.num_arrays} arrays at once, {chip.name} cannot rewrite its {crossbar.cell}"
        )
    rate, adcs = rates.converter_rate_hz(chip), rates.adcs_per_array(chip)
    steps = rates.input_steps(chip, fmt.input_bits(activation_bits))
    together = steps if len({(step.read_ps, step.convert_ticks) for step in steps}) > 1 else steps[:1]
    waiting = ceil(pace.columns / crossbar.joined_columns) * rates.arrays_per_adc(chip, placement.num_arrays)
    turn_ticks = sum(step.convert_ticks for step in together)
    stage = stage_ticks_around(layer, fmt, placement, chip, activation_bits, rate)
    read_ticks = rates.ticks(sum(step.read_ps for step in together), rate)
    conversions = waiting if turn_ticks == 1 else ceil(waiting / adcs) * adcs * turn_ticks
    if read_ticks == 0:  # the conversion is the read
        read_ticks, conversions = ceil(conversions / adcs), 0
    return ArrayJob(
        vectors=layer.num_positions,
        reads=len(steps) // len(together) * crossbar.phases * ceil(pace.rows / crossbar.rows_on),
        conversions=conversions,
        adcs=adcs,
        read_ticks=read_ticks,
        sample_hold=int(rates.frees_array(chip)),
        fetch_ticks=stage["fetch"],
        shift_add_ticks=stage["shift_add"],
        digital_ticks=stage["digital"],
        write_ticks=stage["write"],
    )


def compute_actions(layer: Layer, fmt: WeightFormat, placement: Placement, chip: Chip, activation_bits: int) -> Actions:
    """How often arrays and converters act for one image, and everything around them.

    Cells conduct for every pulse; where lines are only charged they act once per drive. Phases convert again, but
    each cell conducts in one of them.
    """
    crossbar, steps = rates.crossbar(chip), rates.input_steps(chip, fmt.input_bits(activation_bits))
    drives, pulses = (layer.num_positions * sum(getattr(s, name) for s in steps) for name in ("drives", "pulses"))
    count: Actions = Counter()
    for piece in placement.pieces:
        each = ceil(piece.columns / crossbar.joined_columns) * piece.count * ceil(piece.rows / crossbar.rows_on)
        each *= crossbar.phases
        cells = piece.rows * piece.columns * piece.count
        count["crossbar", "", "read_cell"] += cells * (pulses if crossbar.reading == "current" else drives)
        count["dac", "", "drive"] += drives * piece.rows * piece.count
        count["shift_add", "unit", "add"] += layer.num_positions * len(steps) * each
        _count_conversions(count, layer.num_positions * each, steps, chip)
    return count + count_around(layer, fmt, placement, chip, activation_bits)


def _count_conversions(count: Actions, values: int, steps: tuple[rates.InputStep, ...], chip: Chip) -> None:
    """Samples and conversions of `values` column values in each step."""
    sample_hold, adc = chip.part("sample_hold"), chip.part("adc")
    if sample_hold is not None and sample_hold.component.design == "integrator":
        count["sample_hold", "", "sample"] += values * sum(step.drives for step in steps)
        count["sample_hold", "", "integrate"] += values * sum(step.pulses for step in steps)
    else:
        count["sample_hold", "", "sample"] += values * len(steps)
    if adc is not None and adc.component.tapers:
        count["adc", "", "step"] += values * sum(adc.component.num_steps(step.converted_bits) for step in steps)
    else:
        count["adc", "", "convert"] += values * len(steps)
