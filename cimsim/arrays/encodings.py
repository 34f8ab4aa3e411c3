"""How numbers become cells or input steps: what one conversion sees, whatever the encoding.

A matrix of I rows is cut into arrays of `rows`, these into groups of `rows_on`; every group, input step and column is
one conversion. A column's sum is sum over rows of level times digit; a digit is one cell, the cells that a capacitor
ladder joins, or a pair that is subtracted before its conversion.

  offset           w + 2^(bits - 1), undone by a unit column; columns may be flipped (A. Shafiee et al., "ISAAC",
                   ISCA 2016; per row group: with rows_on = rows this is ISAAC's flip per column)
  twos_complement  bits, of which the highest counts negative
  differential     a device for positive and one for negative weights: both are converted, or first subtracted
  sign_magnitude   digits of |w| whose cells conduct with the weight's sign, or in the phases of that sign
  xnor             bits of +1 and -1 that meet inputs of +1 and -1: a column counts agreements (H. Jia et al.,
                   JSSC 55(9), 2020); w = (W - 1) / 2 and x = (X - c) / 2 for the odd numbers W, X that such bits write

Shapes: N vectors, I inputs, O outputs, G row groups, P planes (what is converted apart), M cells of one digit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

MOST_INPUT_BITS = 20  # an 8-bit float that is aligned to its least number has 19
ENCODINGS = ("offset", "twos_complement", "differential", "sign_magnitude", "xnor")
MAX_SUM = 1 << 21  # with sums and steps up to this, the float32 division of the ADC rounds as integers do


class ArrayNumbers(NamedTuple):
    """What decides the numbers an array returns; `rows_on` rows are read together by one ADC per column.

    `group_columns`, `pair_conversions`, `phases`: as of the crossbar. `bipolar` drivers give either sign; an input
    takes `max_steps` steps at most (0: as many as its bits need). An ADC that `tapers` converts a step with as many
    bits fewer as the steps before carried, over the same range. `columns`: of one array (0: unlimited).
    """

    rows: int
    rows_on: int
    cell_bits: int
    dac_bits: int
    adc_bits: int
    encoding: str
    column_flip: bool = False
    group_columns: int = 1
    pair_conversions: int = 2
    phases: int = 1
    bipolar: bool = False
    max_steps: int = 0
    columns: int = 0
    tapers: bool = False

    @property
    def digit_bits(self) -> int:
        """Bits that one conversion weights together."""
        return self.cell_bits * self.group_columns

    @property
    def largest_digit(self) -> int:
        return (1 << self.digit_bits) - 1

    @property
    def has_pairs(self) -> bool:
        """Whether positive and negative weights are converted apart."""
        if self.encoding == "sign_magnitude":
            return self.phases == 4
        return self.encoding == "differential" and (self.pair_conversions == 2 or self.phases == 4)

    @property
    def is_signed(self) -> bool:
        """Whether every column's sum has a sign."""
        signed_digits = self.encoding in ("differential", "sign_magnitude") and not self.has_pairs
        return signed_digits or self.bipolar


class StoredWeights(NamedTuple):
    """A weight matrix as it sits in arrays.

    cells uint8 [P, M, I, O]; a digit [P, I, O] is the sum of `cell_weights` int64 [P, M] times its cells, times `signs`
    int8 [P, I, O] or [P, 1, 1]. flips bool [G, P, O] marks complemented columns. A weight is the sum of `weights`
    int64 [P] times its digits (unflipped), less `offset`. `has_sign` bool [P]: the sums of a plane may be negative.
    """

    cells: np.ndarray
    cell_weights: np.ndarray
    signs: np.ndarray
    flips: np.ndarray
    weights: np.ndarray
    offset: int
    has_sign: np.ndarray

    @property
    def digits(self) -> np.ndarray:
        """int32 [P, I, O]."""
        of_cell = self.cell_weights.T[:, :, None, None].astype(np.int32) * self.signs
        digits = of_cell[0] * self.cells[:, 0]
        for weight, cells in zip(of_cell[1:], self.cells.swapaxes(0, 1)[1:], strict=True):
            digits += weight * cells
        return digits


