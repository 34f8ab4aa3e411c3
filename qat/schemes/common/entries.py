"""A weight in the integers of a codebook: what the schemes share that train on mixtures of entries.

A weight [O, ...] over its scale [O] or [1] is vectors v [N, d] in which an entry counts as stored, so that
v is near multiple x entry. These schemes have one book per vector.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from qat.kernels.geometry import (
    MIN_SCALE,
    channel_sums,
    from_vectors,
    per_channel,
    require_finite,
    root_mean_square,
    vectors,
)
from qat.quantizer import Encoded
from qat.recipe import Recipe
from qat.schemes.common.choose import Chosen, choose, unit_for_multiples
from qat.schemes.common.codebook import Book, Codebook
from workloads.format import WeightFormat

_TINY = 1e-12


class Snapped(NamedTuple):
    """The choice of each vector, what the array holds [O, ...] (float32), and the scale [O] or [1]."""

    choice: Chosen
    integers: Tensor
    scale: Tensor


def own_book(fmt: WeightFormat, weight: Tensor, recipe: Recipe, book: Codebook | None) -> Codebook:
    """`book`, or one fitted to the weight. Raises ValueError for another format, several books, or a NaN."""
    require_finite(weight)
    if fmt.codes_per_vector > 1:
        raise ValueError(f"{fmt.name}: {fmt.codes_per_vector} codebooks per vector: must be 1 for {recipe.vector}")
    if book is not None and book.fmt != fmt:
        raise ValueError(f"{fmt.name}: the codebook has format {book.fmt.name}: must be the same")
    return Codebook.fit(fmt, [weight.detach()], recipe=recipe) if book is None else book


def first_scale(w: Tensor, book: Book, fmt: WeightFormat) -> Tensor:
    """What an integer is worth before anything is chosen, [O] or [1]: the root mean square times the book's unit."""
    rms = root_mean_square(w, fmt)
    if not fmt.scale_bits:
        return rms * book.unit
    return rms * unit_for_multiples(_flat(w / per_channel(rms, w), fmt), book.integers, book.unit, fmt, "euclid")


def in_integers(w: Tensor, scale: Tensor, fmt: WeightFormat) -> Tensor:
    """The vectors [N, d] of a weight at this scale."""
    return _flat(w / per_channel(scale, w), fmt)


def _flat(w: Tensor, fmt: WeightFormat) -> Tensor:
    return vectors(w, fmt.vector_length, fmt.axis).flatten(0, 1)


def to_weight(rows: Tensor, shape: torch.Size, fmt: WeightFormat) -> Tensor:
    """Vectors [N, d] -> weight [O, ...], padding dropped."""
    return from_vectors(rows.view(*fmt.code_shape(tuple(shape)), -1), shape, fmt.axis)


def projected_scale(w: Tensor, integers: Tensor, fmt: WeightFormat) -> Tensor:
    """<w, z> / <z, z> of each channel or of the tensor, z its integers (or their mixture); positive in any case."""
    along, squares = channel_sums(w * integers, fmt), channel_sums(integers.square(), fmt)
    return (along / squares.clamp_min(_TINY)).clamp_min(MIN_SCALE)


def snap(w: Tensor, book: Book, fmt: WeightFormat, scale: Tensor) -> Snapped:
    """Each vector's nearest entry, with its scale code, at this scale; and the scale that suits them."""
    choice = choose(in_integers(w, scale, fmt), book.integers, 1.0, fmt, "euclid")
    rows = book.integers[choice.entries[:, 0]]
    integers = to_weight(rows if choice.multiples is None else rows * choice.multiples, w.shape, fmt)
    return Snapped(choice, integers, projected_scale(w, integers, fmt))


def encoded(entries: Tensor, multiples: Tensor | None, scale: Tensor, shape: torch.Size, book: Codebook) -> Encoded:
    """The stored form: entries int64 [N], multiples [N, 1] or None."""
    rows, count = book.fmt.code_shape(tuple(shape))
    whole = None if multiples is None else multiples.view(rows, count).long()
    return Encoded(book.fmt, tuple(shape), entries.view(rows, count), scale, whole, table=book.table())
