"""Integers through arrays of real cells: sums are floats, every conversion has noise, codes are as `cimsim.functional`.

The path of `array_mvm` with conductances in place of digits; with ideal cells it returns the same integers. Drawn from
(seed, place): cells once, noise in blocks of BLOCK vectors, so that neither batches nor workers change a byte.

Shapes: N vectors, I inputs, O outputs, G row groups, P planes, M cells of one digit; C = P * O columns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from cimsim.encodings import ArrayNumbers, StoredWeights, code_range, input_steps, levels, row_groups, store
from cimsim.exact import array_mvm_exact, group_sums
from cimsim.functional import check_operands
from cimsim.nonideal import Nonidealities
from cimsim.packed import corrections

BLOCK = 256  # vectors whose noise is drawn together
CELLS, NOISE = 0, 1  # what a generator is for


class Widths(NamedTuple):
    """Bits of the operands, and the ADC step."""

    weight_bits: int
    input_bits: int
    input_signed: bool = False
    adc_step: int = 1


class Origin(NamedTuple):
    """Where randomness comes from: `place` tells apart what shares a seed (layers, groups of a convolution)."""

    seed: int
    place: tuple[int, ...] = ()

    def generator(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(*self.place, *purpose)))


class ProgrammedArrays:
    """Weights w [I, O], written once into cells that differ from them; `read` may be called often.

    Raises ValueError as `array_mvm`. Read noise is of amplitudes: a level counts its cell's noise as often as itself.
    """

    def __init__(self, w: np.ndarray, numbers: ArrayNumbers, widths: Widths, cells: Nonidealities, origin: Origin):
        check_operands(np.zeros((0, len(w)), np.int8), w, numbers, widths[:3])
        stored = store(w, numbers, widths.weight_bits)
        self.numbers, self.widths, self.origin = numbers, widths, origin
        self.steps = input_steps(numbers, widths.input_bits, widths.input_signed)
        self.groups = row_groups(len(w), numbers)
        self.linear, self.constant = corrections(stored, self.steps, numbers)
        self.digits, noises = _write(stored, numbers, cells, origin.generator(CELLS))
        ranges = np.array([code_range(numbers, bool(sign)) for sign in stored.has_sign], np.float32)
        self.planes = ranges, noises.astype(np.float32)
        self.worths = stored.weights * (1 - 2 * stored.flips.swapaxes(1, 2).astype(np.int64))  # [G, O, P]
        self.worths = np.ascontiguousarray(self.worths.swapaxes(1, 2)) * widths.adc_step
        self.is_noisy = bool(noises.any())

    def read(self, x: np.ndarray, first: int = 0) -> np.ndarray:
        """What the arrays return for inputs x [N, I], the first of which is vector `first` of its stream: int64 [N, O].

        Raises ValueError as `array_mvm`.
        """
        check_operands(x, np.zeros((self.groups[1][-1], 1), np.int8), self.numbers, self.widths[:3])
        out = np.tile(self.constant, (len(x), 1))
        if self.linear.any():
            out += array_mvm_exact(group_sums(x, self.groups), self.linear)
        start = 0
        while start < len(x):
            block, skipped = divmod(first + start, BLOCK)
            stop = min(len(x), start + BLOCK - skipped)
            self._read_block(x[start:stop], out[start:stop], (block, skipped))
            start = stop
        return out >> 1 if self.numbers.encoding == "xnor" else out

    def _read_block(self, x: np.ndarray, out: np.ndarray, place: tuple[int, int]) -> None:
        """Adds what one block's conversions return; the noise of vectors before it in the block is drawn, not used."""
        block, skipped = place
        rng = self.origin.generator(NOISE, block)
        nothing = np.zeros((0, 0), np.float32)
        for group, (start, stop) in enumerate(zip(*self.groups, strict=True)):
            for step in self.steps:
                driven = levels(x[:, start:stop], step, step is self.steps[0]).astype(np.float32)
                if self.numbers.encoding == "xnor":
                    driven = np.concatenate([driven, (1 << step.bits) - 1 - driven], axis=1)
                sums, noise = driven @ self.digits[group], nothing
                if self.is_noisy:
                    noise = rng.standard_normal((BLOCK, sums.shape[1]), np.float32)[skipped : skipped + len(x)]
                lengths = np.sqrt(np.square(driven).sum(axis=1))
                worths = self.worths[group] * step.weight
                convert(sums, (noise, lengths), self.planes, (worths, np.float32(self.widths.adc_step)), out)


def _write(
    stored: StoredWeights, numbers: ArrayNumbers, cells: Nonidealities, rng: np.random.Generator
) -> tuple[list[np.ndarray], np.ndarray]:
    """Digits of each row group as columns hold them, float32 [R, C] (R twice the rows with xnor: a cell's two devices),
    and the noise [P] of a row driven with one level."""
    num_planes, joined, num_inputs, num_outputs = stored.cells.shape
    largest = (1 << numbers.cell_bits) - 1
    devices = [stored.cells, largest - stored.cells] if numbers.encoding == "xnor" else [stored.cells]
    levels_of, gain = cells.written(np.stack(devices, axis=3).astype(np.float64), largest, rng)
    groups = []
    for start, stop in zip(*row_groups(num_inputs, numbers), strict=True):
        below = -(-stop // numbers.rows) * numbers.rows - stop if cells.wires else 0
        part = levels_of[:, :, start:stop]  # [P, M, R, D, O]
        by_array = np.moveaxis(part, (2, 4), (0, 1)).reshape(stop - start, num_outputs, -1)
        per_array = max(1, numbers.columns // by_array.shape[2]) if numbers.columns else num_outputs
        for output in range(0, num_outputs, per_array):
            piece = by_array[:, output : output + per_array]
            piece[:] = cells.behind_wires(piece.reshape(len(piece), -1), below).reshape(piece.shape)
        shape = stop - start, num_outputs, num_planes, joined, len(devices)
        found = cells.as_levels(by_array.reshape(shape) * gain, largest)
        digits = np.einsum("ropmd,pm->drpo", found, stored.cell_weights)
        digits = digits * stored.signs[:, start:stop].swapaxes(0, 1) if stored.signs.shape[1] > 1 else digits
        groups.append(np.ascontiguousarray(digits.reshape(-1, num_planes * num_outputs), dtype=np.float32))
    noise = cells.read_noise_fraction / (1 - cells.off_fraction) * largest * gain
    return groups, noise * np.sqrt(np.square(stored.cell_weights.astype(np.float64)).sum(axis=1))


def _convert(sums, noise, planes, worths, out):
    """Adds to out [N, O] the codes of sums [N, C] times their worth [P, O]; halves of a step are rounded up.

    noise: Gaussian [N, C] (or empty: none) and length [N] of each vector's levels; planes: range [P, 2] of codes and
    noise [P] of a row at level one; worths: also the step.
    """
    (gaussian, lengths), (ranges, noises), (worth, step) = noise, planes, worths
    num_outputs = out.shape[1]
    is_noisy = gaussian.size > 0
    for n in range(out.shape[0]):
        for p in range(worth.shape[0]):
            low, high, sigma = ranges[p, 0], ranges[p, 1], noises[p] * lengths[n]
            first = p * num_outputs
            for o in range(num_outputs):
                total = sums[n, first + o]
                if is_noisy:
                    total += sigma * gaussian[n, first + o]
                code = np.floor(total / step + np.float32(0.5))
                out[n, o] += worth[p, o] * np.int64(min(max(code, low), high))


convert = njit(cache=True)(_convert)
