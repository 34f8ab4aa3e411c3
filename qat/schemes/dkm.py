"""Soft clustering: DKM (Cho et al., ICLR 2022), and the same with Gumbel-softmax assignments (Jang et al., ICLR 2017).

The vectors of a weight whose channels have root mean square 1 become the mixtures of `qat.schemes.common.clustering`.
So tau is in the square of that unit: the paper's 2e-5 to 1.3e-4 are 0.02 to 0.14 here, if its weights deviate by 0.03.
What is stored, and seen in eval mode, is the nearest entry of the rounded book: training sees a softer weight than
the chip (`is_exact` is False). The scale of a channel is its projection on the mixture, a constant to the gradient.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor

from qat.kernels.geometry import is_padding, per_channel, utilisation, vectors
from qat.quantizer import Encoded, Projected, Quantizer
from qat.recipe import DEFAULT, Recipe
from qat.schemes.common.clustering import MIN_MASS, Clustering, Rule, cluster, cluster_gradients
from qat.schemes.common.codebook import Codebook
from qat.schemes.common.entries import encoded, first_scale, in_integers, own_book, projected_scale, snap, to_weight
from workloads.format import WeightFormat

_ROUNDING = 1e-5  # of a difference of sums


class _Saved(NamedTuple):
    x: Tensor
    share: Tensor
    trace: Clustering
    stretch: Tensor  # x times this is the vector in integers, [N, 1]
    weight_scale: Tensor  # of the latent weight to these integers, [O] or [1]
    value_scale: Tensor


class DkmQuantizer(Quantizer):
    """Clusters its own weight, from `book` or, without one, from one fitted to the weight.

    The book has no gradient: after a step it takes the entries that the step's forward ended with. Of layers that
    share it, each clusters its vectors together with what the others gave the entries in the step before.
    `sums` [K, d] and `mass` [K, 1] are what this layer gave; those of the book are everyone's.
    """

    is_exact = False
    sums: Tensor
    mass: Tensor

    def __init__(self, fmt: WeightFormat, weight: Tensor, recipe: Recipe = DEFAULT, book: Codebook | None = None):
        super().__init__(fmt, recipe.model_copy(update={"codebook": "frozen"}))
        self.book = own_book(fmt, weight, self.recipe, book)
        self.book.entries.requires_grad_(False)
        self.book.sums.zero_()
        self.book.counts.zero_()
        self.register_buffer("sums", torch.zeros_like(self.book.sums))
        self.register_buffer("mass", torch.zeros(len(self.sums), 1))
        self.seen: Clustering | None = None  # of the last forward in training

    def rule(self) -> Rule:
        """How this step's vectors attend."""
        sums, mass = self.book.sums - self.sums, self.book.counts[:, None] - self.mass
        has_others = mass > _ROUNDING * self.book.counts[:, None]
        others = torch.where(has_others, sums, 0.0), torch.where(has_others, mass, 0.0)
        return Rule(self.recipe.temperature, self.recipe.iterations, others=others)

    def project(self, w: Tensor) -> Projected:
        if not self.training:
            hard = snap(w, self.book.stored(), self.fmt, self._scale(w))
            return Projected(hard.integers, hard.scale if self.held is None else self.held)
        unit, scale = self.book.stored().unit, self._scale(w)
        v, stretch = in_integers(w, scale, self.fmt), self._stretch(w, scale)
        x, share = v / stretch * unit, stretch.square() * self._counts(v, w.shape)
        value, trace = cluster(x, share, self.book.entries.detach(), self.rule())
        self.seen = trace._replace(kept=())
        integers = to_weight(value / unit * stretch, w.shape, self.fmt)
        value_scale = projected_scale(w, integers, self.fmt) if self.held is None else self.held
        return Projected(integers, value_scale, _Saved(x, share, trace, stretch / unit, scale, value_scale))

    def _scale(self, w: Tensor) -> Tensor:
        return first_scale(w, self.book.stored(), self.fmt) if self.held is None else self.held

    def _stretch(self, w: Tensor, scale: Tensor) -> Tensor:
        """The scale code of each vector [N, 1]; its choice is hard in training too."""
        multiples = snap(w, self.book.stored(), self.fmt, scale).choice.multiples if self.fmt.scale_bits else None
        return scale.new_ones(1, 1) if multiples is None else multiples

    def _counts(self, v: Tensor, shape: torch.Size) -> Tensor:
        """Which vectors move entries, [N, 1]: neither zeros nor, if there are others, those with padding."""
        counts, padding = v.abs().amax(1) > 0, is_padding(shape, self.fmt)
        if padding is not None:
            whole = counts & ~padding.any(2).flatten()
            counts = whole if bool(whole.any()) else counts
        return counts[:, None].to(v.dtype)

    def weight_gradient(self, grad: Tensor, saved: _Saved | None) -> Tensor:
        if saved is None:  # of eval mode, whose values are snapped: straight through
            return grad
        rows = vectors(grad * per_channel(saved.value_scale, grad), self.fmt.vector_length, self.fmt.axis).flatten(0, 1)
        of_x, _ = cluster_gradients(rows * saved.stretch, saved.x, saved.share, saved.trace)
        return to_weight(of_x / saved.stretch, grad.shape, self.fmt) / per_channel(saved.weight_scale, grad)

    def encode_rotated(self, w: Tensor) -> Encoded:
        hard = snap(w, self.book.stored(), self.fmt, self._scale(w))
        scale = hard.scale if self.held is None else self.held
        return encoded(hard.choice.entries[:, 0], hard.choice.multiples, scale, w.shape, self.book)

    @torch.no_grad()
    def after_step(self, w: Tensor, step: int) -> dict[str, float]:
        """The book takes the means over all vectors of its layers; returns the rounds they took."""
        book, seen, self.seen = self.book, self.seen, None
        if seen is not None:
            others = seen.rule.others or (0.0, 0.0)
            self.sums.copy_(seen.sums - others[0])
            self.mass.copy_(seen.masses[-1] - others[1])
        givers = _GIVERS.setdefault(book, WeakSet())
        if not givers or self in givers:  # a new step
            givers.clear()
            book.sums.zero_()
            book.counts.zero_()
        givers.add(self)
        book.sums += self.sums
        book.counts += self.mass[:, 0]
        has_mass = book.counts > MIN_MASS
        book.entries[has_mass] = book.sums[has_mass] / book.counts[has_mass, None]
        return {} if seen is None else {"rounds": float(len(seen.masses))}

    def statistics(self, w: Tensor) -> dict[str, float]:
        """Share of entries in use and perplexity of the codes."""
        return utilisation(self.encode(w).codes, self.fmt.num_entries)


