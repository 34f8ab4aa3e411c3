"""Numbers through the array, the obvious way: plain integers, one conversion at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cimsim.functional import ArrayNumbers


class Widths(NamedTuple):
    """How wide the operands are, and the ADC step."""

    weight_bits: int
    input_bits: int
    input_signed: bool = False
    adc_step: int = 1


def naive_mvm(x, w, numbers: ArrayNumbers, *widths):
    """The twin of `array_mvm`, written from its definition."""
    out = np.zeros((len(x), w.shape[1]), np.int64)
    for n, vector in enumerate(x.tolist()):
        for o in range(w.shape[1]):
            for rows in row_groups(len(vector), numbers):
                inputs, weights = [vector[row] for row in rows], [int(w[row, o]) for row in rows]
                out[n, o] += group_dot(inputs, weights, numbers, Widths(*widths))
    return out


def row_groups(num_inputs, numbers: ArrayNumbers):
    """Rows read together."""
    for first in range(0, num_inputs, numbers.rows):
        rows = list(range(first, min(first + numbers.rows, num_inputs)))
        for start in range(0, len(rows), numbers.rows_on):
            yield rows[start : start + numbers.rows_on]


def group_dot(inputs, weights, numbers: ArrayNumbers, widths: Widths):
    """One output's share of one row group: every slice and step converted, shifted and added."""
    total, (weight_bits, input_bits, input_signed, adc_step) = 0, widths
    for digits, worth, offset in columns(weights, numbers, weight_bits):
        largest = (1 << numbers.cell_bits) - 1
        is_flipped = numbers.column_flip and 2 * sum(digits) > largest * len(digits)
        stored = [largest - digit for digit in digits] if is_flipped else digits
        for low in range(0, input_bits, numbers.dac_bits):
            levels = [(value >> low) & ((1 << numbers.dac_bits) - 1) for value in inputs]
            is_negative = input_signed and low + numbers.dac_bits >= input_bits
            code = (sum(a * b for a, b in zip(levels, stored, strict=True)) + adc_step // 2) // adc_step
            value = min(code, (1 << numbers.adc_bits) - 1) * adc_step
            if is_flipped:
                value = largest * sum(levels) - value
            total += (-1 if is_negative else 1) * (worth * value - offset * sum(levels)) << low
    return total


def columns(weights, numbers: ArrayNumbers, weight_bits):
    """Per physical column: its cells, the worth of a code, and the offset to take from the sum of inputs."""
    mask = (1 << numbers.cell_bits) - 1
    for low in range(0, weight_bits, numbers.cell_bits):
        if numbers.encoding == "offset":
            unsigned = [weight + (1 << (weight_bits - 1)) for weight in weights]
            offset = 1 << (weight_bits - 1) if low == 0 else 0
            yield [(value >> low) & mask for value in unsigned], 1 << low, offset
        elif numbers.encoding == "twos_complement":
            sign = -1 if low == weight_bits - 1 else 1
            yield [(weight >> low) & 1 for weight in weights], sign << low, 0
        else:
            yield [(max(weight, 0) >> low) & mask for weight in weights], 1 << low, 0
            yield [(max(-weight, 0) >> low) & mask for weight in weights], -1 << low, 0
