"""What decides the numbers that a chip's arrays return."""

from __future__ import annotations

from cimsim.arrays.encodings import ArrayNumbers
from cimsim.chip.model import Chip
from cimsim.chip.rates import holds_weights

DIGITAL_BITS = 32  # of a sum that no converter cuts


def array_numbers(chip: Chip) -> ArrayNumbers:
    """What decides the numbers this chip's arrays return; digital arrays lose nothing."""
    if chip.parts.crossbars is None:
        rows_on = chip.parts.cells.rows_on if holds_weights(chip) else chip.array.rows
        return ArrayNumbers(chip.array.rows, rows_on, 1, 1, DIGITAL_BITS, "twos_complement")
    crossbar, adc, _, dac, _ = chip.parts.analog
    is_pair = crossbar.cell_type.devices == 2  # a cell of two devices is subtracted in itself
    return ArrayNumbers(
        rows=crossbar.rows, rows_on=crossbar.rows_on, cell_bits=crossbar.cell_bits, dac_bits=dac.bits,
        adc_bits=adc.bits, encoding=crossbar.encoding, column_flip=crossbar.column_flip,
        group_columns=crossbar.group_columns, pair_conversions=1 if is_pair else crossbar.pair_conversions,
        phases=crossbar.phases, bipolar=dac.bipolar, max_steps=dac.max_steps or 0, columns=crossbar.columns,
        tapers=adc.tapers,
    )  # fmt: skip
