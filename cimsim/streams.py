"""Line buffers between layers: which input row each output row waits for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def needed_rows(out_rows: int, in_rows: int, kernel: int, stride: int, padding: int) -> NDArray[np.int64]:
    """Last input row (int64, shape [out_rows]) inside the receptive field of each output row of a
    convolution or pooling; -1 if the field and all fields above it lie in the padding."""
    last_tap = np.arange(out_rows, dtype=np.int64) * stride - padding + kernel - 1
    return np.clip(last_tap, -1, in_rows - 1)
