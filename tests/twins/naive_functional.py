"""Numbers through the array, the obvious way: plain integers, one conversion at a time."""

from __future__ import annotations

from fractions import Fraction
from math import floor
from typing import NamedTuple

import numpy as np

from cimsim.arrays.encodings import ArrayNumbers, Widths


class Column(NamedTuple):
    """What meets in one conversion: a digit for every row, `worth` of its code, whether its sum has a sign."""

    digits: list[int]
    worth: int
    has_sign: bool = False


class Read(NamedTuple):
    """One step: a level for every row, `worth` of its code."""

    levels: list[int]
    worth: int
    bits: int
    taper: int = 0


def naive_mvm(x, w, numbers: ArrayNumbers, *widths):
    """The twin of `array_mvm`, written from its definition; halves, which only xnor knows, are cut off at the end."""
    widths = Widths(*widths)
    if is_shifted(numbers, widths):
        half = 1 << (widths.input_bits - 1)
        return naive_mvm(x + half, w, numbers, *widths._replace(input_signed=False)) - half * w.sum(axis=0)
    out = np.zeros((len(x), w.shape[1]), np.int64)
    for n, vector in enumerate(x.tolist()):
        for o in range(w.shape[1]):
            total = Fraction(0)
            for rows in row_groups(len(vector), numbers):
                inputs, weights = [vector[row] for row in rows], [int(w[row, o]) for row in rows]
                total += group_dot(inputs, weights, numbers, widths)
            out[n, o] = floor(total)
    return out


def is_shifted(numbers: ArrayNumbers, widths: Widths):
    """Whether signed inputs must be made unsigned: several bits a step, one sign, one phase."""
    first_bits = next(steps(widths.input_bits, numbers))[1]
    return widths.input_signed and first_bits > 1 and not numbers.bipolar and numbers.phases == 1


def row_groups(num_inputs, numbers: ArrayNumbers):
    """Rows read together."""
    for first in range(0, num_inputs, numbers.rows):
        rows = list(range(first, min(first + numbers.rows, num_inputs)))
        for start in range(0, len(rows), numbers.rows_on):
            yield rows[start : start + numbers.rows_on]


def group_dot(inputs, weights, numbers: ArrayNumbers, widths: Widths):
    """One output's share of one row group: every column and step converted, shifted and added."""
    offset = 1 << (widths.weight_bits - 1) if numbers.encoding in ("offset", "xnor") else 0
    total = Fraction(-offset * sum(inputs))
    for digits, worth, has_sign in columns(weights, numbers, widths.weight_bits):
        for levels, step_worth, bits, taper in reads(inputs, numbers, widths):
            coarser = numbers._replace(adc_bits=numbers.adc_bits - taper)
            total += worth * step_worth * column_dot(levels, digits, bits, has_sign, coarser, widths.adc_step << taper)
    return total


def column_dot(levels, digits, bits, has_sign, numbers: ArrayNumbers, adc_step):
    """Sum of level times digit, as one conversion tells it."""
    full = (1 << numbers.cell_bits * numbers.group_columns) - 1
    if numbers.encoding == "xnor":
        full_level = (1 << bits) - 1
        agree = sum(a * b + (full_level - a) * (full - b) for a, b in zip(levels, digits, strict=True))
        known = full * sum(levels) + full_level * sum(digits) - len(digits) * full * full_level
        return Fraction(convert(agree, has_sign, numbers, adc_step) + known, 2)
    is_flipped = numbers.column_flip and 2 * sum(digits) > full * len(digits)
    stored = [full - digit for digit in digits] if is_flipped else digits
    value = convert(sum(a * b for a, b in zip(levels, stored, strict=True)), has_sign, numbers, adc_step)
    return full * sum(levels) - value if is_flipped else value


def convert(column_sum, has_sign, numbers: ArrayNumbers, adc_step):
    """The ADC: whole steps, halves up, within its codes."""
    low, high = 0, (1 << numbers.adc_bits) - 1
    if has_sign or numbers.bipolar:
        low, high = -(1 << (numbers.adc_bits - 1)), (1 << (numbers.adc_bits - 1)) - 1
    return min(max((column_sum + adc_step // 2) // adc_step, low), high) * adc_step


def reads(inputs, numbers: ArrayNumbers, widths: Widths):
    """The steps of one vector, most significant bits first."""
    is_signed, bits = widths.input_signed, widths.input_bits
    if is_signed and numbers.phases > 1:
        for sign in (1, -1):
            for low, width in steps(bits, numbers):
                part = [max(sign * value, 0) for value in inputs]
                digits = [(value >> low) % (1 << width) for value in part]
                yield Read(digits, sign << low, width, taper(bits - low - width, numbers))
    elif is_signed and numbers.bipolar:
        for i, (low, width) in enumerate(steps(max(bits - 1, 1), numbers)):
            digits = [abs(value) >> low if i == 0 else (abs(value) >> low) % (1 << width) for value in inputs]
            signed = [-digit if value < 0 else digit for digit, value in zip(digits, inputs, strict=True)]
            yield Read(signed, 1 << low, width, taper(max(bits - 1, 1) - low - width, numbers))
    else:
        for i, (low, width) in enumerate(steps(bits, numbers)):
            digits = [(value >> low) % (1 << width) for value in inputs]
            worth = -(1 << low) if is_signed and i == 0 else 1 << low
            yield Read(digits, worth, width, taper(bits - low - width, numbers))


def taper(carried, numbers: ArrayNumbers):
    """Bits by which a step is converted more coarsely, of those that the steps before carried."""
    return min(carried, numbers.adc_bits - 1) if numbers.tapers else 0


def steps(bits, numbers: ArrayNumbers):
    """(lowest bit, bits) of each step."""
    number = 0
    while bits:
        number += 1
        width = bits if number == numbers.max_steps else min(numbers.dac_bits, bits)
        bits -= width
        yield bits, width


def columns(weights, numbers: ArrayNumbers, weight_bits):
    """What is converted apart: groups of slices, and pairs that are not subtracted before."""
    width = numbers.cell_bits * numbers.group_columns
    pairs_apart = numbers.phases == 4 or (numbers.pair_conversions == 2 and numbers.encoding == "differential")
    for low in range(0, weight_bits, width):
        mask = (1 << width) - 1
        magnitudes = [(abs(weight) >> low) & mask for weight in weights]
        if numbers.encoding in ("offset", "xnor"):
            yield Column([((weight + (1 << (weight_bits - 1))) >> low) & mask for weight in weights], 1 << low)
        elif numbers.encoding == "twos_complement":
            if low + width < weight_bits:
                yield Column([(weight >> low) & mask for weight in weights], 1 << low)
            elif width == 1:
                yield Column([(weight >> low) & 1 for weight in weights], -1 << low)
            else:
                yield Column([weight >> low for weight in weights], 1 << low, True)
        elif pairs_apart:
            for sign in (1, -1):
                part = [digit if sign * weight > 0 else 0 for digit, weight in zip(magnitudes, weights, strict=True)]
                yield Column(part, sign << low)
        else:
            signed = [-digit if weight < 0 else digit for digit, weight in zip(magnitudes, weights, strict=True)]
            yield Column(signed, 1 << low, True)
