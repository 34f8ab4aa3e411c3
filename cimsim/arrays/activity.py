"""What a layer's data make switch: exact counts of levels in inputs and cells, or their distributions.

The energy of a read is linear in the input's level, the cell's level and their product (`Crossbar.read_pj`), so three
means over all reads are all that it needs: two follow from the distributions of inputs and of weights, the third is
exact only from both together, for inputs and weights of one row may go together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from cimsim.arrays.encodings import ArrayNumbers, Widths, input_shift, input_steps, levels, store
from cimsim.components.base import Activity


class Histogram(NamedTuple):
    """How often each integer occurs: `counts` int64, of `lowest` and the integers after it."""

    lowest: int
    counts: np.ndarray

    @property
    def values(self) -> np.ndarray:
        return self.lowest + np.arange(self.counts.size)


def histogram(values: np.ndarray) -> Histogram:
    """Of integers of any shape (one at least)."""
    lowest = int(values.min())
    return Histogram(lowest, np.bincount((values.astype(np.int64) - lowest).ravel()))


def exact(x: np.ndarray, w: np.ndarray, numbers: ArrayNumbers, widths: Widths) -> Activity:
    """From the integers themselves, x [N, I] and w [I, O]: every step of every input meets every cell of its row, so
    means per row say all. O(N I + I O) operations. Raises ValueError if a number does not fit."""
    inputs = np.mean([level.mean(axis=0) for level in _levels(x, numbers, widths)], axis=0)  # [I]
    cells = _cells(w, numbers, widths.weight_bits).mean(axis=(0, 1, 3))
    return Activity(float(inputs.mean()), float(cells.mean()), float((inputs * cells).mean()))


def from_histograms(inputs: Histogram, weights: Histogram, numbers: ArrayNumbers, widths: Widths) -> Activity:
    """From how often each input and each weight occurs, wherever they lie.

    With `column_flip` a column holds at most half, of which a histogram knows nothing: cells above half count as half.
    """
    level = np.mean(list(_levels(inputs.values, numbers, widths)), axis=0)
    plain = numbers._replace(column_flip=False)
    cell = _cells(weights.values[None, :], plain, widths.weight_bits).mean(axis=(0, 1, 2))
    means = [float(values @ one.counts / one.counts.sum()) for values, one in ((level, inputs), (cell, weights))]
    return Activity.of_means(means[0], min(means[1], 0.5) if numbers.column_flip else means[1])


def _levels(x: np.ndarray, numbers: ArrayNumbers, widths: Widths) -> Iterator[np.ndarray]:
    """Levels of inputs x of any shape in each step, as parts of the step's largest."""
    shift = input_shift(numbers, widths.input_bits, widths.input_signed)
    steps = input_steps(numbers, widths.input_bits, widths.input_signed and not shift)
    highest = max(step.low for step in steps)
    for step in steps:
        yield np.abs(levels(x + shift, step, step.low == highest)) / ((1 << step.bits) - 1)


def _cells(w: np.ndarray, numbers: ArrayNumbers, weight_bits: int) -> np.ndarray:
    """Levels of the cells [P, M, I, O] of w [I, O], as parts of the largest."""
    return store(w, numbers, weight_bits).cells / ((1 << numbers.cell_bits) - 1)
