"""VQ4ALL (Deng et al., arXiv 2412.06875): a codebook that never changes; training chooses among a vector's candidates.

A vector has the n entries nearest to it as candidates, with ratios r = softmax(z) that start in proportion to
1 / distance. In training it is the mixture sum r c; only z is trained, the weight itself gets no gradient.
Progressive construction: after a step, a vector with a ratio above `freeze_ratio` becomes that candidate for good;
`finish` does so with what is left. What is stored, and seen in eval mode, is the candidate with the largest ratio.
The scale of a channel is fixed at the start, from the nearest entries: that is what remains when all is frozen.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from qat.kernels.geometry import is_padding, per_channel, rotated, utilisation, vectors
from qat.kernels.sums import whole_sum
from qat.quantizer import Encoded, Projected, Quantizer
from qat.recipe import DEFAULT, Recipe
from qat.schemes.common.codebook import Codebook
from qat.schemes.common.entries import encoded, first_scale, in_integers, own_book, snap, to_weight
from workloads.format import WeightFormat

DROP_RATIO = 1e-4  # a candidate below it is dropped
_EPS = 1e-6  # of a distance in integers, so that a vector that is an entry has a finite logit
_SCALE_ROUNDS, _SCALE_TOLERANCE = 10, 0.01  # of turns between the nearest entries and the scale that suits them
_MAX_SCORES = 1 << 22  # products of vectors and entries at a time


class UniversalQuantizer(Quantizer):
    """Chooses from `book`, usually a universal one; without one, from a book fitted to the weight.

    `candidates` int32 [N, n] of each vector, nearest first; `logits` z float32 [N, n]; `is_open` bool [N, n]:
    candidates that are neither dropped nor lost to another, one in a frozen vector.
    """

    is_exact = False
    candidates: Tensor
    is_open: Tensor
    scale: Tensor
    multiples: Tensor | None

    def __init__(self, fmt: WeightFormat, weight: Tensor, recipe: Recipe = DEFAULT, book: Codebook | None = None):
        super().__init__(fmt, recipe)
        self.book = own_book(fmt, weight, recipe.model_copy(update={"codebook": "frozen"}), book)
        w, stored = rotated(weight.detach().float(), fmt.rotation), self.book.stored()
        scale = first_scale(w, stored, fmt)
        for _ in range(_SCALE_ROUNDS):
            last, scale = scale, snap(w, stored, fmt, scale).scale
            if bool(((scale - last).abs() <= _SCALE_TOLERANCE * last).all()):
                break
        multiples, v = snap(w, stored, fmt, scale).choice.multiples, in_integers(w, scale, fmt)
        padding = is_padding(w.shape, fmt)
        real = None if padding is None else ~padding.flatten(0, 1)
        x = v if multiples is None else v / multiples
        candidates, distances = nearest_candidates(x, stored.integers, recipe.candidates, real)
        self.register_buffer("scale", scale)
        self.register_buffer("multiples", multiples)
        self.register_buffer("candidates", candidates)
        self.register_buffer("is_open", torch.ones_like(candidates, dtype=torch.bool))
        self.logits = nn.Parameter(-torch.log(distances + _EPS))

    def ratios(self) -> Tensor:
        """r [N, n], differentiable in the logits; exactly 0 for candidates that are not open."""
        return self.logits.masked_fill(~self.is_open, -torch.inf).softmax(1)

    @property
    def is_frozen(self) -> Tensor:
        """Which vectors have one candidate left, bool [N]."""
        return self.is_open.sum(1) == 1

    def project(self, w: Tensor) -> Projected:
        scale = self.scale if self.held is None else self.held
        integers = self.book.stored().integers
        if not self.training:
            return Projected(self._in_array(integers[self._chosen()], w.shape), scale)
        ratios = self.ratios().detach()
        return Projected(
            self._in_array(_mixed(self.candidates, ratios, integers), w.shape), scale, _Saved(ratios, scale)
        )

    def _in_array(self, rows: Tensor, shape: torch.Size) -> Tensor:
        return to_weight(rows if self.multiples is None else rows * self.multiples, shape, self.fmt)

    def _chosen(self) -> Tensor:
        """Entry of each vector, int64 [N]; of equal ratios the nearer one."""
        best = self.ratios().detach().argmax(1, keepdim=True)
        return self.candidates.gather(1, best)[:, 0].long()

    def encode_rotated(self, w: Tensor) -> Encoded:
        """What the ratios say; the weight only gives its shape."""
        scale = self.scale if self.held is None else self.held
        return encoded(self._chosen(), self.multiples, scale, w.shape, self.book)

    def trained(self) -> tuple[nn.Parameter, ...]:
        return (self.logits,)

    def weight_gradient(self, grad: Tensor, saved: _Saved) -> Tensor:
        return torch.zeros_like(grad)

    def parameter_gradients(self, grad: Tensor, saved: _Saved | None) -> tuple[Tensor, ...]:
        """dL/dz_m = r_m (<g, c_m> - sum_k r_k <g, c_k>), so 0 where a ratio is 1; in eval mode all choices are made."""
        if saved is None:
            return (torch.zeros_like(self.logits),)
        rows = vectors(grad * per_channel(saved.scale, grad), self.fmt.vector_length, self.fmt.axis).flatten(0, 1)
        rows = rows if self.multiples is None else rows * self.multiples
        with torch.enable_grad():
            ratios = saved.ratios.clone().requires_grad_()
            mixed = _mixed(self.candidates, ratios, self.book.stored().integers)
        (along,) = torch.autograd.grad(mixed, ratios, rows)
        return (saved.ratios * (along - (saved.ratios * along).sum(1, keepdim=True)),)

    @torch.no_grad()
    def after_step(self, w: Tensor, step: int) -> dict[str, float]:
        """Freezes and drops; returns how many of how many vectors are frozen."""
        ratios = self.ratios()
        top = ratios.topk(min(2, ratios.shape[1]), dim=1)
        keep = ratios >= DROP_RATIO
        keep.scatter_(1, top.indices, True)  # two stay: only the freeze ratio may end a choice
        self._freeze((top.values[:, 0] > self.recipe.freeze_ratio) & ~self.is_frozen, ratios)
        self.is_open &= keep | self.is_frozen[:, None]
        return {"frozen": float(self.is_frozen.sum()), "vectors": float(len(ratios))}

    @torch.no_grad()
    def finish(self) -> None:
        """Every vector becomes its candidate with the largest ratio."""
        self._freeze(~self.is_frozen, self.ratios())

    def _freeze(self, which: Tensor, ratios: Tensor) -> None:
        winner = functional.one_hot(ratios.argmax(1), ratios.shape[1]).bool()
        self.is_open.copy_(torch.where(which[:, None], winner, self.is_open))

    def statistics(self, w: Tensor) -> dict[str, float]:
        """Share of entries in use, perplexity, share of frozen vectors and mean number of open candidates."""
        used = utilisation(self.encode(w).codes, self.fmt.num_entries)
        frozen, open_ = self.is_frozen.float().mean(), self.is_open.sum(1).float().mean()
        return used | {"frozen_share": float(frozen), "open_candidates": float(open_)}


class _Saved(NamedTuple):
    ratios: Tensor
    scale: Tensor


def _mixed(candidates: Tensor, ratios: Tensor, integers: Tensor) -> Tensor:
    """sum_m r_m c_m [N, d], without ever holding all candidates' entries."""
    return functional.embedding_bag(candidates, integers, per_sample_weights=ratios, mode="sum")


