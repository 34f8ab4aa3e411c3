"""Numbers through the array: what comes back when integers pass bit slices, row groups and ADCs, bit-exact.

A matrix of I rows is cut into arrays of `rows`, these into groups of `rows_on`; every group, input step and
column is one conversion. Column flip and the unit column that undoes the offset follow A. Shafiee et al.,
"ISAAC", ISCA 2016. Flips are chosen per row group: with rows_on = rows this is ISAAC's flip per column, and
with fewer rows on the worst sum is still half. Both columns of a differential pair are converted, then subtracted.

Shapes: N vectors, I inputs, O outputs, G row groups, P planes (slices, twice as many if differential).
"""

from __future__ import annotations

from math import isqrt
from typing import NamedTuple

import numpy as np

from cimsim import bitplanes

ENCODINGS = ("offset", "twos_complement", "differential")
MAX_SUM = 1 << 21  # with sums and steps up to this, the float32 division of the ADC rounds as integers do
BATCH = 2048  # vectors per pass: their codes (1 MB) stay in cache, and the tables are built for many


class ArrayNumbers(NamedTuple):
    """What decides the numbers an array returns; `rows_on` rows are read together by one ADC per column."""

    rows: int
    rows_on: int
    cell_bits: int
    dac_bits: int
    adc_bits: int
    encoding: str
    column_flip: bool = False


class StoredWeights(NamedTuple):
    """A weight matrix as it sits in arrays.

    digits uint8 [P, I, O] are the cells; flips bool [G, P, O] marks complemented columns. A weight is the sum
    of weights[p] (int64 [P]) times its digits (unflipped), less `offset`.
    """

    digits: np.ndarray
    flips: np.ndarray
    weights: np.ndarray
    offset: int


class Densities(NamedTuple):
    """How full the data are: mean input level of a step and mean cell level, both as parts of the largest."""

    input_ones_fraction: float
    cell_level_fraction: float


def max_column_sum(numbers: ArrayNumbers) -> int:
    """The largest sum one read can give: all inputs and cells full, or half of it with column_flip."""
    full = numbers.rows_on * ((1 << numbers.dac_bits) - 1) * ((1 << numbers.cell_bits) - 1)
    return full // 2 if numbers.column_flip else full


def lossless_adc_bits(numbers: ArrayNumbers) -> int:
    """Bits of an ADC that tells every possible column sum apart (one fewer with column_flip)."""
    return max_column_sum(numbers).bit_length()


