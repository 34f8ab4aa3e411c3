"""Products in digital arrays: steps instead of conversions, adders instead of analogue sums, exact."""

from __future__ import annotations

from collections import Counter
from math import ceil

from cimsim.chip import rates
from cimsim.chip.model import Chip
from cimsim.components.digital_array import DigitalArray
from cimsim.dataflow.around import count_around, stage_ticks_around
from cimsim.dataflow.case import Case
from cimsim.dataflow.place import Piece, Placement
from cimsim.dataflow.work import Timing, mvm_timing
from cimsim.records import Actions, ArrayJob


def timing(case: Case, placement: Placement) -> Timing:
    """A tick is a step of the array, at its `peak_rate_hz`."""
    return mvm_timing(steps_job(case, placement), rates.array_rate_hz(case.chip))


def steps_job(case: Case, placement: Placement) -> ArrayJob:
    """The job of the busiest unit; its reads are steps, without conversions."""
    array = _array(case.chip)
    stage = stage_ticks_around(case, placement, rates.array_rate_hz(case.chip))
    filling = array.latency_steps - 1 if array.overlaps else 0
    return ArrayJob(
        vectors=case.layer.num_positions, reads=_steps(placement.widest, array, case.input_bits), conversions=0,
        adcs=1, read_ticks=1 if array.overlaps else array.latency_steps, sample_hold=1,
        **stage._replace(shift_add_ticks=stage.shift_add_ticks + filling)._asdict(),
    )  # fmt: skip


def actions(case: Case, placement: Placement) -> Actions:
    """Product bits, additions and registers of one image, and everything around the arrays."""
    array = _array(case.chip)
    steps = case.layer.num_positions * ceil(case.input_bits / array.step_bits)
    count: Actions = Counter()
    for piece in placement.pieces:
        columns = piece.columns // piece.outputs
        for rows in _row_groups(piece.rows, array.rows_on):
            outputs = steps * piece.outputs * piece.count
            count["digital_array", "", "multiply_bit"] += outputs * rows * array.product_bits(columns)
            count["digital_array", "", "add_bit"] += outputs * array.added_bits(rows, columns)
            count["digital_array", "", "register_bit"] += outputs * array.registered_bits(rows, columns)
        count["dac", "", "drive"] += steps * piece.rows * _turns(piece, array) * piece.count
    return count + count_around(case, placement)


def _array(chip: Chip) -> DigitalArray:
    assert isinstance(chip.array, DigitalArray), "asked for digital arrays only"
    return chip.array


def _steps(piece: Piece, array: DigitalArray, input_bits: int) -> int:
    """Steps of one vector: input digits x row groups x turns of outputs."""
    return ceil(input_bits / array.step_bits) * ceil(piece.rows / array.rows_on) * _turns(piece, array)


def _turns(piece: Piece, array: DigitalArray) -> int:
    return ceil(piece.outputs / array.num_outputs_on)


def _row_groups(rows: int, rows_on: int) -> list[int]:
    full, rest = divmod(rows, rows_on)
    return [rows_on] * full + [rest] * (rest > 0)
