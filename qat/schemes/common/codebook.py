"""A codebook in training: entries that layers share, how they are fitted, kept alive and stored.

Entries live among vectors of weights whose channels have root mean square 1, so that one book serves layers of
any magnitude. With M books per vector (sums of M entries) the books lie one after the other in one table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qat.kernels.assign import best_match
from qat.kernels.codewords import sum_by_index
from qat.kernels.geometry import MIN_SCALE, is_padding, per_channel, require_finite, root_mean_square, rotated, vectors
from qat.recipe import DEFAULT, Recipe
from workloads.format import WeightFormat

_MAX_SAMPLE = 65_536  # vectors a codebook is fitted to
_MAX_SPREAD = 1024  # larger books start from random vectors instead of k-means++ ones
_FIT_ROUNDS = 10
_EMA_SMOOTHING = 1e-5  # of counts (van den Oord et al., NeurIPS 2017, appendix A.1)


class Book(NamedTuple):
    """A codebook as stored: integer entries (as floats) [M * K, d], and what a unit of them is worth."""

    integers: Tensor
    unit: Tensor


class Sample(NamedTuple):
    """Vectors [N, d] of normalised weights, and how much each of their elements matters [N, d] or None (alike)."""

    vectors: Tensor
    importance: Tensor | None = None

    def take(self, index: Tensor) -> Sample:
        return Sample(self.vectors[index], None if self.importance is None else self.importance[index])


class Codebook(nn.Module):
    """Entries [M * K, d], shared by the layers that use it.

    `counts` and `sums` follow the use of entries: at the last step, or as moving averages (`codebook: ema`).
    """

    counts: Tensor
    sums: Tensor

    def __init__(self, fmt: WeightFormat, entries: Tensor, seed: int = 0, recipe: Recipe = DEFAULT):
        super().__init__()
        self.fmt, self.seed, self.recipe = fmt, seed, recipe
        is_trained = recipe.codebook == "gradient" and fmt.entry_bits > 1  # signs have no slope
        self.entries = nn.Parameter(entries.clone(), requires_grad=is_trained)
        self.register_buffer("counts", torch.ones(len(entries)))
        self.register_buffer("sums", entries.detach().clone())
        self._last: tuple[Tensor, Book] | None = None  # entries and their roundings: the layers of a step share them

    @classmethod
    def fit(
        cls, fmt: WeightFormat, weights: Sequence[Tensor], seed: int = 0, recipe: Recipe = DEFAULT,
        importance: Sequence[Tensor | None] = (),
    ) -> Codebook:  # fmt: skip
        """Fitted to the vectors of all `weights` [O, ...] that will share the book.

        `importance`: per weight a tensor of its shape, such as the curvature of the loss
        (qat.ptq), or None.
        """
        importance = importance or [None] * len(weights)
        sample = _joined([sample_of(w, fmt, h) for w, h in zip(weights, importance, strict=True)])
        return cls(fmt, fit_entries(sample, fmt, seed, recipe), seed, recipe)

    def stored(self) -> Book:
        """The entries rounded to `entry_bits` signed bits; entries of one bit are signs, -1 or 1. Not to be changed."""
        entries = self.entries.detach()
        if self._last is None or self._last[0].device != entries.device or not torch.equal(self._last[0], entries):
            self._last = entries.clone(), self._rounded(entries)
        return self._last[1]

    def _rounded(self, entries: Tensor) -> Book:
        if self.fmt.entry_bits == 1:
            return Book(torch.where(entries < 0, -1.0, 1.0), torch.ones((), device=entries.device))
        largest = 2 ** (self.fmt.entry_bits - 1) - 1
        unit = entries.abs().max().clamp_min(MIN_SCALE) / largest
        return Book((entries / unit).round().clamp_(-largest, largest), unit)

    def table(self) -> Tensor:
        """Integer entries int64 [K, d], or [M, K, d] with several books."""
        fmt, integers = self.fmt, self.stored().integers.long()
        return integers if fmt.codes_per_vector == 1 else integers.view(fmt.codes_per_vector, fmt.num_entries, -1)

    @torch.no_grad()
    def after_step(self, index: Tensor, members: Tensor, step: int) -> dict[str, float]:
        """Moving averages and revival, from the entry index [N] and the vector [N, d] of every use of an entry.

        With `codebook: ema` an entry becomes the moving average of its vectors. With `revival` an entry without
        use becomes a random member, and its averages restart there: else they would pull it back at once.
        """
        counts = torch.bincount(index, minlength=len(self.entries)).float()
        if self.recipe.codebook == "ema":
            self._average(counts, sum_by_index(index, members, len(self.entries)))
        else:
            self.counts.copy_(counts)
        return {"revived": float(self.revive(members, self.counts, step)) if self.recipe.revival else 0.0}

    def _average(self, counts: Tensor, sums: Tensor) -> None:
        keep = self.recipe.ema_momentum
        self.counts.mul_(keep).add_(counts, alpha=1 - keep)
        self.sums.mul_(keep).add_(sums, alpha=1 - keep)
        total = self.counts.sum()
        smooth = (self.counts + _EMA_SMOOTHING) / (total + len(counts) * _EMA_SMOOTHING) * total
        self.entries.copy_(self.sums / smooth[:, None])

    @torch.no_grad()
    def revive(self, members: Tensor, counts: Tensor, step: int) -> int:
        """Replaces entries that are hardly used by random rows of `members` [N, d]; returns how many.

        Deterministic from (seed, step). An optimizer's momentum of these entries is left as it is.
        """
        least = 0.01 * float(counts.mean()) if self.recipe.codebook == "ema" else 0.5
        dead = (counts < least).nonzero().flatten()
        if not len(dead) or not len(members):
            return 0
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        self.entries[dead] = members[torch.randint(len(members), (len(dead),), generator=generator)]
        self.counts[dead] = counts.mean()
        self.sums[dead] = self.entries[dead] * self.counts[dead, None]
        return len(dead)


def sample_of(w: Tensor, fmt: WeightFormat, importance: Tensor | None = None) -> Sample:
    """Nonzero vectors of a weight divided by its root mean square; vectors with padding are left out if others exist.

    Raises ValueError unless all weights are finite.
    """
    require_finite(w)
    w = rotated(w.detach().float(), fmt.rotation)
    v = vectors(w / per_channel(root_mean_square(w, fmt), w), fmt.vector_length, fmt.axis)
    is_used = v.abs().amax(2) > 0
    padding = is_padding(w.shape, fmt)
    if padding is not None and bool((whole := is_used & ~padding.any(2)).any()):
        is_used = whole
    if importance is None:
        return Sample(v[is_used])
    return Sample(v[is_used], vectors(importance, fmt.vector_length, fmt.axis)[is_used])


def _joined(samples: Sequence[Sample]) -> Sample:
    weighed = [sample.importance for sample in samples if sample.importance is not None]
    importance = torch.cat(weighed) if len(weighed) == len(samples) else None
    return Sample(torch.cat([sample.vectors for sample in samples]), importance)


def fit_entries(sample: Sample, fmt: WeightFormat, seed: int, recipe: Recipe = DEFAULT) -> Tensor:
    """Entries [M * K, d]: each next book is fitted to what the books before it leave."""
    generator = torch.Generator().manual_seed(seed)
    sample = sample.take(torch.randperm(len(sample.vectors), generator=generator)[:_MAX_SAMPLE])
    books = []
    for book in range(fmt.codes_per_vector):
        is_cosine = (recipe.assignment == "cosine" or fmt.scale_bits > 0) and fmt.codes_per_vector == 1
        entries = _fit_book(sample, fmt.num_entries, recipe, is_cosine, generator)
        books.append(entries)
        if book + 1 < fmt.codes_per_vector:
            sample = Sample(sample.vectors - entries[nearest(sample.vectors, entries)], sample.importance)
    return torch.cat(books)


def _fit_book(sample: Sample, num: int, recipe: Recipe, is_cosine: bool, generator: torch.Generator) -> Tensor:
    """Lloyd's rounds; an entry is the mean of its vectors, so it has their length. An empty one starts anew."""
    x = sample.vectors
    if len(x) <= num:  # every vector its own entry; the rest are random directions
        return torch.cat([x, torch.randn((num - len(x), x.shape[1]), generator=generator)])
    entries = _start(x, num, recipe.init, generator)
    if recipe.init == "random":
        return entries
    for round_ in range(_FIT_ROUNDS):
        seen = _noisy(x, round_, generator) if recipe.init == "sr-kmeans" else x
        index = best_match(seen, directions(entries)) if is_cosine else nearest(seen, entries, sample.importance)
        picks = x[torch.randint(len(x), (num,), generator=generator)]
        entries = _means(index, seen, sample.importance, num, picks)
    return entries


