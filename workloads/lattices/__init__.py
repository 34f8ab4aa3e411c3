"""Finite codes of lattice points, by name."""

from workloads.lattices.code import LatticeCode
from workloads.lattices.named import lattice_code

__all__ = ["LatticeCode", "lattice_code"]