# Who has given a book its part since the sums were last cleared.
_GIVERS: WeakKeyDictionary[Codebook, WeakSet[DkmQuantizer]] = WeakKeyDictionary()


class GumbelQuantizer(DkmQuantizer):
    """Assignments are drawn: Gumbel noise joins the logits, the same for the same book seed and step."""

    steps: Tensor

    def __init__(self, fmt: WeightFormat, weight: Tensor, recipe: Recipe = DEFAULT, book: Codebook | None = None):
        super().__init__(fmt, weight, recipe, book)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def rule(self) -> Rule:
        return super().rule()._replace(noise=partial(_gumbel, self.book.seed, int(self.steps)))

    def after_step(self, w: Tensor, step: int) -> dict[str, float]:
        """As for DKM; the next step draws anew."""
        self.steps.fill_(step + 1)
        return super().after_step(w, step)


def _gumbel(seed: int, step: int, round_: int, number: int, shape: tuple[int, int]) -> Tensor:
    """Standard Gumbel noise [n, K] of one part of the rows, so that the gradient can draw it again."""
    mixed = 0
    for part in (seed, step, round_, number):
        mixed = (mixed * 1_000_003 + part + 1) % (2**63 - 25)
    drawn = torch.empty(shape).exponential_(generator=torch.Generator().manual_seed(mixed))
    return drawn.clamp_min_(1e-30).log_().neg_()