class Widths(NamedTuple):
    """Bits of the operands, and the ADC step."""

    weight_bits: int
    input_bits: int
    input_signed: bool = False
    adc_step: int = 1


class Step(NamedTuple):
    """One read of a row group: bits `low` to `low + bits` of `source`, whose code counts `weight`.

    source: "all" (the input's bits, two's complement if signed), "positive" or "negative" (magnitudes of inputs of
    that sign, else 0) or "both" (magnitudes with their sign). The highest step has all bits from `low` on. `taper`:
    bits by which its conversion is coarser than the first.
    """

    low: int
    bits: int
    source: str
    weight: int
    taper: int = 0


def step_bits(numbers: ArrayNumbers, input_bits: int) -> list[int]:
    """Bits of each step, most significant first: `dac_bits` each, the last takes the rest."""
    steps: list[int] = []
    while (left := input_bits - sum(steps)) > 0:
        is_last = len(steps) + 1 == numbers.max_steps
        steps.append(left if is_last else min(numbers.dac_bits, left))
    return steps


def input_steps(numbers: ArrayNumbers, input_bits: int, is_signed: bool) -> list[Step]:
    """All reads of one vector, most significant bits first; signed inputs in two phases: positive ones first."""
    in_phases = is_signed and numbers.phases > 1
    is_bipolar = is_signed and numbers.bipolar and not in_phases
    bits = step_bits(numbers, max(input_bits - 1, 1) if is_bipolar else input_bits)
    lows = [sum(bits[i + 1 :]) for i in range(len(bits))]
    tapers = [min(sum(bits[:i]), numbers.adc_bits - 1) if numbers.tapers else 0 for i in range(len(bits))]
    cuts = list(zip(lows, bits, tapers, strict=True))
    if in_phases:
        signs = (("positive", 1), ("negative", -1))
        return [Step(low, b, name, sign << low, taper) for name, sign in signs for low, b, taper in cuts]
    steps = [Step(low, b, "both" if is_bipolar else "all", 1 << low, taper) for low, b, taper in cuts]
    if is_signed and not is_bipolar:
        steps[0] = steps[0]._replace(weight=-steps[0].weight)
    return steps


def input_shift(numbers: ArrayNumbers, input_bits: int, is_signed: bool) -> int:
    """What is added to signed inputs that drivers can only give as unsigned ones (0: nothing): of several bits a step,
    of one sign, in one phase. The digital side takes the shift times the sum of the weights from the result."""
    can_do = numbers.phases > 1 or numbers.bipolar or step_bits(numbers, input_bits)[0] == 1
    return 1 << (input_bits - 1) if is_signed and not can_do else 0


def levels(x: np.ndarray, step: Step, is_highest: bool) -> np.ndarray:
    """What rows are driven with in a step, of inputs x (any shape). A bipolar driver gives the most negative input one
    level more than others, so that no input is lost."""
    wide = x.astype(np.int32, copy=False)
    mask = (1 << step.bits) - 1
    if step.source == "both":
        magnitude = np.abs(wide) >> step.low
        return np.sign(wide) * (magnitude if is_highest else magnitude & mask)
    part = {"all": wide, "positive": np.maximum(wide, 0), "negative": np.maximum(-wide, 0)}[step.source]
    return (part >> step.low) & mask


