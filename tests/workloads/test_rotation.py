"""The randomised Hadamard rotation against its matrix: orthogonal, exact in integers, the same for good."""

from __future__ import annotations

import numpy as np
import pytest

from workloads.rotation import rotate, signs, unrotate

BLOCKS = [1, 2, 8, 64]


def hadamard(size: int) -> np.ndarray:
    """Sylvester's matrix."""
    return np.array([[1]]) if size == 1 else np.kron([[1, 1], [1, -1]], hadamard(size // 2))


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_is_turned_by_hadamard_times_signs(block):
    x = np.random.default_rng(0).integers(-128, 128, (3, 5, 4 * block)).astype(np.int8)
    matrices = [hadamard(block) * sign for sign in signs(4, block)]
    for matrix in matrices:
        np.testing.assert_array_equal(matrix.T @ matrix, block * np.eye(block))
    parts = [x[..., i * block : (i + 1) * block].astype(int) @ matrix.T for i, matrix in enumerate(matrices)]
    turned = rotate(x, block)
    assert turned.dtype == np.int64
    np.testing.assert_array_equal(turned, np.concatenate(parts, -1))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.float32, np.float64])
def test_unrotate_undoes_rotate(block, dtype):
    x = np.random.default_rng(1).integers(0, 100, (7, 2 * block)).astype(dtype)  # small integers: floats are exact too
    back = unrotate(rotate(x, block), block)
    np.testing.assert_array_equal(back, x)
    assert back.dtype == (dtype if np.issubdtype(dtype, np.floating) else np.int64)


def test_reals_come_back_to_rounding():
    x = np.random.default_rng(2).standard_normal((50, 256)).astype(np.float32)
    np.testing.assert_allclose(unrotate(rotate(x, 64), 64), x, atol=1e-6)


@pytest.mark.parametrize("block", BLOCKS)
def test_turned_weights_times_turned_inputs_are_the_products_times_the_block(block):
    draw = np.random.default_rng(3)
    w, x = draw.integers(-8, 8, (6, 3 * block)), draw.integers(0, 256, (3 * block, 9))
    np.testing.assert_array_equal(rotate(w, block) @ rotate(x.T, block).T, block * (w @ x))


def test_rows_with_outliers_come_out_near_gaussian():
    x = np.random.default_rng(4).laplace(size=(200, 1024))
    turned = rotate(x, 256) / 16
    assert (turned**2).sum() == pytest.approx((x**2).sum())

    def kurtosis(values):
        return (values**4).mean() / (values**2).mean() ** 2

    assert kurtosis(x) == pytest.approx(6, rel=0.1)
    assert kurtosis(turned) == pytest.approx(3, abs=0.05)


def test_signs_are_balanced_independent_and_fixed():
    drawn = signs(512, 64)
    assert set(np.unique(drawn)) == {-1, 1}
    assert abs(drawn.mean()) < 0.02
    assert np.abs(drawn @ drawn.T - 64 * np.eye(512)).max() < 64  # no two blocks alike
    np.testing.assert_array_equal(signs(3, 64), drawn[:3])  # a block's signs depend on its index alone
    assert drawn[0, :8].tolist() == [1, -1, 1, -1, 1, 1, -1, -1]


def test_what_is_refused():
    for block in (0, 3, 16):
        with pytest.raises(
            ValueError, match=f"rotation block = {block}: must be a power of two that divides the 24 in"
        ):
            rotate(np.zeros((2, 24)), block)
    with pytest.raises(ValueError, match="not the rotation of integers"):
        unrotate(np.array([[1, 0]]), 2)
