"""Vector quantization: d weights become one entry of a codebook, chosen by cosine and scaled by projection.

Assignment: argmax_k <v, e_k> / ||e_k|| (signed cosine, top 1). Scale of a channel with scale codes m_i:
s = sum <v_i, m_i e_i> / sum <m_i e_i, m_i e_i>, a constant to the gradient. Gradients: weight g (straight
through); codeword c_k sum over its vectors of g_i * s * m_i / book scale, so exactly 0 if unused.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from qat.kernels import best_match, sum_by_index
from qat.recipe import DEFAULT, Recipe
from qat.schemes.base import MIN_SCALE, Encoded, Quantizer, from_vectors, require_finite, vectors
from workloads.format import WeightFormat

_MAX_POOL = 65_536  # vectors a codebook is fitted to
_MAX_SPREAD = 1024  # larger books start from random vectors instead of k-means++ ones
_FIT_ROUNDS = 10
_SCALE_ROUNDS = 3


class Book(NamedTuple):
    """A codebook as stored: integer entries (as floats) [K, d], and what a unit of them is worth."""

    integers: Tensor
    unit: Tensor


class Codebook(nn.Module):
    """Entries [K, d] of vectors whose channels have root mean square 1; shared by the layers that use it.

    `counts` [K] holds how often each entry was used at the last `revive`.
    """

    counts: Tensor

    def __init__(self, fmt: WeightFormat, entries: Tensor, seed: int = 0):
        super().__init__()
        self.fmt, self.seed = fmt, seed
        self.entries = nn.Parameter(entries.clone())
        self.register_buffer("counts", torch.zeros(len(entries)))

    @classmethod
    def fit(cls, fmt: WeightFormat, weights: list[Tensor], seed: int = 0) -> Codebook:
        """k-means by cosine over the normalised vectors of all `weights` [O, ...] that will share the book."""
        generator = torch.Generator().manual_seed(seed)
        pool = torch.cat([normalised_vectors(w, fmt.vector_length) for w in weights])
        pool = pool[torch.randperm(len(pool), generator=generator)[:_MAX_POOL]]
        return cls(fmt, _fit_entries(pool, fmt.num_entries, generator), seed)

    def stored(self) -> Book:
        """The entries rounded to `entry_bits` signed bits."""
        largest = 2 ** (self.fmt.entry_bits - 1) - 1
        entries = self.entries.detach()
        unit = entries.abs().max().clamp_min(MIN_SCALE) / largest
        return Book((entries / unit).round().clamp_(-largest, largest), unit)

    def revive(self, pool: Tensor, counts: Tensor, step: int) -> int:
        """Replaces entries without use (`counts` [K] is 0) by random rows of `pool`; returns how many.

        Deterministic from (seed, step). An optimizer's momentum of these entries is left as it is.
        """
        self.counts.copy_(counts)
        dead = (counts == 0).nonzero().flatten()
        if len(dead) and len(pool):
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
            with torch.no_grad():
                self.entries[dead] = pool[torch.randint(len(pool), (len(dead),), generator=generator)]
        return len(dead) if len(pool) else 0


def normalised_vectors(w: Tensor, d: int) -> Tensor:
    """Nonzero vectors [N, d] of a weight, each channel divided by its root mean square."""
    w = w.detach()
    require_finite(w)
    rms = w.square().flatten(1).mean(1).sqrt().clamp_min(MIN_SCALE)
    v = (vectors(w, d) / rms[:, None, None]).flatten(0, 1)
    return v[v.abs().amax(1) > 0]


def _directions(entries: Tensor) -> Tensor:
    return entries / entries.norm(dim=1, keepdim=True).clamp_min(1e-6)


def _fit_entries(pool: Tensor, num_entries: int, generator: torch.Generator) -> Tensor:
    """Lloyd's rounds with cosine assignment; an entry is the mean of its vectors, so it has their length."""
    if len(pool) <= num_entries:  # every vector its own entry; the rest are random directions
        rest = torch.randn((num_entries - len(pool), pool.shape[1]), generator=generator)
        return torch.cat([pool, rest])
    entries = _spread_start(pool, num_entries, generator)
    for _ in range(_FIT_ROUNDS):
        index = best_match(pool, _directions(entries))
        counts = torch.bincount(index, minlength=num_entries)[:, None]
        means = sum_by_index(index, pool, num_entries) / counts.clamp_min(1)
        picks = pool[torch.randint(len(pool), (num_entries,), generator=generator)]
        entries = torch.where(counts > 0, means, picks)
    return entries


