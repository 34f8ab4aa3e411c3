"""CIMPool: binary columns that stay in the array, shared by all layers, plus a pruned one-bit error term.

A weight row is cut into vectors of K; each takes a column of the pool P in {-1, 1}^{K x K}, and within 32 outputs
no column of their part of the pool is used twice, so a layer is a permutation of the pool (structure after CIMPool,
arXiv:2503.22044). The array holds z = m_p P + m_e E, E the signs of what the pool leaves, absent where pruned;
m_p, m_e in 1 .. 16 per layer, times a float scale per output. Columns are matched anew every `rematch_every` steps;
signs follow the weight at each forward. The weight's gradient passes straight through.
"""

from __future__ import annotations

from math import gcd, log, prod

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from qat.kernels.geometry import (
    MIN_SCALE,
    channel_sums,
    from_vectors,
    per_channel,
    require_finite,
    root_mean_square,
    utilisation,
    vectors,
)
from qat.quantizer import Encoded, Projected, Quantizer
from qat.recipe import DEFAULT, Recipe
from qat.schemes.common.codebook import Codebook
from workloads.codec import error_rows, pool_parts
from workloads.format import POOL_GROUP, POOL_SCALE_BITS, WeightFormat

_ROUNDS = 4  # of signs and sizes in turn
_TRIED = 8  # pairs of multiples next to the wanted ratio whose error is measured
_LARGEST = 1 << POOL_SCALE_BITS
# Without common factors: the float scale makes up for those.
PAIRS = tuple((p, e) for p in range(1, _LARGEST + 1) for e in range(1, _LARGEST + 1) if gcd(p, e) == 1)


