"""Integers through arrays of real cells: sums are floats, every conversion has noise, codes are as `cimsim.arrays.mvm`.

The path of `array_mvm` with conductances in place of digits; with ideal cells it returns the same integers. Drawn from
(seed, place): cells once, noise by vector and read (`cimsim.arrays.noise`), so that neither batches nor workers change
a byte.

Shapes: N vectors, I inputs, O outputs, G row groups, P planes, M cells of one digit; C = P * O columns.
"""

from __future__ import annotations

from math import ceil, log2
from typing import NamedTuple

import numpy as np

from cimsim.arrays import noise
from cimsim.arrays.encodings import (
    ArrayNumbers,
    StoredWeights,
    Widths,
    code_range,
    input_shift,
    input_steps,
    levels,
    row_groups,
    store,
)
from cimsim.arrays.exact import array_mvm_exact, group_sums
from cimsim.arrays.mvm import check_operands
from cimsim.arrays.nonideal import Nonidealities
from cimsim.arrays.packed import corrections

BATCH = 512  # vectors per pass: their sums stay in cache
CELLS, NOISE = 0, 1  # what is drawn
GRID = 256  # conductances that a cell is told apart by, at least


class Origin(NamedTuple):
    """Where randomness comes from: `place` tells apart what shares a seed (layers, groups of a convolution)."""

    seed: int
    place: tuple[int, ...] = ()

    def sequence(self, purpose: int) -> np.random.SeedSequence:
        return np.random.SeedSequence(self.seed, spawn_key=(*self.place, purpose))


class ProgrammedArrays:
    """Weights w [I, O], written once into cells that differ from them; `read` may be called often.

    Raises ValueError as `array_mvm`. Read noise is of amplitudes: a level counts its cell's noise as often as itself.
    """

    def __init__(self, w: np.ndarray, numbers: ArrayNumbers, widths: Widths, cells: Nonidealities, origin: Origin):
        check_operands(np.zeros((0, len(w)), np.int8), w, numbers, widths)
        stored = store(w, numbers, widths.weight_bits)
        self.numbers, self.widths = numbers, widths
        self.shift = input_shift(numbers, widths.input_bits, widths.input_signed)
        self.steps = input_steps(numbers, widths.input_bits, widths.input_signed and not self.shift)
        self.shifted = self.shift * w.sum(axis=0, dtype=np.int64)
        self.groups = row_groups(len(w), numbers)
        self.linear, self.constant = corrections(stored, self.steps, numbers)
        digits, noises = _write(stored, numbers, cells, np.random.default_rng(origin.sequence(CELLS)))
        most = 1 << max(step.bits for step in self.steps)
        self.digits = on_grid(digits, most, (1 << numbers.cell_bits) - 1)
        self.noise_seed = int(origin.sequence(NOISE).generate_state(1, np.uint64)[0])
        ranges = np.array([code_range(numbers, bool(sign)) for sign in stored.has_sign], np.float32)
        self.planes = ranges, noises.astype(np.float32)
        self.worths = stored.weights * (1 - 2 * stored.flips.swapaxes(1, 2).astype(np.int64))  # [G, O, P]
        self.worths = np.ascontiguousarray(self.worths.swapaxes(1, 2)) * widths.adc_step

    def read(self, x: np.ndarray, first: int = 0) -> np.ndarray:
        """What the arrays return for inputs x [N, I], the first of which is vector `first` of its stream: int64 [N, O].

        Raises ValueError as `array_mvm`.
        """
        check_operands(x, np.zeros((self.groups[1][-1], 1), np.int8), self.numbers, self.widths)
        out = np.tile(self.constant, (len(x), 1))
        for start in range(0, len(x), BATCH):
            part = x[start : start + BATCH].astype(np.int32) + self.shift
            self._read(part, first + start, out[start : start + BATCH])
        return (out >> 1 if self.numbers.encoding == "xnor" else out) - self.shifted

    def _read(self, x: np.ndarray, first: int, out: np.ndarray) -> None:
        """Adds what all conversions of x return."""
        if self.linear.any():
            out += array_mvm_exact(group_sums(x, self.groups), self.linear)
        kind = self.digits[0].dtype
        sums = np.empty((len(x), self.digits[0].shape[1]), kind)
        for group, (start, stop) in enumerate(zip(*self.groups, strict=True)):
            for turn, step in enumerate(self.steps):
                driven = levels(x[:, start:stop], step, turn == 0).astype(kind)
                if self.numbers.encoding == "xnor":
                    driven = np.concatenate([driven, (1 << step.bits) - 1 - driven], axis=1)
                keys = noise.read_keys(self.noise_seed, first, len(x), group * len(self.steps) + turn)
                rows = keys, np.sqrt(np.square(driven, dtype=np.float64).sum(axis=1)).astype(np.float32)
                worths = (
                    self.worths[group] * (step.weight << step.taper),
                    np.float32(self.widths.adc_step << step.taper),
                )
                np.matmul(driven, self.digits[group], out=sums)
                planes = np.floor(self.planes[0] / 2**step.taper), self.planes[1]
                noise.convert(sums, rows, planes, worths, out)


def _write(
    stored: StoredWeights, numbers: ArrayNumbers, cells: Nonidealities, rng: np.random.Generator
) -> tuple[list[np.ndarray], np.ndarray]:
    """Digits of each row group as columns hold them, [R, C] (R twice the rows with xnor: a cell's two devices), and the
    noise [P] of a row driven with one level."""
    num_planes, joined, num_inputs, num_outputs = stored.cells.shape
    largest = (1 << numbers.cell_bits) - 1
    devices = [stored.cells, largest - stored.cells] if numbers.encoding == "xnor" else [stored.cells]
    meant = np.stack(devices, axis=3)  # [P, M, I, D, O]
    written, before = zip(*(cells.written(plane, largest, rng) for plane in meant), strict=True)
    levels_of = np.stack(written)
    gain = cells.gain(sum(before), float(levels_of.sum()))
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
        groups.append(np.ascontiguousarray(digits.reshape(-1, num_planes * num_outputs)))
    of_cell = cells.read_noise_fraction / (1 - cells.off_fraction) * largest * gain
    return groups, of_cell * np.sqrt(np.square(stored.cell_weights.astype(np.float64)).sum(axis=1))


def on_grid(digits: list[np.ndarray], largest_level: int, largest_cell: int) -> list[np.ndarray]:
    """Digits [R, C] as whole multiples of a power of two, so fine that sums of levels times digits are exact floats.

    Then the order of additions, which a GEMM chooses by shape and threads, changes nothing. float32 where a cell keeps
    GRID conductances or more, else float64 with 30 bits below a level.
    """
    bound = max(1.0, largest_level * max(float(np.abs(part).sum(axis=0).max()) for part in digits))
    kind, bits = np.float32, 24 - ceil(log2(bound))  # bits of a mantissa, less those of the largest sum
    if bits < 0 or largest_cell << bits < GRID:
        kind, bits = np.float64, min(30, 53 - ceil(log2(bound)))
    return [(np.rint(np.ldexp(part, bits)) * 2.0**-bits).astype(kind) for part in digits]