def _spread_start(pool: Tensor, num_entries: int, generator: torch.Generator) -> Tensor:
    """k-means++ on the sphere: each next start is drawn in proportion to its angle from those before."""
    if num_entries > _MAX_SPREAD:
        return pool[torch.randperm(len(pool), generator=generator)[:num_entries]]
    units = _directions(pool)
    gap = torch.ones(len(pool))
    chosen = []
    for _ in range(num_entries):
        chosen.append(int(torch.multinomial(gap.clamp_min(1e-9), 1, generator=generator)))
        gap = torch.minimum(gap, 1 - units @ units[chosen[-1]])
    return pool[chosen]


class _Saved(NamedTuple):
    codes: Tensor  # [O * n]
    slope: Tensor  # d w_q / d entry of each vector, [O, n or 1, 1]


class _Fit(NamedTuple):
    """A weight in terms of a book: codes and scale codes [O, n], scale [O], entries of the codes [O, n, d]."""

    codes: Tensor
    multiples: Tensor | None
    scale: Tensor
    integers: Tensor


class VectorQuantizer(Quantizer):
    """Quantizes with `book`; without one, a book of its own is fitted to the weight."""

    def __init__(self, fmt: WeightFormat, weight: Tensor, recipe: Recipe = DEFAULT, book: Codebook | None = None):
        super().__init__(fmt)
        require_finite(weight)
        if book is not None and book.fmt != fmt:
            raise ValueError(f"{fmt.name}: the codebook has format {book.fmt.name}: must be the same")
        self.book = Codebook.fit(fmt, [weight]) if book is None else book

    def project(self, w: Tensor) -> tuple[Tensor, _Saved]:
        book = self.book.stored()
        fit = self._fit(w, book)
        scale = fit.scale[:, None, None]
        integers, slope = fit.integers, scale / book.unit
        if fit.multiples is not None:
            integers, slope = integers * fit.multiples[..., None], slope * fit.multiples[..., None]
        return from_vectors(integers * scale, w.shape), _Saved(fit.codes.flatten(), slope)

    def encode(self, w: Tensor) -> Encoded:
        require_finite(w)
        fit = self._fit(w, self.book.stored())
        multiples = None if fit.multiples is None else fit.multiples.long()
        return Encoded(fit.codes, fit.scale, multiples)

    def table(self) -> Tensor:
        return self.book.stored().integers.long()

    def trained(self) -> tuple[nn.Parameter, ...]:
        return (self.book.entries,)

    def parameter_gradients(self, grad: Tensor, saved: _Saved) -> tuple[Tensor, ...]:
        rows = (vectors(grad, self.fmt.vector_length) * saved.slope).flatten(0, 1)
        return (sum_by_index(saved.codes, rows, self.fmt.num_entries),)

    def _fit(self, w: Tensor, book: Book) -> _Fit:
        v = vectors(w.detach(), self.fmt.vector_length)
        codes = best_match(v.flatten(0, 1), _directions(book.integers)).view(v.shape[:2])
        integers = book.integers[codes]
        along = (v * integers).sum(-1)
        lengths = integers.square().sum(-1)
        multiples = _multiples(along, lengths, self.fmt.scale_bits) if self.fmt.scale_bits else None
        if multiples is not None:
            along, lengths = along * multiples, lengths * multiples.square()
        return _Fit(codes, multiples, _ratio(along, lengths), integers)


def _ratio(along: Tensor, lengths: Tensor) -> Tensor:
    """Projection scale of each channel [O]; positive even if no vector points along its entry."""
    return (along.sum(1) / lengths.sum(1).clamp_min(1.0)).clamp_min(MIN_SCALE)


def _multiples(along: Tensor, lengths: Tensor, scale_bits: int) -> Tensor:
    """Integer scale code 1..2^s of each vector [O, n], chosen in turns with the channel's scale."""
    largest = 2**scale_bits
    wanted = (along / lengths.clamp_min(1.0)).clamp_min(0)
    base = wanted.mean(1, keepdim=True) * 2 / (1 + largest)
    multiples = torch.ones_like(wanted)
    for _ in range(_SCALE_ROUNDS):
        multiples = (wanted / base.clamp_min(MIN_SCALE)).round().clamp_(1, largest)
        base = _ratio(along * multiples, lengths * multiples.square())[:, None]
    return multiples
