"""Max-plus hand-over of row blocks between layers: when each block of a layer can start, and when it is done.

A layer makes its output in blocks, normally one output row each, in order and one at a time. A block starts
when the last producer block it needs lies in its line buffer and the block before it is through.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

Times = NDArray[np.int64]


def stream(ready_ps: ArrayLike, need: ArrayLike, work_ps: ArrayLike, latency_ps: int) -> tuple[Times, Times]:
    """Start and end (ps, int64, shape [blocks]) of each block of a layer.

    `ready_ps` [producer blocks]: when each producer block is in the consumer's buffer. `need` [blocks]: index
    of the last producer block that a block waits for, -1 for none. `work_ps` [blocks]: how long the block
    occupies the layer; its result follows `latency_ps` after that.
    start[b] = max(ready[need[b]], start[b-1] + work[b-1]), end[b] = start[b] + work[b] + latency.
    Raises ValueError if `need` and `work_ps` differ in shape or `need` points outside `ready_ps`.
    """
    ready, needed, work = (np.ascontiguousarray(a, dtype=np.int64) for a in (ready_ps, need, work_ps))
    if needed.shape != work.shape:
        raise ValueError(f"need has shape {needed.shape}, work_ps {work.shape}: must be equal")
    if needed.size and (needed.min() < -1 or needed.max() >= ready.size):
        raise ValueError(f"need = {needed.min()}..{needed.max()}: must lie in -1..{ready.size - 1}")
    start = _starts_compiled(ready, needed, work)
    return start, start + work + latency_ps


def needed_rows(out_rows: int, in_rows: int, kernel: int, stride: int, padding: int) -> Times:
    """Last input row (int64, shape [out_rows]) inside the receptive field of each output row of a
    convolution or pooling; -1 if the field and all fields above it lie in the padding."""
    last_tap = np.arange(out_rows, dtype=np.int64) * stride - padding + kernel - 1
    return np.clip(last_tap, -1, in_rows - 1)


def _starts(ready_ps: Times, need: Times, work_ps: Times) -> Times:
    start_ps = np.empty_like(work_ps)
    free_ps = 0
    for block in range(work_ps.size):
        ready = ready_ps[need[block]] if need[block] >= 0 else 0
        start_ps[block] = max(ready, free_ps)
        free_ps = start_ps[block] + work_ps[block]
    return start_ps


_starts_compiled = numba.njit(cache=True)(_starts)