def nearest_candidates(x: Tensor, entries: Tensor, num: int, real: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The `num` different entries [K, d] nearest to each row of x [N, d]: (int32 [N, n], distances [N, n]).

    Nearest first, of equal ones the lowest index; fewer columns if the book has fewer different entries. With
    `real` bool [N, d] the other elements do not count.
    """
    different = _first_of_equals(entries)
    book, count = entries[different], min(num, len(different))
    found, distances = [], []
    for start in range(0, len(x), max(1, _MAX_SCORES // len(book))):
        part = slice(start, start + max(1, _MAX_SCORES // len(book)))
        mask = torch.ones_like(x[part]) if real is None else real[part].to(x.dtype)
        scores = x[part] @ book.T - mask @ (book.square() / 2).T
        near = scores.topk(count, dim=1).indices.sort(dim=1).values
        away = ((x[part, None] - book[near]) * mask[:, None]).norm(dim=2)
        order = away.argsort(dim=1, stable=True)
        found.append(different[near.gather(1, order)].int())
        distances.append(away.gather(1, order))
    return torch.cat(found), torch.cat(distances)


def _first_of_equals(entries: Tensor) -> Tensor:
    """Indices, ascending, of the entries [K, d] that equal none before them."""
    groups, group = torch.unique(entries, dim=0, return_inverse=True)
    first = torch.full((len(groups),), len(entries)).scatter_reduce(0, group, torch.arange(len(entries)), "amin")
    return first.sort().values


def _quantizers(model: nn.Module) -> list[UniversalQuantizer]:
    return [module for module in model.modules() if isinstance(module, UniversalQuantizer)]


def ratio_penalty(model: nn.Module) -> Tensor:
    """Mean over all vectors of the model of sum_m r_m (1 - r_m): 0 when every choice is made; differentiable."""
    ratios = [quantizer.ratios() for quantizer in _quantizers(model)]
    total = sum((whole_sum(r * (1 - r)) for r in ratios), torch.zeros(()))
    return total / max(1, sum(map(len, ratios)))


def finish(model: nn.Module) -> float:
    """Makes every choice that training has left open; returns the share of vectors that had frozen before."""
    found = _quantizers(model)
    frozen, vectors_ = sum(int(q.is_frozen.sum()) for q in found), sum(len(q.is_open) for q in found)
    for quantizer in found:
        quantizer.finish()
    return frozen / max(1, vectors_)
