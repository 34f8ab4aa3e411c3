"""What decides the numbers that a chip's arrays return."""

from __future__ import annotations

from cimsim.arrays.encodings import ArrayNumbers
from cimsim.chip.model import Chip
from cimsim.chip.rates import cells, crossbar, holds_weights
from cimsim.components.crossbar import Crossbar
from cimsim.components.dac import Dac

DIGITAL_BITS = 32  # of a sum that no converter cuts


def array_numbers(chip: Chip) -> ArrayNumbers:
    """What decides the numbers this chip's arrays return; digital arrays lose nothing."""
    if not isinstance(chip.array, Crossbar):
        rows_on = cells(chip).rows_on if holds_weights(chip) else chip.array.rows
        return ArrayNumbers(chip.array.rows, rows_on, 1, 1, DIGITAL_BITS, "twos_complement")
    part, adc, dac = crossbar(chip), chip.part("adc"), chip.part("dac")
    assert adc is not None, "load_chip refuses a chip without an ADC"
    drivers = dac.component if dac else Dac(bits=1)
    return ArrayNumbers(
        part.rows,
        part.rows_on,
        part.cell_bits,
        drivers.bits,
        adc.component.bits,
        part.encoding,
        part.column_flip,
        part.group_columns,
        1 if part.cell_type.devices == 2 else part.pair_conversions,  # a cell of two devices is subtracted in itself
        part.phases,
        drivers.bipolar,
        drivers.max_steps or 0,
        part.columns,
        adc.component.tapers,
    )