def store(w: np.ndarray, numbers: ArrayNumbers, weight_bits: int) -> StoredWeights:
    """Encodes w [I, O], which fits in weight_bits."""
    cells = cut(w, numbers, weight_bits)  # [D, S, I, O]
    devices, num_slices = cells.shape[:2]
    joined, num_groups = numbers.group_columns, num_slices // numbers.group_columns
    inner = 1 << (numbers.cell_bits * np.arange(joined, dtype=np.int64))
    cell_weights = np.tile(inner, (num_groups, 1))
    weights = 1 << (numbers.digit_bits * np.arange(num_groups, dtype=np.int64))
    has_sign = np.full(num_groups, numbers.is_signed)
    signs, offset = np.ones((num_groups, 1, 1), np.int8), 0
    planes = cells.reshape(devices, num_groups, joined, *w.shape)
    if numbers.encoding == "twos_complement":
        if joined == 1:
            weights[-1] *= -1
        else:
            cell_weights[-1, (weight_bits - 1) % joined] *= -1
            has_sign[-1] = True
    elif numbers.encoding in ("offset", "xnor"):
        offset = 1 << (weight_bits - 1)
    elif numbers.encoding == "sign_magnitude" and not numbers.has_pairs:
        signs = np.broadcast_to(np.where(w < 0, -1, 1).astype(np.int8), (num_groups, *w.shape))
    elif numbers.has_pairs:
        cell_weights, has_sign = np.tile(cell_weights, (2, 1)), np.tile(has_sign, 2)
        weights = np.concatenate([weights, -weights])
        signs = np.ones((2 * num_groups, 1, 1), np.int8)
        if numbers.encoding == "sign_magnitude":
            signs = np.repeat(np.stack([w >= 0, w < 0]), num_groups, 0).astype(np.int8)
    else:
        planes = np.concatenate([planes[0], planes[1]], axis=1)
        cell_weights = np.concatenate([cell_weights, -cell_weights], axis=1)
    planes = planes.reshape(-1, cell_weights.shape[1], *w.shape)
    flips = _flip(planes, cell_weights, numbers)
    return StoredWeights(planes, cell_weights, signs, flips, weights, offset, has_sign)


