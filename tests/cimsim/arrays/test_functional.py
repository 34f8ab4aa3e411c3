"""Numbers through the array: equal to the product where nothing is lost, equal to the twin everywhere."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimsim.arrays import bitplanes
from cimsim.arrays.encodings import (
    ENCODINGS,
    ArrayNumbers,
    Widths,
    input_steps,
    levels,
    lossless_adc_bits,
    max_column_sum,
    step_bits,
)
from cimsim.arrays.exact import array_mvm_exact
from cimsim.arrays.mvm import array_mvm, calibrate_adc_step, slice_weights
from cimsim.chip.numbers import array_numbers
from cimsim.chip.reading import chip_names, load_chip
from cimsim.components.dac import Dac
from tests.twins.naive_functional import naive_mvm

ISAAC = ArrayNumbers(128, 128, cell_bits=2, dac_bits=1, adc_bits=8, encoding="offset", column_flip=True)


@st.composite
def cases(draw, max_vectors=20, max_size=150, max_outputs=70):
    """Numbers, operands, widths and signedness; the ADC is lossless."""
    encoding = draw(st.sampled_from(ENCODINGS))
    rows, cell_bits = draw(st.integers(1, 80)), draw(st.sampled_from([1, 2, 3, 4, 8]))
    numbers = ArrayNumbers(
        rows,
        draw(st.integers(1, rows)),
        1 if encoding in ("twos_complement", "xnor") else cell_bits,
        draw(st.sampled_from([1, 1, 2, 3, 4, 5, 8])),
        1,
        encoding,
        group_columns=draw(st.sampled_from([1, 1, 2, 3])),
        pair_conversions=draw(st.sampled_from([1, 2])),
        phases=1 if encoding == "xnor" else draw(st.sampled_from([1, 1, 2, 4])),
        max_steps=draw(st.sampled_from([0, 0, 2])),
    )
    bipolar = encoding != "xnor" and draw(st.booleans())
    numbers = numbers._replace(
        bipolar=bipolar, column_flip=encoding == "offset" and not bipolar and draw(st.booleans())
    )
    weight_bits, input_bits = draw(st.integers(1, 8)), draw(st.sampled_from([1, 3, 7, 8, 11]))
    if max_column_sum(numbers, input_bits) >= 1 << 21:
        numbers = numbers._replace(group_columns=1, cell_bits=1, max_steps=0)
    numbers = numbers._replace(adc_bits=lossless_adc_bits(numbers, input_bits) + bipolar)
    is_signed = draw(st.booleans())
    shape = draw(st.integers(0, max_vectors)), draw(st.integers(1, max_size)), draw(st.integers(1, max_outputs))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    return numbers, *operands(rng, shape, weight_bits, input_bits, is_signed), weight_bits, input_bits, is_signed


def operands(rng, shape, weight_bits, input_bits, is_signed=False):
    """Random x [N, I] and w [I, O] over their whole ranges."""
    low, high = (-(1 << (input_bits - 1)), 1 << (input_bits - 1)) if is_signed else (0, 1 << input_bits)
    x = rng.integers(low, high, shape[:2])
    return x, rng.integers(-(1 << (weight_bits - 1)), 1 << (weight_bits - 1), shape[1:])


@given(cases())
@settings(max_examples=150)
def test_a_lossless_adc_gives_the_exact_product(case):
    numbers, x, w, *widths = case
    assert np.array_equal(array_mvm(x, w, numbers, Widths(*widths), shortcut=False), x @ w)
    assert np.array_equal(array_mvm(x, w, numbers, Widths(*widths)), x @ w)


@given(cases(3, 40, 5), st.integers(0, 4), st.integers(1, 9), st.booleans())
@settings(max_examples=500)
def test_equals_the_naive_twin_with_lossy_adcs(case, bits_less, adc_step, tapers):
    numbers, x, w, *widths = case
    numbers, widths = (
        numbers._replace(adc_bits=max(numbers.adc_bits - bits_less, 1), tapers=tapers),
        [*widths, adc_step],
    )
    assert np.array_equal(array_mvm(x, w, numbers, Widths(*widths)), naive_mvm(x, w, numbers, *widths))


@given(st.integers(1, 16), st.integers(1, 8), st.sampled_from([None, 1, 2, 3]), st.booleans())
def test_steps_are_those_of_the_driver(input_bits, dac_bits, max_steps, is_bipolar):
    """The same cut of an input in time and in numbers; what the steps drive, shifted and added, is the input."""
    numbers = ISAAC._replace(dac_bits=dac_bits, max_steps=max_steps or 0, bipolar=is_bipolar, phases=1)
    driver = Dac(bits=dac_bits, max_steps=max_steps, bipolar=is_bipolar)
    steps = input_steps(numbers, input_bits, is_bipolar)
    assert tuple(step.bits for step in steps) == driver.step_bits(input_bits)
    x = np.arange(-(1 << (input_bits - 1)), 1 << (input_bits - 1)) if is_bipolar else np.arange(1 << input_bits)
    assert np.array_equal(sum(step.weight * levels(x, step, step is steps[0]) for step in steps), x)
    assert step_bits(numbers, input_bits)[0] == min(dac_bits, input_bits) or max_steps == 1


@pytest.mark.parametrize("lane", [np.int16, np.int32])
@pytest.mark.parametrize("is_xnor", [False, True])
@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("step", [1, 2, 5])
def test_vector_code_equals_its_definition(lane, is_xnor, is_signed, step):
    """`count_bits` and `convert` say in Python what the compiled loops do."""
    rng = np.random.default_rng(step)
    bits = rng.integers(0, 1 << 15, (2, 3, bitplanes.LANES)).astype(lane)
    halves = rng.integers(0, 1 << 16, (24, 3)).astype(np.uint32)
    words = halves * np.uint32(0x10001) if lane is np.int16 else halves << np.uint32(9)
    rows, factors = (np.array([4, 2, 1, -2, -1, 1], lane), np.array([3, 5, 6])), np.array([8, -4, 1], np.int32)
    reading = bitplanes.reading_of(rows, factors, np.array([0, 2, 1], lane), step, (is_xnor, is_signed))
    low, high = np.full(bitplanes.LANES, -40, lane), np.arange(bitplanes.LANES).astype(lane) * 4
    columns = bitplanes.Columns(
        bits[None, None], low, high, rng.choice([-1, 1], (1, 32)).astype(np.int32), np.array([3])
    )
    counts, codes = np.zeros((48, bitplanes.LANES), lane), np.zeros((8, bitplanes.LANES), np.int64)
    inputs = np.concatenate([words, words[::-1]]).reshape(1, 8, 6, 3)
    out, slow = np.zeros((8, 32), np.int64), np.zeros((8, 32), np.int64)
    bitplanes.read_columns(columns, inputs, reading, (counts, codes), out)
    bitplanes.read_columns.py_func(columns, inputs, reading, (counts, codes), slow)
    assert np.array_equal(out, slow) and out.any()


@pytest.mark.parametrize("encoding", ["offset", "differential"])
@pytest.mark.parametrize("dac_bits", [1, 4, 8])
def test_full_cells_and_inputs_reach_the_largest_column_sum_exactly(encoding, dac_bits):
    numbers = ArrayNumbers(300, 300, 4, dac_bits, 30, encoding)
    x, w = np.full((3, 300), 255), np.full((300, 2), 127)
    assert np.array_equal(array_mvm(x, w, numbers, Widths(8, 8), shortcut=False), x @ w)


def test_more_rows_than_a_byte_counts_and_sixteen_bits():
    rng = np.random.default_rng(0)
    numbers = ArrayNumbers(1024, 600, 1, 1, 10, "twos_complement")
    x, w = operands(rng, (4, 2500, 70), 16, 16, True)
    assert np.array_equal(array_mvm(x, w, numbers, Widths(16, 16, True), shortcut=False), x @ w)
    ones = np.full((2, 2500), -1), np.full((2500, 3), -1)
    assert np.array_equal(array_mvm(*ones, numbers, Widths(1, 1, True), shortcut=False), ones[0] @ ones[1])


def test_more_vectors_than_a_batch():
    x, w = operands(np.random.default_rng(0), (5000, 40, 3), 4, 4)
    for threads in (1, 3):
        assert np.array_equal(array_mvm(x, w, ISAAC, Widths(4, 4), shortcut=False, threads=threads), x @ w)


@pytest.mark.parametrize("name", chip_names())
@pytest.mark.parametrize("is_signed", [False, True])
def test_ready_chips_multiply(name, is_signed):
    """Through arrays, drivers and encoding of every ready chip, with a converter that is wide enough."""
    numbers = array_numbers(load_chip(name))
    x, w = operands(np.random.default_rng(0), (5, 300, 7), 4, 4, is_signed)
    numbers = numbers._replace(adc_bits=31, tapers=False)
    assert np.array_equal(array_mvm(x, w, numbers, Widths(4, 4, is_signed), shortcut=False), x @ w)


def test_isaac_needs_eight_bits_with_the_flip_and_nine_without():
    """A. Shafiee et al., ISCA 2016: 128 rows, 2-bit cells, 1-bit DAC."""
    assert lossless_adc_bits(ISAAC) == 8
    assert lossless_adc_bits(ISAAC._replace(column_flip=False)) == 9
    assert max_column_sum(ISAAC) == 192


@given(st.integers(1, 512), st.integers(1, 8), st.sampled_from([1, 2, 4, 8]))
def test_the_flip_saves_exactly_one_bit(rows, cell_bits, dac_bits):
    plain = ArrayNumbers(rows, rows, cell_bits, dac_bits, 8, "offset")
    saved = lossless_adc_bits(plain) - lossless_adc_bits(plain._replace(column_flip=True))
    assert saved == 1


def test_a_group_is_stored_as_it_is_or_complemented_whichever_holds_less():
    numbers = ISAAC._replace(rows_on=48)
    w = np.random.default_rng(0).integers(-128, 128, (300, 40))
    plain, flipped = (slice_weights(w, numbers._replace(column_flip=flip), 8) for flip in (False, True))
    for first, last in ((0, 48), (48, 96), (96, 128), (128, 176), (256, 300)):
        full, sums = 3 * (last - first), plain[:, first:last].sum(axis=1, dtype=int)
        assert np.array_equal(flipped[:, first:last].sum(axis=1, dtype=int), np.minimum(sums, full - sums))


def test_the_flip_saves_an_eight_bit_adc_where_full_weights_would_clip():
    x, w = np.full((2, 128), 1), np.full((128, 4), 127)
    assert np.array_equal(array_mvm(x, w, ISAAC, Widths(8, 1), shortcut=False), x @ w)
    assert not np.array_equal(array_mvm(x, w, ISAAC._replace(column_flip=False), Widths(8, 1)), x @ w)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("group_columns", [1, 3])
def test_cells_decode_to_the_weights(encoding, group_columns):
    cell_bits = 1 if encoding in ("twos_complement", "xnor") else 3
    numbers = ArrayNumbers(64, 64, cell_bits, 1, 8, encoding, group_columns=group_columns)
    w = np.arange(-128, 128).reshape(64, 4)
    cells = slice_weights(w, numbers, 8).astype(int)
    assert len(cells) == -(-8 // cell_bits // group_columns) * group_columns
    worth = (1 << (numbers.cell_bits * np.arange(len(cells)))).reshape(-1, *[1] * (cells.ndim - 1))
    if encoding == "twos_complement":
        worth[7] *= -1
    value = (cells * worth).sum(axis=0)
    value = value[..., 0] - value[..., 1] if encoding == "differential" else value
    assert np.array_equal(
        value - (128 if encoding in ("offset", "xnor") else 0), np.abs(w) if encoding == "sign_magnitude" else w
    )


def test_ones_that_agree():
    """Inputs and weights of +1 and -1 on an xnor array, as the odd numbers that two bits write: H. Jia et al., 2020."""
    numbers = ArrayNumbers(64, 64, 1, 1, 7, "xnor")
    signs = np.random.default_rng(0).choice([-1, 1], (70, 64))
    x, w = signs[:6], signs[6:].T
    assert np.array_equal(array_mvm(x, w, numbers, Widths(2, 2, True), shortcut=False), x @ w)


def test_a_ladder_is_one_conversion_where_slices_are_many():
    """Three bits in one code need a wider converter, and clip together."""
    plain = ArrayNumbers(16, 16, 1, 1, 5, "offset")
    joined = plain._replace(group_columns=3)
    assert (lossless_adc_bits(plain), lossless_adc_bits(joined)) == (5, 7)
    x, w = np.ones((1, 16), int), np.full((16, 1), 3)
    assert array_mvm(x, w, plain, Widths(3, 1), shortcut=False) == 48
    assert array_mvm(x, w, joined, Widths(3, 1), shortcut=False) == 31 - 4 * 16


def test_a_tapering_converter_keeps_its_range_and_loses_its_last_bits():
    """W. Wan et al., NeuRRAM, 2022: after three bits were carried, eight times the step and an eighth of the codes."""
    numbers = ArrayNumbers(16, 16, 4, 3, 11, "offset", tapers=True)
    steps = input_steps(numbers, 6, False)
    assert [(step.bits, step.low, step.taper) for step in steps] == [(3, 3, 0), (3, 0, 3)]
    x, w = operands(np.random.default_rng(0), (50, 16, 9), 4, 6)
    errors = array_mvm(x, w, numbers, Widths(4, 6)) - x @ w
    assert 0 < np.abs(errors).max() <= 4
    assert np.array_equal(array_mvm(x, w, numbers._replace(tapers=False), Widths(4, 6), shortcut=False), x @ w)


def test_pairs_that_are_subtracted_first_need_fewer_codes():
    """Sums that cancel in the column do not clip; converted apart they do."""
    apart = ArrayNumbers(64, 64, 1, 1, 4, "differential")
    x, w = np.ones((1, 64), int), np.where(np.arange(64) % 2, 1, -1)[:, None]
    w[:4] = 1
    assert array_mvm(x, w, apart._replace(pair_conversions=1), Widths(2, 1)) == 4
    assert array_mvm(x, w, apart, Widths(2, 1)) == 0


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_error_falls_with_adc_bits(encoding):
    x, w = operands(np.random.default_rng(1), (30, 256, 16), 6, 6)
    errors = []
    for adc_bits in range(3, 9):
        numbers = ArrayNumbers(128, 128, 1, 1, adc_bits, encoding)
        step = calibrate_adc_step(x, w, numbers, Widths(6, 6))
        errors.append(np.square(array_mvm(x, w, numbers, Widths(6, 6, adc_step=step)) - x @ w).sum())
    assert all(more >= less for more, less in pairwise(errors))
    assert errors[0] > 0
    assert errors[-1] == 0


@pytest.mark.parametrize("cell_bits", [1, 4])
def test_calibrated_step_is_the_best_and_beats_clipping(cell_bits):
    x, w = operands(np.random.default_rng(2), (20, 64, 8), 8, 4)
    numbers = ArrayNumbers(64, 64, cell_bits, 1, 4, "offset")
    step = calibrate_adc_step(x, w, numbers, Widths(8, 4))
    last = -(-max_column_sum(numbers) // 15)

    def error(step):
        return np.square(array_mvm(x, w, numbers, Widths(8, 4, adc_step=step)) - x @ w).sum()

    assert error(step) < 0.5 * error(1)
    if last <= 32:
        assert error(step) == min(error(other) for other in range(1, last + 1))
    else:
        assert error(step) <= 1.1 * min(error(other) for other in range(1, last + 1))


def test_calibration_of_a_lossless_adc_is_one():
    x, w = operands(np.random.default_rng(0), (4, 64, 8), 8, 4)
    assert calibrate_adc_step(x, w, ISAAC, Widths(8, 4)) == 1


@pytest.mark.parametrize(("x_type", "low"), [(np.uint8, 0), (np.int8, -128)])
def test_byte_operands_do_not_overflow(x_type, low):
    rng = np.random.default_rng(0)
    x = rng.integers(low, low + 256, (9, 500)).astype(x_type)
    w = rng.integers(-128, 128, (500, 7)).astype(np.int8)
    exact = x.astype(int) @ w.astype(int)
    assert np.array_equal(array_mvm_exact(x, w), exact)
    assert np.array_equal(array_mvm(x, w, ISAAC, Widths(8, 8, low < 0), shortcut=False), exact)


@pytest.mark.parametrize("bits", [3, 9, 14, 24, 31])
def test_exact_product_at_every_width(bits):
    rng = np.random.default_rng(bits)
    x, w = (rng.integers(-(1 << bits), 1 << bits, shape) for shape in ((5, 33), (33, 4)))
    assert np.array_equal(array_mvm_exact(x, w), x @ w)


def test_nothing_in_nothing_out():
    w = np.full((5, 1), -3)
    assert array_mvm(np.zeros((0, 5), int), w, ISAAC, Widths(4, 4), shortcut=False).shape == (0, 1)
    assert np.array_equal(array_mvm(np.zeros((2, 5), int), w, ISAAC, Widths(4, 4), shortcut=False), np.zeros((2, 1)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows_on": 129}, "rows_on = 129: must be 1 to rows = 128"),
        ({"dac_bits": 9}, "dac_bits = 9: must be 1 to 8"),
        ({"encoding": "ternary"}, "encoding = 'ternary': must be one of"),
        ({"encoding": "twos_complement"}, "needs cell_bits = 1; column_flip: needs encoding = 'offset'"),
        ({"rows": 1 << 20, "rows_on": 1 << 20, "cell_bits": 8}, "must be < 2097152"),
    ],
)
def test_wrong_numbers_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        array_mvm(np.zeros((1, 4), int), np.zeros((4, 1), int), ISAAC._replace(**change), Widths(4, 4))


@pytest.mark.parametrize(
    ("x", "w", "message"),
    [
        ([[16, 0]], [[0], [0]], r"x = 0 to 16: must be 0 to 15 \(4 bits\)"),
        ([[-1, 0]], [[0], [0]], "x = -1 to 0"),
        ([[1, 0]], [[8], [0]], r"w = 0 to 8: must be -8 to 7 \(4 bits\)"),
        ([[1, 0]], [[0.5], [0]], "matrix of integers"),
        ([[1, 0, 0]], [[1], [0]], r"must be \[N, I\] and \[I, O\]"),
    ],
)
def test_operands_that_do_not_fit_are_refused(x, w, message):
    with pytest.raises(ValueError, match=message):
        array_mvm(np.array(x), np.array(w), ISAAC, Widths(4, 4))
    with pytest.raises(ValueError, match="adc_step = 0"):
        array_mvm(np.array([[1]]), np.array([[1]]), ISAAC, Widths(4, 4, adc_step=0))