class PoolQuantizer(Quantizer):
    """Quantizes with the pool in `book`; without one, a pool of its own is fitted to the weight.

    State: `codes` [O, n], the column of each vector within its part; `multiples` [2]; `factor` [O], scale over root
    mean square of a channel; `matched_at` [], the steps done when the columns were last matched.
    """

    codes: Tensor
    multiples: Tensor
    factor: Tensor
    matched_at: Tensor

    def __init__(self, fmt: WeightFormat, weight: Tensor, recipe: Recipe = DEFAULT, book: Codebook | None = None):
        super().__init__(fmt, recipe)
        require_finite(weight)
        if book is not None and book.fmt != fmt:
            raise ValueError(f"{fmt.name}: the pool has format {book.fmt.name}: must be the same")
        self.book = Codebook.fit(fmt, [weight.detach()], recipe=recipe) if book is None else book
        self.register_buffer("codes", torch.zeros(fmt.code_shape(tuple(weight.shape)), dtype=torch.int64))
        self.register_buffer("multiples", torch.ones(2, dtype=torch.int64))
        self.register_buffer("factor", torch.ones(len(weight)))
        self.register_buffer("matched_at", torch.zeros((), dtype=torch.int64))
        self.refresh(weight)

    @torch.no_grad()
    def refresh(self, w: Tensor) -> None:
        """Matches the columns, and fits the multiples and scales to them, anew.

        First by correlation, then by what each column does to the squared error with the sizes found.
        """
        w = w.detach().float()
        reference = root_mean_square(w, self.fmt)
        v = _rows(w / per_channel(reference, w))
        self._match(v)
        self._fit(v, reference)
        self._match(self.gains(v))
        self._fit(v, reference)

    def gains(self, v: Tensor) -> Tensor:
        """Gains g [O, I]: the squared error of normalised rows v with signs P is a constant less 2 <g, P>.

        With the error's best sign, P_i leaves (|v_i P_i - a| - e)^2 where kept and (v_i P_i - a)^2 where pruned; half
        the difference of its two values is the slope, as P_i is -1 or 1.
        """
        a, e = ((self.factor * multiple)[:, None] for multiple in self.multiples)
        return a * v - self._kept(v) * e * torch.clamp(v, -a, a)

    def _match(self, rows: Tensor) -> None:
        cut = functional.pad(rows, (0, -rows.shape[1] % self.fmt.vector_length))
        cut = cut.view(len(rows), -1, self.fmt.vector_length)
        self.codes.copy_(matched(cut, self.book.stored().integers))

    def _fit(self, v: Tensor, reference: Tensor) -> None:
        """Multiples and factors of least squared error of the weight v * reference [O, I], columns as they are."""
        best, least = None, torch.inf
        columns, kept = self._columns(v), self._kept(v)
        for pair in _pairs_near(_wanted_ratio(v, columns, kept)):
            factor = self._fit_factor(v, columns, kept, pair)
            signs = self._signs(v, columns, kept, factor * pair[0])
            error = (v - (pair[0] * columns + pair[1] * signs) * factor[:, None]).square()
            total = float((channel_sums(error, self.fmt) * reference.square()).double().sum())
            if best is None or total < least:
                best, least = (pair, factor), total
        assert best is not None
        self.multiples.copy_(torch.tensor(best[0]))
        self.factor.copy_(best[1])

    def _fit_factor(self, v: Tensor, columns: Tensor, kept: Tensor, pair: tuple[int, int]) -> Tensor:
        """Least squares of each channel [O], with the signs in turn."""
        factor = torch.full((len(v),), 1 / (pair[0] ** 2 + pair[1] ** 2) ** 0.5, device=v.device)
        for _ in range(_ROUNDS):
            z = pair[0] * columns + pair[1] * self._signs(v, columns, kept, factor * pair[0])
            factor = (channel_sums(v * z, self.fmt) / channel_sums(z.square(), self.fmt).clamp_min(1)).clamp_min(1e-6)
        return factor

    def after_step(self, w: Tensor, step: int) -> dict[str, float]:
        """Refreshes once `rematch_every` steps have passed, unless held; returns the share of codes that changed.

        It need not be called after every step, and steps may count from 0 again.
        """
        passed = step + 1 - int(self.matched_at)
        if self.held is not None or 0 <= passed < self.recipe.rematch_every:
            return {}
        self.matched_at.fill_(step + 1)
        before = self.codes.clone()
        self.refresh(w)
        return {"rematched_share": float((before != self.codes).double().mean())}

    def statistics(self, w: Tensor) -> dict[str, float]:
        """How evenly columns are used: even where groups of outputs are full."""
        return utilisation(self.codes + self._first_columns(), self.fmt.num_entries)

    def scale(self, w: Tensor) -> Tensor:
        """Scale [O]: what an integer of the array is worth."""
        if self.held is not None:
            return self.held
        return (root_mean_square(w, self.fmt) * self.factor).clamp_min(MIN_SCALE)

    def project(self, w: Tensor) -> Projected:
        rows, scale = _rows(w), self.scale(w)
        columns = self._columns(rows)
        signs = self._signs(rows, columns, self._kept(rows), scale * self.multiples[0])
        integers = self.multiples[0] * columns + self.multiples[1] * signs
        return Projected(from_vectors(integers[:, None], w.shape), scale)

    def encode_rotated(self, w: Tensor) -> Encoded:
        rows, scale = _rows(w), self.scale(w)
        signs = self._signs(rows, self._columns(rows), self._kept(rows), scale * self.multiples[0])
        errors = signs[:, self._error_rows(rows)].long()
        shape, codes, multiples = tuple(w.shape), self.codes.clone(), self.multiples.clone()
        return Encoded(self.fmt, shape, codes, scale.clone(), multiples, errors, self.book.table())

    def levels(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """What the pool gives each weight, and the size of its error sign (0 where pruned): [O, ...] integers each."""
        rows = _rows(w)
        pool, error = self.multiples[0] * self._columns(rows), self.multiples[1] * self._kept(rows).expand_as(rows)
        return from_vectors(pool[:, None], w.shape), from_vectors(error[:, None], w.shape)

    def _first_columns(self) -> Tensor:
        """First pool column [O, 1] of the part of each output."""
        parts = torch.from_numpy(pool_parts(len(self.codes), self.fmt.num_entries))
        return parts.to(self.codes.device)[:, None] * POOL_GROUP

    def _columns(self, rows: Tensor) -> Tensor:
        """The chosen columns, -1 or 1, next to each other: [O, I] like `rows`."""
        whole = self.book.stored().integers[self.codes + self._first_columns()].flatten(1)
        return whole[:, : rows.shape[1]]

    def _error_rows(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(error_rows(rows.shape[1], self.fmt.pruned_percent)).to(rows.device)

    def _kept(self, rows: Tensor) -> Tensor:
        """1 where the error term is stored, else 0: [I]."""
        kept = torch.zeros(rows.shape[1], device=rows.device)
        kept[self._error_rows(rows)] = 1
        return kept

    def _signs(self, rows: Tensor, columns: Tensor, kept: Tensor, size: Tensor) -> Tensor:
        """Signs [O, I] of what columns of `size` [O] leave of a weight; 0 where pruned."""
        return torch.where(rows < columns * size[:, None], -1.0, 1.0) * kept


def _rows(w: Tensor) -> Tensor:
    """A weight [O, ...] as [O, I], in im2col order."""
    return vectors(w, prod(w.shape[1:]))[:, 0]


def matched(v: Tensor, pool: Tensor) -> Tensor:
    """Column within its part, int64 [O, n], of each vector v [O, n, K]: in 32 outputs no column is used twice.

    The sum of <v, column> over a group is largest (Hungarian method); deterministic.
    """
    parts = pool_parts(len(v), len(pool))
    codes = torch.zeros(v.shape[:2], dtype=torch.int64)
    for start in range(0, len(v), POOL_GROUP):
        first = int(parts[start]) * POOL_GROUP
        gain = torch.einsum("ojk,ck->joc", v[start : start + POOL_GROUP], pool[first : first + POOL_GROUP])
        for j, one in enumerate(gain.double().cpu().numpy()):
            codes[start : start + len(one), j] = torch.from_numpy(linear_sum_assignment(one, maximize=True)[1])
    return codes.to(v.device)


def _wanted_ratio(v: Tensor, columns: Tensor, kept: Tensor) -> float | None:
    """Real m_p / m_e of least squared error, of all weights together: sizes and signs in turn; None without errors.

    With u = v P, what the pool leaves is u - a; the error term has size mean |u - a| over the kept.
    """
    u = (v * columns).double()
    num_kept = len(u) * int(kept.sum())
    if not num_kept:
        return None
    a, e = float(u.sum(1).sum() / u.numel()), 0.0
    for _ in range(_ROUNDS):
        signs = torch.where(u < a, -1.0, 1.0) * kept
        e = float(((u - a) * signs).sum(1).sum() / num_kept)
        a = float((u - e * signs).sum(1).sum() / u.numel())
    return max(a, 1e-6) / max(e, 1e-6)


def _pairs_near(ratio: float | None) -> list[tuple[int, int]]:
    """The pairs of multiples (m_p, m_e) closest to this ratio, closest first."""
    if ratio is None:
        return [(1, 1)]
    return sorted(PAIRS, key=lambda pair: (abs(log(pair[0] / pair[1] / ratio)), pair))[:_TRIED]
