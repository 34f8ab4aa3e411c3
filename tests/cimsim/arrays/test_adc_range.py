"""What an ADC spans: steps from their definition, sums from the plain twin, clipping where it is allowed."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimsim.arrays.adc_range import FULL_RANGE, LEAST_ERROR, adc_step, column_sums, fixed, percentile
from cimsim.arrays.encodings import ENCODINGS, ArrayNumbers, Widths, code_range, max_column_sum, store
from cimsim.arrays.mvm import array_mvm, calibrate_adc_step
from cimsim.integer.forward import calibrate_adc
from tests.cimsim.arrays.test_functional import cases, operands
from tests.helpers.integer_network import IMAGES, artifact_of
from tests.twins.naive_functional import columns, is_shifted, reads, row_groups

PLAIN = ArrayNumbers(64, 64, 1, 1, 4, "offset")


def naive_sums(x, w, numbers, widths):
    """Every column sum, one by one."""
    found = []
    if is_shifted(numbers, Widths(*widths)):
        x, widths = x + (1 << (widths[1] - 1)), (*widths[:2], False)
    full = (1 << numbers.cell_bits * numbers.group_columns) - 1
    for vector in x.tolist():
        for rows in row_groups(len(vector), numbers):
            for levels, _, bits, _ in reads([vector[row] for row in rows], numbers, Widths(*widths)):
                for o in range(w.shape[1]):
                    for digits, _, _ in columns([int(w[row, o]) for row in rows], numbers, widths[0]):
                        pairs = list(zip(levels, digits, strict=True))
                        top = (1 << bits) - 1
                        is_flipped = numbers.column_flip and 2 * sum(digits) > full * len(digits)
                        if numbers.encoding == "xnor":
                            found.append(sum(a * b + (top - a) * (full - b) for a, b in pairs))
                        else:
                            found.append(sum(a * (full - b if is_flipped else b) for a, b in pairs))
    return sorted(found)


@given(cases(3, 40, 4))
@settings(max_examples=80)
def test_sums_are_those_of_the_twin(case):
    numbers, x, w, *widths = case
    found = [array.ravel() for array in column_sums(x, store(w, numbers, widths[0]), numbers, Widths(*widths))]
    assert sorted(np.concatenate(found).tolist()) == naive_sums(x, w, numbers, widths)


@given(cases(4, 40, 5))
@settings(max_examples=80)
def test_the_full_range_never_clips(case):
    """The highest code is worth the largest sum or more, and with one step less it would not be."""
    numbers, x, w, *widths = case
    numbers = numbers._replace(adc_bits=max(numbers.adc_bits - 2, 2))
    step = adc_step(FULL_RANGE, x, w, numbers, Widths(*widths))
    stored = store(w, numbers, widths[0])
    top = code_range(numbers, bool(stored.has_sign.any()))[1]
    assert step * top >= max_column_sum(numbers, widths[1]) > (step - 1) * top
    wide = numbers._replace(adc_bits=30)
    extra = numbers.bipolar  # its most negative input has one level more than the range counts
    if not extra:
        assert np.array_equal(
            array_mvm(x, w, numbers, Widths(*widths, step)), array_mvm(x, w, wide, Widths(*widths, step))
        )


@given(st.integers(1, 100), st.integers(0, 1 << 30), st.sampled_from(ENCODINGS))
@settings(max_examples=50)
def test_a_percentile_is_a_rank_of_the_sums(percent, seed, encoding):
    numbers = PLAIN._replace(encoding=encoding, rows_on=16)
    x, w = operands(np.random.default_rng(seed), (5, 40, 3), 4, 3)
    magnitudes = sorted(map(abs, naive_sums(x, w, numbers, Widths(4, 3, False))))
    largest = magnitudes[ceil(Fraction(percent * len(magnitudes), 100)) - 1]
    top = code_range(numbers, numbers.is_signed)[1]
    assert adc_step(percentile(percent), x, w, numbers, Widths(4, 3, False)) == max(1, ceil(Fraction(largest, top)))


def test_a_fixed_range_is_what_it_says():
    x, w = operands(np.random.default_rng(0), (5, 64, 3), 4, 3)
    steps = [
        adc_step(fixed(value), x, w, PLAIN, Widths(4, 3, False))
        for value in (1, 15, 16, 30, "30.5", Fraction(63, 2), 64)
    ]
    assert steps == [1, 1, 2, 2, 3, 3, 5]
    signed = PLAIN._replace(encoding="sign_magnitude")
    assert adc_step(fixed(16), x, w, signed, Widths(4, 3, False)) == 3  # codes -8 to 7


def test_narrower_ranges_have_finer_steps_and_clip_more():
    rng = np.random.default_rng(0)
    x, w = operands(rng, (60, 256, 8), 6, 6)
    x *= rng.random(x.shape) < rng.random((60, 1))  # vectors of every density
    numbers = ArrayNumbers(256, 256, 1, 1, 5, "offset")
    choices = [FULL_RANGE, percentile(100), percentile("99.9"), percentile(90), percentile(50)]
    steps = [adc_step(choice, x, w, numbers, Widths(6, 6, False)) for choice in choices]
    assert all(wide >= narrow for wide, narrow in pairwise(steps)) and steps[0] == 9 and steps[-1] < steps[1]
    errors = [np.square(array_mvm(x, w, numbers, Widths(6, 6, adc_step=step)) - x @ w).sum() for step in steps]
    least = adc_step(LEAST_ERROR, x, w, numbers, Widths(6, 6, False))
    assert least == calibrate_adc_step(x, w, numbers, Widths(6, 6))
    assert np.square(array_mvm(x, w, numbers, Widths(6, 6, adc_step=least)) - x @ w).sum() <= min(errors)
    assert errors[0] > errors[2] and errors[-1] > errors[2]  # the ends of the trade


@pytest.mark.parametrize("make", [lambda: percentile(0), lambda: percentile(101), lambda: fixed(0), lambda: fixed(-3)])
def test_ranges_that_cannot_be_are_refused(make):
    with pytest.raises(ValueError, match="must be > 0"):
        make()


def test_a_network_takes_its_steps_from_the_range():
    """Steps of one layer's groups are one, the largest; nothing but the steps changes."""
    artifact, numbers = artifact_of(("linear-8",)), PLAIN._replace(adc_bits=5)
    full = calibrate_adc(artifact, IMAGES, numbers, FULL_RANGE)
    narrow = calibrate_adc(artifact, IMAGES, numbers, fixed(33))
    steps = [{choice.adc_step for choice in found.plan.layers.values()} for found in (full, narrow)]
    assert steps == [{ceil(64 / 31)}, {2}]
    best = calibrate_adc(artifact, IMAGES, numbers)
    assert best.plan == calibrate_adc(artifact, IMAGES, numbers, LEAST_ERROR).plan
