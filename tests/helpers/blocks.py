"""Gaussian blocks for the tests of lattices, and what codes make of them."""

from __future__ import annotations

import numpy as np

from workloads.lattices import LatticeCode, lattice_code
from workloads.lattices.code import Overload
from workloads.lattices.named import nested_code


def gaussian(num_blocks: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num_blocks, d))


def relative_error(points: np.ndarray, x: np.ndarray, sigma: float) -> float:
    return float(((points - x) ** 2).mean()) / sigma**2


def decoded(code: LatticeCode, x: np.ndarray, overload: Overload = "saturate") -> np.ndarray:
    return code.decode(code.encode(x, overload)[0]) / code.grid


def unshifted(name: str) -> LatticeCode:
    return nested_code(name, (0,) * lattice_code(name).dimension, 1.0)
