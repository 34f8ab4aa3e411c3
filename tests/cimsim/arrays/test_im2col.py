"""Windows as rows: order, padding and groups."""

from __future__ import annotations

import numpy as np
import pytest

from cimsim.arrays.im2col import im2col


def naive_im2col(x, kernel, stride, padding, groups):
    """One loop per index, in the order promised."""
    num_images, channels, height, width = x.shape
    per_group = channels // groups
    rows = []
    for image in range(num_images):
        for top in range(-padding[0], height + padding[0] - kernel[0] + 1, stride[0]):
            for left in range(-padding[1], width + padding[1] - kernel[1] + 1, stride[1]):
                rows.append([
                    x[image, group * per_group + c, top + i, left + j]
                    if 0 <= top + i < height and 0 <= left + j < width
                    else 0
                    for group in range(groups)
                    for i in range(kernel[0])
                    for j in range(kernel[1])
                    for c in range(per_group)
                ])  # fmt: skip
    return np.array(rows, x.dtype)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 5)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 2)])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_equals_the_loops(kernel, stride, padding, groups):
    x = np.random.default_rng(0).integers(0, 256, (2, 4, 7, 6), np.uint8)
    found = im2col(x, kernel, stride, padding, groups)
    assert found.dtype == np.uint8
    assert np.array_equal(found, naive_im2col(x, kernel, stride, padding, groups))


def test_product_is_the_convolution():
    rng = np.random.default_rng(1)
    x, kernel = rng.integers(0, 9, (1, 3, 5, 5)), rng.integers(-4, 5, (2, 3, 3, 3))
    product = im2col(x, (3, 3)) @ kernel.transpose(2, 3, 1, 0).reshape(-1, 2)
    windows = np.lib.stride_tricks.sliding_window_view(x[0], (3, 3), axis=(1, 2))
    assert np.array_equal(product, np.einsum("chwij,ocij->hwo", windows, kernel).reshape(-1, 2))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="groups = 2: must divide the 3 channels"):
        im2col(np.zeros((1, 3, 4, 4)), (1, 1), groups=2)
    with pytest.raises(ValueError, match=r"kernel = \(5, 5\): larger than the padded input"):
        im2col(np.zeros((1, 3, 4, 4)), (5, 5))
