"""Products in analogue arrays: reads, conversions, and how often cells and converters act."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import ceil

from cimsim.chip import rates
from cimsim.chip.parts import Analog
from cimsim.dataflow.around import count_around, stage_ticks_around
from cimsim.dataflow.case import Case
from cimsim.dataflow.place import Placement, Unmappable
from cimsim.records import Actions, ArrayJob


def array_job(case: Case, placement: Placement) -> ArrayJob:
    """The job of the busiest unit, in the busiest tile: all units of a layer run in lockstep on one position.

    Adders are taken to keep pace with the converters that feed them; they cost latency, not throughput. Input steps
    that differ in length (pulse counts, tapering converters) count as one read that is as long as all of them.
    Raises Unmappable if the arrays cannot be rewritten and the layer does not fit.
    """
    chip, pace = case.chip, placement.widest
    crossbar, hold = chip.parts.analog.crossbar, chip.parts.analog.sample_hold
    if placement.rounds > 1 and not crossbar.is_writable:
        raise Unmappable(
            f"{case.layer.name}: needs {placement.num_arrays} arrays at once, {chip.name} cannot rewrite its "
            f"{crossbar.cell}"
        )
    rate, adcs = rates.converter_rate_hz(chip), rates.adcs_per_array(chip)
    steps = rates.input_steps(chip, case.input_bits)
    together = steps if len({(step.read_ps, step.convert_ticks) for step in steps}) > 1 else steps[:1]
    waiting = ceil(pace.columns / crossbar.joined_columns) * rates.arrays_per_adc(chip, placement.num_arrays)
    turn_ticks = sum(step.convert_ticks for step in together)
    read_ticks = rates.ticks(sum(step.read_ps for step in together), rate)
    conversions = waiting if turn_ticks == 1 else ceil(waiting / adcs) * adcs * turn_ticks
    if read_ticks == 0:  # the conversion is the read
        read_ticks, conversions = ceil(conversions / adcs), 0
    return ArrayJob(
        vectors=case.layer.num_positions,
        reads=len(steps) // len(together) * crossbar.phases * ceil(pace.rows / crossbar.rows_on),
        conversions=conversions,
        adcs=adcs,
        read_ticks=read_ticks,
        sample_hold=int(hold is not None and hold.frees_array),
        **stage_ticks_around(case, placement, rate)._asdict(),
    )


def compute_actions(case: Case, placement: Placement) -> Actions:
    """How often arrays and converters act for one image, and everything around them.

    Cells conduct for every pulse; where lines are only charged they act once per drive. Phases convert again, but
    each cell conducts in one of them.
    """
    analog, positions = case.chip.parts.analog, case.layer.num_positions
    crossbar, steps = analog.crossbar, rates.input_steps(case.chip, case.input_bits)
    drives, pulses = (positions * sum(getattr(step, name) for step in steps) for name in ("drives", "pulses"))
    count: Actions = Counter()
    for piece in placement.pieces:
        each = ceil(piece.columns / crossbar.joined_columns) * piece.count * ceil(piece.rows / crossbar.rows_on)
        each *= crossbar.phases
        cells = piece.rows * piece.columns * piece.count
        count["crossbar", "", "read_cell"] += cells * (pulses if crossbar.reading == "current" else drives)
        count["dac", "", "drive"] += drives * piece.rows * piece.count
        count["shift_add", "unit", "add"] += positions * len(steps) * each
        _count_conversions(count, positions * each, steps, analog)
    return count + count_around(case, placement)


def _count_conversions(count: Actions, values: int, steps: Sequence[rates.InputStep], analog: Analog) -> None:
    """Samples and conversions of `values` column values in each step."""
    if analog.sample_hold is not None and analog.sample_hold.design == "integrator":
        count["sample_hold", "", "sample"] += values * sum(step.drives for step in steps)
        count["sample_hold", "", "integrate"] += values * sum(step.pulses for step in steps)
    else:
        count["sample_hold", "", "sample"] += values * len(steps)
    if analog.adc.tapers:
        count["adc", "", "step"] += values * sum(analog.adc.num_steps(step.converted_bits) for step in steps)
    else:
        count["adc", "", "convert"] += values * len(steps)