def cut(w: np.ndarray, numbers: ArrayNumbers, weight_bits: int) -> np.ndarray:
    """Cells of w [I, O], no column flipped: uint8 [devices, slices, I, O], least significant slice first; two devices
    (positive, negative) where weights of either sign have their own, in whole groups of columns."""
    num_slices = -(-weight_bits // numbers.cell_bits)
    num_slices += -num_slices % numbers.group_columns
    wide = w.astype(np.int64)
    if numbers.encoding in ("offset", "xnor"):
        parts = [wide + (1 << (weight_bits - 1))]
    elif numbers.encoding == "twos_complement":
        parts = [wide & ((1 << weight_bits) - 1)]
    elif numbers.encoding == "differential" or numbers.has_pairs:
        parts = [np.maximum(wide, 0), np.maximum(-wide, 0)]
    else:
        parts = [np.abs(wide)]
    shifts = numbers.cell_bits * np.arange(num_slices)[:, None, None]
    return np.stack([((part >> shifts) & ((1 << numbers.cell_bits) - 1)).astype(np.uint8) for part in parts])


def _flip(planes: np.ndarray, cell_weights: np.ndarray, numbers: ArrayNumbers) -> np.ndarray:
    """Complements in place, group by group, the columns [P, M, I, O] that hold more than half; which ones."""
    starts, stops = row_groups(planes.shape[2], numbers)
    flips = np.zeros((len(starts), len(planes), planes.shape[3]), bool)
    largest = (1 << numbers.cell_bits) - 1
    for group, (start, stop) in enumerate(zip(starts, stops, strict=True)) if numbers.column_flip else ():
        part = planes[:, :, start:stop]
        held = (part.sum(axis=2, dtype=np.int64) * cell_weights[:, :, None]).sum(axis=1)
        flips[group] = 2 * held > numbers.largest_digit * (stop - start)
        planes[:, :, start:stop] = np.where(flips[group][:, None, None], largest - part, part)
    return flips


def row_groups(num_inputs: int, numbers: ArrayNumbers) -> tuple[np.ndarray, np.ndarray]:
    """First row and end of each group read together; no group crosses from one array to the next."""
    starts = [
        start
        for array in range(0, num_inputs, numbers.rows)
        for start in range(array, min(array + numbers.rows, num_inputs), numbers.rows_on)
    ]
    return np.array(starts, np.int64), np.array([*starts[1:], num_inputs][: len(starts)], np.int64)


def max_column_sum(numbers: ArrayNumbers, input_bits: int = 0) -> int:
    """The largest sum one read can give: all inputs and cells full, or half of it with column_flip."""
    full = numbers.rows_on * largest_level(numbers, input_bits) * numbers.largest_digit
    return full // 2 if numbers.column_flip else full


def largest_level(numbers: ArrayNumbers, input_bits: int = 0) -> int:
    """The highest level of a step of `dac_bits`; where the last step takes the rest of so many bits, of that one."""
    return (1 << max(numbers.dac_bits, *step_bits(numbers, input_bits), 0)) - 1


def lossless_adc_bits(numbers: ArrayNumbers, input_bits: int = 0) -> int:
    """Bits of an ADC that tells every possible column sum apart (one fewer with column_flip, one more with a sign)."""
    unsigned = max_column_sum(numbers, input_bits).bit_length()
    if numbers.is_signed:
        return unsigned + 1
    if numbers.encoding == "twos_complement" and numbers.group_columns > 1:
        lowest = numbers.rows_on * largest_level(numbers, input_bits) << (numbers.group_columns - 1)
        return max(unsigned, (lowest - 1).bit_length() + 1)
    return unsigned


def code_range(numbers: ArrayNumbers, has_sign: bool) -> tuple[int, int]:
    """Lowest and highest code of a first step's conversion."""
    bits = numbers.adc_bits
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if has_sign else (0, (1 << bits) - 1)


def check(numbers: ArrayNumbers, weight_bits: int, input_bits: int) -> None:
    """Raises one ValueError with everything that is wrong."""
    problems = [text for text, is_fine in _bounds(numbers, weight_bits, input_bits) if not is_fine]
    largest = 0 if problems else max_column_sum(numbers, input_bits)
    if largest >= MAX_SUM:
        problems = [f"column sums up to {largest}: must be < {MAX_SUM} (fewer rows_on)"]
    if problems:
        raise ValueError("; ".join(problems))


def _bounds(n: ArrayNumbers, weight_bits: int, input_bits: int) -> Iterator[tuple[str, bool]]:
    """(what is wrong, whether it is right)."""
    is_one_bit = n.encoding in ("twos_complement", "xnor")
    yield f"rows_on = {n.rows_on}: must be 1 to rows = {n.rows}", 1 <= n.rows_on <= n.rows
    yield f"cell_bits = {n.cell_bits}: must be 1 to 8", 1 <= n.cell_bits <= 8
    yield f"dac_bits = {n.dac_bits}: must be 1 to 8", 1 <= n.dac_bits <= 8
    yield f"adc_bits = {n.adc_bits}: must be >= 1", n.adc_bits >= 1
    yield f"encoding = {n.encoding!r}: must be one of {ENCODINGS}", n.encoding in ENCODINGS
    yield f"{n.encoding}: needs cell_bits = 1", not is_one_bit or n.cell_bits == 1
    yield "column_flip: needs encoding = 'offset'", not n.column_flip or n.encoding == "offset"
    yield f"group_columns = {n.group_columns}: must be 1 to 16", 1 <= n.group_columns <= 16
    yield f"pair_conversions = {n.pair_conversions}: must be 1 or 2", n.pair_conversions in (1, 2)
    yield f"phases = {n.phases}: must be 1, 2 or 4", n.phases in (1, 2, 4)
    yield (
        "xnor: needs phases = 1 and drivers that are not bipolar",
        n.encoding != "xnor" or not (n.phases > 1 or n.bipolar),
    )
    yield "column_flip: needs drivers that are not bipolar", not (n.column_flip and n.bipolar)
    yield f"weight_bits = {weight_bits}: must be 1 to 16", 1 <= weight_bits <= 16
    yield f"input_bits = {input_bits}: must be 1 to {MOST_INPUT_BITS}", 1 <= input_bits <= MOST_INPUT_BITS
