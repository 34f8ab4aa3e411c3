"""Number formats of activations: what is stored between layers, of which some bits enter an array."""

from __future__ import annotations

import re
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator


class ActivationFormat(NamedTuple):
    """`bits` of a number are stored; for it `driven_bits` are driven into an array, most significant first.

    Integers have the sign that their data need, unless one is asked for; one step holds for a tensor, or for each
    token. Floats have `fraction_bits` behind their leading one, are signed, and enter an array aligned to the least
    of them, so that nothing is lost.
    """

    name: str
    bits: int
    driven_bits: int
    sign: Literal["data", "signed", "unsigned"] = "data"
    per: Literal["tensor", "token"] = "tensor"
    fraction_bits: int = 0  # of a float

    @property
    def is_float(self) -> bool:
        return self.fraction_bits > 0

    def bounds(self, is_signed: bool) -> tuple[int, int]:
        """Lowest and highest integer, in steps of the least one."""
        if self.is_float:
            return -FP8_LARGEST, FP8_LARGEST
        high = (1 << (self.bits - is_signed)) - 1
        return (-high if self.per == "token" else -high - 1) if is_signed else 0, high


# OCP 8-bit Floating Point Specification, revision 1.0 (2023): e4m3 has 448 = 1.75 x 2^8 as its largest number and
# 2^-9 as its least, of which it is this multiple
FP8_LARGEST = 448 << 9
FP8 = ActivationFormat("fp8-e4m3", 8, FP8_LARGEST.bit_length() + 1, "signed", fraction_bits=3)
LEAST_BITS, MOST_BITS = 2, 8
GRAMMAR = f"int{LEAST_BITS} to int{MOST_BITS}, with -signed or -unsigned, with -token; {FP8.name}"
_INTEGER = re.compile(r"int([2-8])(?:-(signed|unsigned))?(-token)?")


def parse_activation(name: str) -> ActivationFormat:
    """The format of this name. Raises ValueError that tells the grammar, and not the name: whoever asks tells it."""
    if name == FP8.name:
        return FP8
    found = _INTEGER.fullmatch(name)
    if found is None:
        raise ValueError(f"must be an activation format ({GRAMMAR})")
    bits, sign, token = int(found[1]), found[2] or "data", found[3]
    if token and sign == "unsigned":
        raise ValueError("a step per token holds both signs")
    return whole_number(bits)._replace(name=name, sign="signed" if token else sign, per="token" if token else "tensor")


def whole_number(bits: int) -> ActivationFormat:
    """Integers of so many bits, of the sign that their data need."""
    return ActivationFormat(f"int{bits}", bits, bits)


def _known(name: str) -> str:
    return parse_activation(name).name


ActivationName = Annotated[str, AfterValidator(_known)]  # a field of a record that names a format
