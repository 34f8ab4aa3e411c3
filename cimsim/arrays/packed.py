"""A stored matrix packed for the popcount kernels: bits of cells by column, bits of inputs by row group.

Shapes: N vectors, I inputs, O outputs, G row groups, P planes; K, W, B as in `cimsim.arrays.bitplanes`.
"""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

import numpy as np

from cimsim.arrays import bitplanes
from cimsim.arrays.encodings import ArrayNumbers, Step, StoredWeights, code_range, row_groups
from cimsim.arrays.exact import array_mvm_exact, group_sums


class BitRow(NamedTuple):
    """One bit of the part of an input that `source` names (as of a step); `scale`: what it counts in its step."""

    source: str
    bit: int
    scale: int


class PackedArrays:
    """Columns are (plane, output), padded to whole blocks."""

    def __init__(self, stored: StoredWeights, numbers: ArrayNumbers, steps: list[Step], adc_step: int):
        digits = stored.digits
        self.is_xnor, self.num_outputs = numbers.encoding == "xnor", digits.shape[2]
        self.groups = row_groups(digits.shape[1], numbers)
        self.linear, self.constant = corrections(stored, steps, numbers)
        by_step = [bit_rows(step, step is steps[0]) for step in steps]
        self.rows = [row for rows in by_step for row in rows]
        level = max(sum(abs(row.scale) for row in rows) for rows in by_step)
        largest = level * self._largest_sum(digits, numbers.largest_digit)
        tapers = np.array([step.taper for step in steps])
        highest_sum = largest + (adc_step << int(tapers.max())) // 2
        self.lane = np.dtype(np.int16 if highest_sum < 1 << 15 else np.int32)
        ranges = np.array([code_range(numbers, bool(sign)) for sign in stored.has_sign])
        ranges = np.clip(ranges, -(most := np.iinfo(self.lane).max), most)
        lows, highs = np.repeat(ranges, self.num_outputs, axis=0).T.astype(self.lane)
        codes = sum((largest // (adc_step << step.taper) + 1) * abs(step.weight) << step.taper for step in steps)
        bound = max(codes, largest)
        code = np.promote_types(self.lane, np.min_scalar_type(-bound - 1))  # of one group: all its steps
        self.code = np.promote_types(code, np.min_scalar_type(-bound * len(stored.flips) - 1))  # of all groups
        signs = 1 - 2 * stored.flips.reshape(len(stored.flips), -1).astype(code)
        self.columns = bitplanes.Columns(
            self._bits(digits, numbers.digit_bits), _padded(lows), _padded(highs), _padded(signs),
            stored.weights * adc_step,
        )  # fmt: skip
        self.reading = bitplanes.reading_of(
            (
                np.array([row.scale for row in self.rows], self.lane),
                np.array(list(accumulate(map(len, by_step))), np.int64),
            ),
            np.array([step.weight << step.taper for step in steps], code),
            tapers.astype(self.lane),
            adc_step,
            (self.is_xnor, bool(digits.min() < 0)),
        )

    def run(self, x: np.ndarray) -> np.ndarray:
        """x [N, I] in range -> int64 [N, O]."""
        out = np.tile(self.constant, (len(x), 1))
        if self.linear.any():
            out += array_mvm_exact(group_sums(x, self.groups), self.linear)
        words = self._words(x)
        counts = np.empty((bitplanes.TILE * len(self.rows), bitplanes.LANES), self.lane)
        codes = np.empty((words.shape[1], bitplanes.LANES), self.code)
        bitplanes.read_columns(self.columns, words, self.reading, (counts, codes), out)
        return out >> 1 if self.is_xnor else out

    @property
    def _num_words(self) -> int:
        starts, stops = self.groups
        return -(-int((stops - starts).max()) // (8 * self.lane.itemsize))

    def _largest_sum(self, digits: np.ndarray, largest_digit: int) -> int:
        """What the stored digits [P, I, O] can give at most for levels of one, negative or positive."""
        if self.is_xnor:
            return int((self.groups[1] - self.groups[0]).max()) * largest_digit
        sums = [np.abs(digits[:, a:b]).sum(axis=1, dtype=np.int32).max() for a, b in zip(*self.groups, strict=True)]
        return int(max(sums))

    def _bits(self, digits: np.ndarray, digit_bits: int) -> np.ndarray:
        """[G, blocks, K, W, LANES] of digits [P, I, O]; with xnor, rows that are missing hold ones and never agree."""
        num_planes, _, num_outputs = digits.shape
        shifts = range(digit_bits - int(digits.min() >= 0), -1, -1)
        height, width = self._num_words * 8 * self.lane.itemsize, num_planes * num_outputs
        found = []
        for start, stop in zip(*self.groups, strict=True):
            part = digits[:, start:stop].swapaxes(0, 1).reshape(stop - start, width)
            planes = np.full((len(shifts), height, width), self.is_xnor)
            for plane, shift in zip(planes, shifts, strict=True):
                plane[: stop - start] = (part >> shift) & 1
            packed = np.packbits(planes, axis=1, bitorder="little").reshape(len(shifts), self._num_words, -1, width)
            words = np.ascontiguousarray(packed.swapaxes(2, 3)).view(self.lane)[..., 0]
            blocks = _padded(words).reshape(len(shifts), self._num_words, -1, bitplanes.LANES)
            found.append(np.moveaxis(blocks, 2, 0))
        return np.ascontiguousarray(found)

    def _words(self, x: np.ndarray) -> np.ndarray:
        """The bit rows of x [N, I]: uint32 [G, N padded to whole tiles, B, W]."""
        starts, num_vectors = self.groups[0], len(x) + -len(x) % bitplanes.TILE
        out = np.empty((len(starts), num_vectors, len(self.rows), self._num_words), np.uint32)
        grouped = np.zeros((num_vectors, len(starts), self._num_words * 8 * self.lane.itemsize), np.uint8)
        for source, byte in sorted({(row.source, row.bit // 8) for row in self.rows}):
            for group, (start, stop) in enumerate(zip(*self.groups, strict=True)):
                grouped[: len(x), group, : stop - start] = _part(x[:, start:stop], source) >> (8 * byte)
            taken = [i for i, row in enumerate(self.rows) if (row.source, row.bit // 8) == (source, byte)]
            shifts = np.array([8 * (self.rows[i].bit % 8) for i in taken], np.uint64)
            bitplanes.pack(grouped.view("<u8"), np.array(taken), shifts, out)
        return out


def _part(x: np.ndarray, source: str) -> np.ndarray:
    """What a step drives of inputs, before its bits are taken."""
    if source == "all":
        return x
    return np.maximum(x if source == "positive" else -x.astype(np.int32), 0)


def _padded(values: np.ndarray) -> np.ndarray:
    """The last axis, columns, filled up to whole blocks with zeros."""
    missing = -values.shape[-1] % bitplanes.LANES
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, missing)])


def bit_rows(step: Step, is_highest: bool) -> list[BitRow]:
    """The bits of one step; a bipolar driver gives the most negative input one level more (`encodings.levels`)."""
    if step.source != "both":
        return [BitRow(step.source, step.low + i, 1 << i) for i in range(step.bits)]
    positive = [BitRow("positive", step.low + i, 1 << i) for i in range(step.bits)]
    return positive + [BitRow("negative", step.low + i, -1 << i) for i in range(step.bits + is_highest)]


def corrections(stored: StoredWeights, steps: list[Step], numbers: ArrayNumbers) -> tuple[np.ndarray, np.ndarray]:
    """What is added to the codes of O outputs: times the sum of a group's inputs [G, O], and always [O].

    A flipped column holds largest - digit. With xnor agreements are counted, A = sum of 2 l d - D l - L d + L D over
    rows, for levels l up to L and digits d up to D: twice the product, as here the offset.
    """
    flipped = numbers.largest_digit * (stored.weights[:, None] * stored.flips).sum(axis=1)
    if numbers.encoding != "xnor":
        return flipped - stored.offset, np.zeros(stored.cells.shape[3], np.int64)
    largest_levels = sum(step.weight * ((1 << step.bits) - 1) for step in steps)
    missing = (stored.digits.astype(np.int64) - numbers.largest_digit).sum(axis=1)
    linear = numbers.largest_digit * int(stored.weights.sum()) - 2 * stored.offset
    return flipped + linear, largest_levels * (stored.weights[:, None] * missing).sum(axis=0)
