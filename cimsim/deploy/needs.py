"""Which input row each output row waits for: the hand-over of rows between layers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workloads.layer import Node


def needed_rows(out_rows: int, in_rows: int, kernel: int, stride: int, padding: int) -> NDArray[np.int64]:
    """Last input row (int64, shape [out_rows]) inside the receptive field of each output row of a
    convolution or pooling; -1 if the field and all fields above it lie in the padding."""
    last_tap = np.arange(out_rows, dtype=np.int64) * stride - padding + kernel - 1
    return np.clip(last_tap, -1, in_rows - 1)


def needs(node: Node, all_in_rows: int, batch: int) -> tuple[int, ...]:
    """The last input row each output row needs; the maps of a batch lie one below the other."""
    in_rows = all_in_rows // batch
    of_one = _image_needs(node, in_rows, node.out_shape[1] // batch)
    return tuple(image * in_rows + row for image in range(batch) for row in of_one)


def _image_needs(node: Node, in_rows: int, rows: int) -> tuple[int, ...]:
    """Within one image: a window's last row, the same row, or (a flattened input) all."""
    if node.layer is not None and node.layer.in_size[0] == in_rows and in_rows > 1:
        window = (node.layer.kernel[0], node.layer.stride[0], node.layer.padding[0])
    elif node.op in ("max_pool", "avg_pool"):
        window = (node.kernel[0], node.stride[0], node.padding[0])
    elif node.op == "pad":
        window = (1, 1, node.padding[0])
    elif rows == in_rows and node.op not in ("layer", "matmul"):
        window = (1, 1, 0)
    else:
        return (in_rows - 1,) * rows
    return tuple(int(row) for row in needed_rows(rows, in_rows, *window))