def array_mvm_exact(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """x [N, I] times w [I, O] as int64 [N, O]; a float GEMM where every partial sum is an exact float."""
    largest = max((abs(int(v)) for v in (x.max(initial=0), x.min(initial=0))), default=0)
    bound = largest * int(np.abs(w.astype(np.int64)).sum(axis=0).max(initial=0))
    kind = np.float32 if bound < 1 << 24 else np.float64 if bound < 1 << 53 else np.int64
    return (x.astype(kind) @ w.astype(kind)).astype(np.int64)


def array_mvm(  # noqa: PLR0913  one call site per layer; a record would only rename the arguments
    x: np.ndarray,
    w: np.ndarray,
    numbers: ArrayNumbers,
    weight_bits: int,
    input_bits: int,
    input_signed: bool = False,
    adc_step: int = 1,
    *,
    shortcut: bool = True,
) -> np.ndarray:
    """What the arrays return for integers x [N, I] and signed integers w [I, O]: int64 [N, O].

    Each read gives adc_step * min((sum + adc_step // 2) // adc_step, 2**adc_bits - 1). With `shortcut` a
    lossless ADC is not simulated, for the product is then exact. Raises ValueError if a number does not fit.
    """
    _check(numbers, weight_bits, input_bits, input_signed)
    _check_range("x", x, input_bits, input_signed)
    _check_range("w", w, weight_bits, True)
    if x.shape[1] != w.shape[0] or not w.size:
        raise ValueError(f"x {x.shape}, w {w.shape}: must be [N, I] and [I, O], with I and O >= 1")
    if not 1 <= adc_step <= MAX_SUM:
        raise ValueError(f"adc_step = {adc_step}: must be 1 to {MAX_SUM}")
    if shortcut and adc_step == 1 and numbers.adc_bits >= lossless_adc_bits(numbers):
        return array_mvm_exact(x, w)
    arrays = _Arrays(_store(w, numbers, weight_bits), numbers, (input_bits, input_signed), adc_step)
    out = np.empty((x.shape[0], w.shape[1]), np.int64)
    for first in range(0, x.shape[0], BATCH):
        out[first : first + BATCH] = arrays.run(x[first : first + BATCH])
    return out


def slice_weights(w: np.ndarray, numbers: ArrayNumbers, weight_bits: int) -> np.ndarray:
    """The cells of w [I, O] as they sit in the array, flips included: uint8 [slices, I, O], least significant
    slice first; [slices, I, O, 2] (positive, negative) if differential. Raises ValueError as `array_mvm`.

    Every encoding has ceil(weight_bits / cell_bits) slices, so that differential cells hold -2**(bits-1) too.
    """
    _check(numbers, weight_bits, 1, False)
    _check_range("w", w, weight_bits, True)
    digits = _store(w, numbers, weight_bits).digits
    if numbers.encoding != "differential":
        return digits
    return np.stack(np.split(digits, 2), axis=-1)


def densities(x: np.ndarray, w: np.ndarray, numbers: ArrayNumbers, weight_bits: int, input_bits: int) -> Densities:
    """Mean levels of the input steps of x [N, I] (negative: two's complement) and of the cells of w."""
    counts = np.bincount((x.astype(np.int64) & ((1 << input_bits) - 1)).ravel(), minlength=1)
    values, largest = np.arange(counts.size), (1 << numbers.dac_bits) - 1
    steps = range(0, input_bits, numbers.dac_bits)
    levels = sum(int((counts * ((values >> shift) & largest)).sum()) for shift in steps)
    cells = slice_weights(w, numbers, weight_bits)
    return Densities(
        levels / (max(x.size, 1) * len(steps) * largest),
        float(cells.mean(dtype=np.float64)) / ((1 << numbers.cell_bits) - 1) if cells.size else 0.0,
    )


def calibrate_adc_step(
    x_sample: np.ndarray,
    w: np.ndarray,
    numbers: ArrayNumbers,
    weight_bits: int,
    input_bits: int,
    input_signed: bool = False,
) -> int:
    """The step (>= 1) with the least squared output error on x_sample [N, I]; 1 if the ADC is lossless.

    Steps up to the first that never clips are tried: all of them if at most 32, else coarse, then fine.
    """
    last = -(-max_column_sum(numbers) // ((1 << numbers.adc_bits) - 1))
    if last == 1:
        return 1
    exact = array_mvm_exact(x_sample, w)

    def error(step: int) -> tuple[float, int]:
        got = array_mvm(x_sample, w, numbers, weight_bits, input_bits, input_signed=input_signed, adc_step=step)
        return float(np.square((got - exact).astype(np.float64)).sum()), step

    stride = 1 if last <= 32 else isqrt(last)
    best = min(error(step) for step in range(1, last + 1, stride))
    near = range(max(best[1] - stride + 1, 1), min(best[1] + stride, last + 1))
    return min([best, *(error(step) for step in near if stride > 1)])[1]


class _Arrays:
    """A stored matrix laid out for the kernels: columns are (plane, output), padded to whole blocks."""

    def __init__(self, stored: StoredWeights, numbers: ArrayNumbers, inputs: tuple[int, bool], adc_step: int):
        num_planes, num_inputs, self.num_outputs = stored.digits.shape
        input_bits, is_signed = inputs
        self.dac_bits, self.num_steps = numbers.dac_bits, -(-input_bits // numbers.dac_bits)
        self.starts, self.stops = _row_groups(num_inputs, numbers)
        rows, used = 8 // numbers.dac_bits, num_planes * self.num_outputs
        self.num_picks = -(-int((self.stops - self.starts).max(initial=0)) // rows)
        num_groups, num_columns = len(self.starts), -(-used // bitplanes.LANES) * bitplanes.LANES
        cells = np.zeros((num_groups, self.num_picks * rows, num_columns), np.uint8)
        by_column = stored.digits.transpose(1, 0, 2).reshape(num_inputs, used)
        for group, (start, stop) in enumerate(zip(self.starts, self.stops, strict=True)):
            cells[group, : stop - start, :used] = by_column[start:stop]
        signs = np.ones((num_groups, num_columns), np.int8)
        signs[:, :used] -= 2 * stored.flips.reshape(num_groups, used).astype(np.int8)
        self.columns = bitplanes.Columns(cells, signs, stored.weights * adc_step)
        unflip = ((1 << numbers.cell_bits) - 1) * (stored.weights[:, None] * stored.flips).sum(axis=1)
        self.corrections = unflip - stored.offset
        top = min(1 << numbers.adc_bits, MAX_SUM) - 1
        self.reading = bitplanes.Reading.of(adc_step, top, 1 << numbers.dac_bits, is_signed)
        largest_cells = int(cells.sum(axis=1, dtype=np.int64).max(initial=0))
        largest_sum = largest_cells * ((1 << numbers.dac_bits) - 1)
        self.scratch = bitplanes.scratch_for(self.reading, largest_sum, self.num_picks, self.num_steps)

    def run(self, x: np.ndarray) -> np.ndarray:
        """x [N, I] in range -> int64 [N, O]."""
        out = np.zeros((len(x), self.num_outputs), np.int64)
        if self.corrections.any():
            of_group = (np.arange(x.shape[1])[:, None] >= self.starts) & (np.arange(x.shape[1])[:, None] < self.stops)
            out += array_mvm_exact(array_mvm_exact(x, of_group), self.corrections)
        bitplanes.read_columns(self.columns, self._picks(x), self.reading, self.scratch, out)
        return out

    def _picks(self, x: np.ndarray) -> np.ndarray:
        """The table rows that the bits of x [N, I] select: [G * N * S, K]."""
        rows, num_groups = 8 // self.dac_bits, len(self.starts)  # rows per byte, and steps per byte
        kind = np.min_scalar_type(max(len(self.scratch.table) - 1, 0))
        picks = np.empty((num_groups, len(x), self.num_steps, self.num_picks), kind)
        grouped = np.zeros((len(x), num_groups, self.num_picks * rows), x.dtype)
        for group, (start, stop) in enumerate(zip(self.starts, self.stops, strict=True)):
            grouped[:, group, : stop - start] = x[:, start:stop]
        words = np.zeros((len(x), num_groups, self.num_picks, 8), np.uint8)
        for byte, first_step in enumerate(range(0, self.num_steps, rows)):
            words[..., :rows] = (grouped >> (8 * byte)).astype(np.uint8).reshape(*words.shape[:3], rows)
            steps = picks[:, :, first_step : first_step + rows]
            bitplanes.pick_rows(words.view("<u8")[..., 0], self.dac_bits, steps)
        return picks.reshape(-1, self.num_picks)


def _store(w: np.ndarray, numbers: ArrayNumbers, weight_bits: int) -> StoredWeights:
    """Encodes w [I, O], which fits in weight_bits."""
    num_slices = -(-weight_bits // numbers.cell_bits)
    weights = 1 << (numbers.cell_bits * np.arange(num_slices, dtype=np.int64))
    wide, offset = w.astype(np.int64), 0
    if numbers.encoding == "offset":
        offset = 1 << (weight_bits - 1)
        digits = _digits(wide + offset, numbers.cell_bits, num_slices)
    elif numbers.encoding == "twos_complement":
        digits = _digits(wide & ((1 << weight_bits) - 1), 1, num_slices)
        weights[-1] *= -1
    else:
        parts = [_digits(np.maximum(part, 0), numbers.cell_bits, num_slices) for part in (wide, -wide)]
        digits, weights = np.concatenate(parts), np.concatenate([weights, -weights])
    starts, stops = _row_groups(w.shape[0], numbers)
    flips = np.zeros((len(starts), len(digits), w.shape[1]), bool)
    if numbers.column_flip:
        largest = (1 << numbers.cell_bits) - 1
        for group, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            part = digits[:, start:stop]
            flips[group] = 2 * part.sum(axis=1, dtype=np.int64) > largest * (stop - start)
            digits[:, start:stop] = np.where(flips[group][:, None], largest - part, part)
    return StoredWeights(digits, flips, weights, offset)


def _digits(values: np.ndarray, cell_bits: int, num_slices: int) -> np.ndarray:
    """Unsigned [I, O] -> uint8 [slices, I, O], least significant first."""
    shifts = cell_bits * np.arange(num_slices)[:, None, None]
    return ((values >> shifts) & ((1 << cell_bits) - 1)).astype(np.uint8)


def _row_groups(num_inputs: int, numbers: ArrayNumbers) -> tuple[np.ndarray, np.ndarray]:
    """First row and end of each group read together; no group crosses from one array to the next."""
    starts = [
        start
        for array in range(0, num_inputs, numbers.rows)
        for start in range(array, min(array + numbers.rows, num_inputs), numbers.rows_on)
    ]
    return np.array(starts, np.int64), np.array([*starts[1:], num_inputs][: len(starts)], np.int64)


def _check_range(name: str, values: np.ndarray, bits: int, is_signed: bool) -> None:
    if values.dtype.kind not in "iu" or values.ndim != 2:
        raise ValueError(f"{name}: must be a matrix of integers, not {values.ndim}-d {values.dtype}")
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if is_signed else (0, (1 << bits) - 1)
    if values.size and (int(values.min()) < low or int(values.max()) > high):
        raise ValueError(f"{name} = {values.min()} to {values.max()}: must be {low} to {high} ({bits} bits)")


def _check(numbers: ArrayNumbers, weight_bits: int, input_bits: int, is_signed: bool) -> None:
    """Raises one ValueError with everything that is wrong."""
    n = numbers
    bounds = {
        f"rows_on = {n.rows_on}: must be 1 to rows = {n.rows}": 1 <= n.rows_on <= n.rows,
        f"cell_bits = {n.cell_bits}: must be 1 to 8": 1 <= n.cell_bits <= 8,
        f"dac_bits = {n.dac_bits}: must be 1, 2, 4 or 8": n.dac_bits in (1, 2, 4, 8),
        f"adc_bits = {n.adc_bits}: must be >= 1": n.adc_bits >= 1,
        f"encoding = {n.encoding!r}: must be one of {ENCODINGS}": n.encoding in ENCODINGS,
        "twos_complement: needs cell_bits = 1": n.encoding != "twos_complement" or n.cell_bits == 1,
        "column_flip: needs encoding = 'offset'": not n.column_flip or n.encoding == "offset",
        f"weight_bits = {weight_bits}: must be 1 to 16": 1 <= weight_bits <= 16,
        f"input_bits = {input_bits}: must be 1 to 16": 1 <= input_bits <= 16,
        "signed inputs: need dac_bits = 1": not is_signed or n.dac_bits == 1,
    }
    problems = [text for text, is_fine in bounds.items() if not is_fine]
    if not problems and max_column_sum(n) >= MAX_SUM:
        problems = [f"column sums up to {max_column_sum(n)}: must be < {MAX_SUM} (fewer rows_on)"]
    if problems:
        raise ValueError("; ".join(problems))
