"""Convolution windows as the rows a crossbar sees: one input vector per output position."""

from __future__ import annotations

import numpy as np


def im2col(
    x: np.ndarray,
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    groups: int = 1,
) -> np.ndarray:
    """x [N, C, H, W] -> [N * P, groups * I], P output positions row by row, I = C / groups * kh * kw.

    Within a group the order is (kh, kw, c), channel fastest; group g holds columns g * I to (g + 1) * I.
    Padding is zero and the type of `x` is kept. Raises ValueError if the kernel does not fit or groups do not
    divide C.
    """
    num_images, channels, height, width = x.shape
    if channels % groups:
        raise ValueError(f"groups = {groups}: must divide the {channels} channels")
    if height + 2 * padding[0] < kernel[0] or width + 2 * padding[1] < kernel[1]:
        raise ValueError(f"kernel = {kernel}: larger than the padded input {height} x {width}")
    padded = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    padded = np.ascontiguousarray(padded.transpose(0, 2, 3, 1))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(1, 2))  # type: ignore[call-overload]
    windows = windows[:, :: stride[0], :: stride[1]]
    rows, columns = windows.shape[1:3]
    split = windows.reshape(num_images, rows, columns, groups, channels // groups, *kernel)
    return split.transpose(0, 1, 2, 3, 5, 6, 4).reshape(num_images * rows * columns, -1)
