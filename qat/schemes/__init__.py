"""The training schemes, one per kind of format. A new one is a file and a line in SCHEMES."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from qat.quantizer import Encoded, Quantizer
from qat.recipe import DEFAULT, Recipe
from qat.schemes.common.codebook import Codebook
from qat.schemes.dkm import DkmQuantizer, GumbelQuantizer
from qat.schemes.dorefa import DorefaQuantizer
from qat.schemes.ewgs import EwgsQuantizer
from qat.schemes.lattice import LatticeQuantizer
from qat.schemes.linear import LinearQuantizer
from qat.schemes.pool import PoolQuantizer
from qat.schemes.universal import UniversalQuantizer
from qat.schemes.vector import VectorQuantizer
from workloads.format import WeightFormat

__all__ = ["SCHEMES", "Codebook", "Encoded", "Quantizer", "make_quantizer"]

# By `Recipe.scheme`. Each is built as Scheme(fmt, weight, recipe, book or None).
SCHEMES: dict[str, Callable[..., Quantizer]] = {
    "lsq": LinearQuantizer,
    "ewgs": EwgsQuantizer,
    "dorefa": DorefaQuantizer,
    "top1": VectorQuantizer,
    "dkm": DkmQuantizer,
    "gumbel": GumbelQuantizer,
    "universal": UniversalQuantizer,
    "lattice": LatticeQuantizer,
    "pool": PoolQuantizer,
}


def make_quantizer(
    fmt: WeightFormat, weight: Tensor, book: Codebook | None = None, recipe: Recipe = DEFAULT
) -> Quantizer:
    """The quantizer of a format, initialised from `weight` [O, ...]; `book` for formats with a codebook."""
    return SCHEMES[recipe.scheme(fmt)](fmt, weight, recipe, book)