def _noisy(x: Tensor, round_: int, generator: torch.Generator) -> Tensor:
    """Noise that fades over the rounds shakes Lloyd's out of poor optima (PQF, Martinez et al., CVPR 2021)."""
    noise = torch.randn(x.shape, generator=generator) * x.std(0)
    return x + noise * (1 - (round_ + 1) / _FIT_ROUNDS) ** 0.5


def _means(index: Tensor, x: Tensor, importance: Tensor | None, num: int, otherwise: Tensor) -> Tensor:
    """Mean [num, d] of the rows of each index, weighted per element; rows of `otherwise` where there are none."""
    weight = torch.ones_like(x) if importance is None else importance
    total = sum_by_index(index, weight, num)
    is_used = (torch.bincount(index, minlength=num) > 0)[:, None]
    return torch.where(is_used, sum_by_index(index, x * weight, num) / total.clamp_min(1e-12), otherwise)


def nearest(x: Tensor, entries: Tensor, importance: Tensor | None = None) -> Tensor:
    """Index int64 [N] of the entry with the least (weighted) squared distance to each row of x [N, d]."""
    if importance is None:
        return best_match(x, entries, -entries.square().sum(1) / 2)
    return best_match(torch.cat([x * importance, importance], 1), torch.cat([entries, -entries.square() / 2], 1))


def directions(entries: Tensor) -> Tensor:
    """Entries [K, d] of length 1; zero stays zero."""
    return entries / entries.norm(dim=1, keepdim=True).clamp_min(1e-6)


def _start(x: Tensor, num: int, init: str, generator: torch.Generator) -> Tensor:
    """k-means++ (Arthur and Vassilvitskii, SODA 2007): each next start is drawn in proportion to its squared
    distance from those before."""
    if num > _MAX_SPREAD or init == "random":
        return x[torch.randperm(len(x), generator=generator)[:num]]
    chosen = [int(torch.randint(len(x), (1,), generator=generator))]
    squares, gap = x.square().sum(1), torch.full((len(x),), torch.inf)
    for _ in range(num - 1):
        last = x[chosen[-1]]
        gap = torch.minimum(gap, (squares - 2 * (x @ last) + last.square().sum()).clamp_min(1e-9))
        chosen.append(int(torch.multinomial(gap, 1, generator=generator)))
    return x[chosen]
