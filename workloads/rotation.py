"""Randomised Hadamard rotation: weights that look Gaussian to a lattice, and integers that stay integers.

A block of B numbers x becomes H D x, where H is Sylvester's Hadamard matrix and D holds a random sign for each
place (QuIP#, Tseng et al. 2024). Without the usual 1/sqrt(B) this is sums and differences alone: (H D)^T H D = B.
Weights and inputs of a layer turn together, and the factor 1/B goes into the layer's scale:
W x = (rotate(W) rotate(x)) / B.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SEED = 0x5EED


def rotate(rows: NDArray, block: int) -> NDArray:
    """H D of each block of rows [.., I], unnormalised: float32, float64 or int64 (from any integers) [.., I].

    Integers grow by log2(block) bits. Raises ValueError unless block is a power of two that divides I.
    """
    blocks = _blocks(rows, block)
    return _hadamard(blocks * signs(blocks.shape[-2], block).astype(blocks.dtype)).reshape(rows.shape)


def unrotate(rows: NDArray, block: int) -> NDArray:
    """Inverse of `rotate`. Raises ValueError also for integers that no integers turn to."""
    blocks = _blocks(rows, block)
    turned = _hadamard(blocks) * signs(blocks.shape[-2], block).astype(blocks.dtype)
    if turned.dtype != np.int64:
        return (turned / block).reshape(rows.shape)
    if (turned % block).any():
        raise ValueError(f"integers to unrotate: not the rotation of integers in blocks of {block}: unrotate as floats")
    return (turned // block).reshape(rows.shape)


def signs(num_blocks: int, block: int) -> NDArray[np.int64]:
    """D: 1 or -1 for each place of each block, [num_blocks, block]; a block's depend on its index alone.

    The low bit of splitmix64 (Steele et al. 2014) of a counter: the same on any machine, for good.
    """
    counter = (np.arange(num_blocks, dtype=np.uint64)[:, None] << np.uint64(32)) + np.arange(block, dtype=np.uint64)
    z = (counter + np.uint64(SEED)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return 1 - 2 * ((z ^ (z >> np.uint64(31))) & np.uint64(1)).astype(np.int64)


def _blocks(rows: NDArray, block: int) -> NDArray:
    """Rows [.., I] as [.., I / block, block]."""
    if block < 1 or block & (block - 1) or rows.shape[-1] % block:
        raise ValueError(f"rotation block = {block}: must be a power of two that divides the {rows.shape[-1]} inputs")
    numbers = rows.astype(np.int64) if rows.dtype.kind in "iub" else rows
    return numbers.reshape(*rows.shape[:-1], -1, block)


def _hadamard(blocks: NDArray) -> NDArray:
    """H times each block [.., B], by log2(B) steps of sums and differences."""
    half = 1
    while half < blocks.shape[-1]:
        pairs = blocks.reshape(*blocks.shape[:-1], -1, 2, half)
        first, second = pairs[..., 0, :], pairs[..., 1, :]
        blocks = np.stack([first + second, first - second], -2).reshape(blocks.shape)
        half *= 2
    return blocks
