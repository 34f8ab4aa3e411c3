"""Numbers through the array: what comes back when integers pass bit slices, row groups and ADCs, bit-exact.

What cells and steps are is told in `cimsim.arrays.encodings`; here every conversion is counted, clipped, shifted
and added.

Shapes: N vectors, I inputs, O outputs, G row groups, P planes (what is converted apart).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from math import isqrt

import numpy as np

from cimsim.arrays.encodings import (
    ENCODINGS,
    MAX_SUM,
    ArrayNumbers,
    Widths,
    check,
    code_range,
    cut,
    input_shift,
    input_steps,
    lossless_adc_bits,
    max_column_sum,
    store,
)
from cimsim.arrays.exact import array_mvm_exact
from cimsim.arrays.packed import PackedArrays

__all__ = [
    "ENCODINGS",
    "ArrayNumbers",
    "array_mvm",
    "array_mvm_exact",
    "calibrate_adc_step",
    "lossless_adc_bits",
    "max_column_sum",
    "slice_weights",
]
BATCH, MORE = 512, 1 << 24  # vectors per pass, or as many as make so many products: bits and codes stay in cache


def array_mvm(
    x: np.ndarray, w: np.ndarray, numbers: ArrayNumbers, widths: Widths, *, shortcut: bool = True, threads: int = 1
) -> np.ndarray:
    """What the arrays return for integers x [N, I] and signed integers w [I, O]: int64 [N, O].

    Each read gives adc_step * ((sum + adc_step // 2) // adc_step), clipped to 0 .. 2**adc_bits - 1 steps, or to
    -2**(adc_bits - 1) .. 2**(adc_bits - 1) - 1 where sums have a sign. Half a unit, which xnor may leave, is cut off.
    With `shortcut` a lossless ADC is not simulated, for the product is then exact. Threads share the vectors and change
    nothing. Raises ValueError if a number does not fit.
    """
    check_operands(x, w, numbers, widths)
    weight_bits, input_bits, input_signed, adc_step = widths
    if not 1 <= adc_step <= MAX_SUM:
        raise ValueError(f"adc_step = {adc_step}: must be 1 to {MAX_SUM}")
    # bipolar drivers give the most negative input one level more than others
    is_fine = adc_step == 1 and not numbers.tapers
    if shortcut and is_fine and numbers.adc_bits >= lossless_adc_bits(numbers, input_bits) + numbers.bipolar:
        return array_mvm_exact(x, w)
    shift = input_shift(numbers, input_bits, input_signed)
    steps = input_steps(numbers, input_bits, input_signed and not shift)
    arrays = PackedArrays(store(w, numbers, weight_bits), numbers, steps, adc_step)
    constant = shift * w.sum(axis=0, dtype=np.int64)
    out = np.empty((x.shape[0], w.shape[1]), np.int64)
    batch = max(BATCH, min(8 * BATCH, MORE // w.size))

    def run(first: int) -> None:
        part = x[first : first + batch]
        out[first : first + batch] = arrays.run(part.astype(np.int32) + shift if shift else part) - constant

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, range(0, x.shape[0], batch)))
    return out


def slice_weights(w: np.ndarray, numbers: ArrayNumbers, weight_bits: int) -> np.ndarray:
    """The cells of w [I, O] as they sit in the array, flips included: uint8 [slices, I, O], least significant
    slice first; [slices, I, O, 2] (positive, negative) if differential. Raises ValueError as `array_mvm`.

    Every encoding has ceil(weight_bits / cell_bits) slices, in whole groups of columns, so that differential and
    sign-magnitude cells hold -2**(bits-1) too.
    """
    check(numbers, weight_bits, 1)
    check_range("w", w, weight_bits, True)
    if numbers.encoding == "differential":
        return np.stack(list(cut(w, numbers, weight_bits)), axis=-1)
    return store(w, numbers._replace(phases=1), weight_bits).cells.reshape(-1, *w.shape)


def calibrate_adc_step(x_sample: np.ndarray, w: np.ndarray, numbers: ArrayNumbers, widths: Widths) -> int:
    """The step (>= 1) with the least squared output error on x_sample [N, I]; 1 if the ADC is lossless.

    Steps up to the first that never clips are tried: all of them if at most 32, else coarse, then fine.
    """
    last = -(-max_column_sum(numbers, widths.input_bits) // max(code_range(numbers, numbers.is_signed)[1], 1))
    if last == 1:
        return 1
    exact = array_mvm_exact(x_sample, w)

    def error(step: int) -> tuple[float, int]:
        got = array_mvm(x_sample, w, numbers, widths._replace(adc_step=step))
        return float(np.square((got - exact).astype(np.float64)).sum()), step

    stride = 1 if last <= 32 else isqrt(last)
    best = min(error(step) for step in range(1, last + 1, stride))
    near = range(max(best[1] - stride + 1, 1), min(best[1] + stride, last + 1))
    return min([best, *(error(step) for step in near if stride > 1)])[1]


def check_operands(x: np.ndarray, w: np.ndarray, numbers: ArrayNumbers, widths: Widths) -> None:
    """Raises ValueError unless x [N, I] and w [I, O] fit each other and their widths, and these the array."""
    weight_bits, input_bits, input_signed, _ = widths
    check(numbers, weight_bits, input_bits)
    check_range("x", x, input_bits, input_signed)
    check_range("w", w, weight_bits, True)
    if x.shape[1] != w.shape[0] or not w.size:
        raise ValueError(f"x {x.shape}, w {w.shape}: must be [N, I] and [I, O], with I and O >= 1")


def check_range(name: str, values: np.ndarray, bits: int, is_signed: bool) -> None:
    """Raises ValueError unless a matrix holds integers of so many bits."""
    if values.dtype.kind not in "iu" or values.ndim != 2:
        raise ValueError(f"{name}: must be a matrix of integers, not {values.ndim}-d {values.dtype}")
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if is_signed else (0, (1 << bits) - 1)
    if values.size and (int(values.min()) < low or int(values.max()) > high):
        raise ValueError(f"{name} = {values.min()} to {values.max()}: must be {low} to {high} ({bits} bits)")
