"""Pooling of integer tensors [N, C, H, W]: the maximum, and the mean rounded half up."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np
from numpy.typing import NDArray

from workloads.layer import Node


def max_pool(x: NDArray[np.integer], node: Node) -> NDArray[np.integer]:
    """Largest tap of each window; padding never wins."""
    taps = _taps(x, node, fill=np.iinfo(x.dtype).min)
    y = next(taps).copy()
    for tap in taps:
        np.maximum(y, tap, out=y)
    return y


def avg_pool(x: NDArray[np.integer], node: Node) -> NDArray[np.integer]:
    """Mean of each window, padding counted as zeros, rounded half up."""
    size = prod(node.kernel)
    total = np.zeros((*x.shape[:2], *node.out_shape[1:]), np.int64)
    for tap in _taps(x, node, fill=0):
        total += tap
    return ((2 * total + size) // (2 * size)).astype(x.dtype)


def _taps(x: NDArray[np.integer], node: Node, fill: int) -> Iterator[NDArray[np.integer]]:
    """One strided view [N, C, out_h, out_w] per position in the window."""
    (ph, pw), (sh, sw), (h, w) = node.padding, node.stride, node.out_shape[1:]
    if ph or pw:
        x = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)), constant_values=fill)
    for i in range(node.kernel[0]):
        for j in range(node.kernel[1]):
            yield x[:, :, i : i + sh * (h - 1) + 1 : sh, j : j + sw * (w - 1) + 1 : sw]
