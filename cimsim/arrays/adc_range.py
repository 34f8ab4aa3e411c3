"""What an ADC's codes span: everything a column can give, what columns did give, or a stated sum; as an integer step.

A converter of b bits has top = 2^b - 1 (2^(b-1) - 1 where sums have a sign) codes above zero. It spans the largest
sum R with the step ceil(R / top), the smallest whose highest code is worth R or more; sums above are clipped.

Shapes: N vectors, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from math import ceil
from typing import Literal, NamedTuple

import numpy as np

from cimsim.arrays.encodings import (
    MAX_SUM,
    ArrayNumbers,
    StoredWeights,
    Widths,
    code_range,
    input_shift,
    input_steps,
    levels,
    max_column_sum,
    row_groups,
    store,
)
from cimsim.arrays.mvm import calibrate_adc_step, check_operands

MODES = ("least_error", "max", "percentile", "fixed")


class AdcRange(NamedTuple):
    """How the range is chosen, from training inputs or without them.

    least_error  the step with the least squared error of the outputs
    max          the largest sum that rows and cells can give
    percentile   the smallest sum that `value` percent of all magnitudes do not exceed
    fixed        a sum of `value`
    """

    mode: Literal["least_error", "max", "percentile", "fixed"] = "least_error"
    value: Fraction = Fraction(0)


LEAST_ERROR, FULL_RANGE = AdcRange(), AdcRange("max")


def percentile(percent: str | int | Fraction) -> AdcRange:
    """The range that clips at most the rest; 100 clips nothing of the sample. Raises ValueError outside 0 to 100."""
    if not 0 < Fraction(percent) <= 100:
        raise ValueError(f"percentile = {percent}: must be > 0 and <= 100")
    return AdcRange("percentile", Fraction(percent))


def fixed(largest_sum: str | int | Fraction) -> AdcRange:
    """A range that neither weights nor inputs decide. Raises ValueError unless it is above zero."""
    if not Fraction(largest_sum) > 0:
        raise ValueError(f"fixed = {largest_sum}: must be > 0")
    return AdcRange("fixed", Fraction(largest_sum))


def adc_step(chosen: AdcRange, x_sample: np.ndarray, w: np.ndarray, numbers: ArrayNumbers, widths: Widths) -> int:
    """The ADC's step for weights w [I, O] and sampled inputs [N, I]; widths: weight bits, input bits, signed inputs.

    Raises ValueError as `array_mvm`.
    """
    check_operands(x_sample, w, numbers, widths)
    if chosen.mode == "least_error":
        return calibrate_adc_step(x_sample, w, numbers, widths)
    stored = store(w, numbers, widths.weight_bits)
    if chosen.mode == "percentile":
        counts = sum_counts(x_sample, stored, numbers, widths)
        rank = ceil(chosen.value / 100 * int(counts.sum()))
        largest = Fraction(int(np.searchsorted(np.cumsum(counts), rank)))
    else:
        largest = chosen.value if chosen.mode == "fixed" else Fraction(max_column_sum(numbers, widths.input_bits))
    top = max(code_range(numbers, bool(stored.has_sign.any()))[1], 1)
    return min(max(ceil(largest / top), 1), MAX_SUM)


def sum_counts(x: np.ndarray, stored: StoredWeights, numbers: ArrayNumbers, widths: Widths) -> np.ndarray:
    """How often conversions meet sums of each magnitude, for inputs x [N, I]: int64 [largest magnitude + 1]."""
    found = np.zeros(1, np.int64)
    for sums in column_sums(x, stored, numbers, widths):
        counts = np.bincount(np.abs(sums).ravel(), minlength=len(found))
        counts[: len(found)] += found
        found = counts
    return found


def column_sums(x: np.ndarray, stored: StoredWeights, numbers: ArrayNumbers, widths: Widths) -> Iterator[np.ndarray]:
    """What columns give before conversion, row group by row group and step by step: int64 [N, planes * O], of inputs
    x [N, I]."""
    digits = stored.digits.astype(np.float32)  # products are below MAX_SUM: float32 has them exactly
    shift = input_shift(numbers, widths.input_bits, widths.input_signed)
    largest, steps = numbers.largest_digit, input_steps(numbers, widths.input_bits, widths.input_signed and not shift)
    x = x.astype(np.int32) + shift
    for start, stop in zip(*row_groups(x.shape[1], numbers), strict=True):
        held = digits[:, start:stop].swapaxes(0, 1).reshape(stop - start, -1)
        for step in steps:
            driven = levels(x[:, start:stop], step, step is steps[0]).astype(np.float32)
            sums = driven @ held
            if numbers.encoding == "xnor":
                top = (1 << step.bits) - 1
                sums = 2 * sums - largest * driven.sum(axis=1, keepdims=True)
                sums += top * (largest * len(held) - held.sum(axis=0))
            yield sums.astype(np.int64)
