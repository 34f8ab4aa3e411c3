"""How numbers between layers are stored, and what of them enters an array."""

from __future__ import annotations

from typing import NamedTuple


class ActivationFormat(NamedTuple):
    """`bits` of a number are stored; as many as `driven_bits` are driven into an array for it."""

    name: str
    bits: int
    driven_bits: int


def whole_number(bits: int) -> ActivationFormat:
    """Integers of so many bits."""
    return ActivationFormat(f"int{bits}", bits, bits)
