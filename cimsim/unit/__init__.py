"""Tick by tick inside one unit: numba kernels."""
