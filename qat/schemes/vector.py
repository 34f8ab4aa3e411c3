"""Vector quantization: d weights become one entry of a codebook, or a sum of M entries, times a projected scale.

Assignment (`Recipe.assignment`), v the vector among weights of root mean square 1, e an entry:
`cosine` argmax <v, e> / |e|, top 1, of its size if scale codes are signed; `euclid` argmin |v - m e|^2 over
entries and scale codes m together. Several books: one after the other, on what the others leave (residual
quantization), then each anew with the others in place.
Scale of a channel: s = <w, z> / <z, z> with z the chosen integers, a constant to the gradient.
Gradients: of the weight, see `Recipe.estimator`; of an entry, the sum over its vectors of g_i s m_i / unit,
so exactly 0 if unused.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from qat.kernels.codewords import fit_rows, sum_by_index, sum_rows
from qat.kernels.geometry import (
    MIN_SCALE,
    channel_sums,
    from_vectors,
    per_channel,
    require_finite,
    root_mean_square,
    rotated,
    rows_of,
    utilisation,
    vectors,
)
from qat.quantizer import Encoded, Projected, Quantizer
from qat.recipe import DEFAULT, Recipe
from qat.schemes.common.choose import Chosen, choose, unit_for_multiples
from qat.schemes.common.codebook import Book, Codebook, directions
from workloads.format import WeightFormat

_ROWS = 1 << 14  # vectors whose products with all entries are at a time


class _Fit(NamedTuple):
    """A weight in terms of a book: the choice of each vector, the scale [O] or [1], and value / scale [O, ...]."""

    choice: Chosen
    scale: Tensor
    integers: Tensor | None  # None where only the value is wanted


class _Saved(NamedTuple):
    w: Tensor
    fit: _Fit
    book: Book


class VectorQuantizer(Quantizer):
    """Quantizes with `book`; without one, a book of its own is fitted to the weight."""

    def __init__(self, fmt: WeightFormat, weight: Tensor, recipe: Recipe = DEFAULT, book: Codebook | None = None):
        super().__init__(fmt, recipe)
        require_finite(weight)
        if book is not None and book.fmt != fmt:
            raise ValueError(f"{fmt.name}: the codebook has format {book.fmt.name}: must be the same")
        self.book = Codebook.fit(fmt, [weight.detach()], recipe=recipe) if book is None else book

    def project(self, w: Tensor) -> Projected:
        book = self.book.stored()
        fit = self._fit(w, book)
        assert fit.integers is not None
        return Projected(fit.integers, fit.scale, _Saved(w, fit, book))

    def value(self, w: Tensor) -> tuple[Tensor, Any]:
        if not self._is_plain() or self.fmt.rotation or self.recipe.estimator == "ewgs":
            return super().value(w)
        x, book = w.detach().float(), self.book.stored()
        fit = fit_rows(rows_of(x, self.fmt.axis), book.integers, MIN_SCALE)
        value = from_vectors(fit.rows, x.shape, self.fmt.axis)
        return value, _Saved(x, _Fit(Chosen(fit.codes.view(-1, 1), None), fit.scale, None), book)

    def _is_plain(self) -> bool:
        """Whether a vector is the entry at its least angle, times the scale of its own row."""
        fmt = self.fmt
        is_angle = self.recipe.assignment == "cosine" and fmt.codes_per_vector == 1 and not fmt.scale_bits
        return is_angle and fmt.axis in ("in", "kernel") and fmt.scale_per == "channel" and self.held is None

    def encode_rotated(self, w: Tensor) -> Encoded:
        (entries, multiples), scale, _ = self._fit(w, self.book.stored())
        shape = self.fmt.code_shape(tuple(w.shape))
        first = torch.arange(self.fmt.codes_per_vector, device=entries.device) * self.fmt.num_entries
        codes = entries.view(*shape, -1) - first
        codes = codes[..., 0] if self.fmt.codes_per_vector == 1 else codes
        whole = None if multiples is None else multiples.view(shape).long()
        return Encoded(self.fmt, tuple(w.shape), codes, scale, whole, table=self.book.table())

    def members(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """(entry index [N], vector [N, d]) of each use of an entry: what the book learns from after a step.

        The vector is what the entry alone should be: without the scale code, and without the other books' entries.
        """
        w = rotated(w.detach().float(), self.fmt.rotation)
        v = vectors(w / per_channel(root_mean_square(w, self.fmt), w), self.fmt.vector_length, self.fmt.axis)
        v, book = v.flatten(0, 1), self.book.stored()
        (entries, multiples), _, _ = self._fit(w, book)
        is_used = v.abs().amax(1) > 0
        v, entries = v[is_used], entries[is_used]
        if multiples is not None:
            v = v / (multiples[is_used] / multiples.abs().mean())
        rest = (v - (book.integers * book.unit)[entries].sum(1))[:, None]
        own = v[:, None] if entries.shape[1] == 1 else rest + (book.integers * book.unit)[entries]
        return entries.flatten(), own.flatten(0, 1)

    def statistics(self, w: Tensor) -> dict[str, float]:
        """Share of entries in use and perplexity of the codes."""
        return utilisation(self.encode(w).codes, self.fmt.num_entries)

    def trained(self) -> tuple[nn.Parameter, ...]:
        return (self.book.entries,) if self.book.entries.requires_grad else ()

    def weight_gradient(self, grad: Tensor, saved: _Saved) -> Tensor:
        estimator = self.recipe.estimator
        if estimator == "none":
            return torch.zeros_like(grad)
        if estimator == "ewgs":
            assert saved.fit.integers is not None
            error = saved.w - saved.fit.integers * per_channel(saved.fit.scale, grad)
            error = error / per_channel(root_mean_square(saved.w, self.fmt), grad)
            return grad * (1 + self.recipe.ewgs_factor * grad.sign() * error)
        if estimator == "softmax":
            return from_vectors(self._soft_gradients(grad, saved)[0], grad.shape, self.fmt.axis)
        return grad

    def parameter_gradients(self, grad: Tensor, saved: _Saved) -> tuple[Tensor, ...]:
        if not self.trained():
            return ()
        entries = saved.fit.choice.entries
        if self._is_plain():
            codes, shape = entries.view(len(grad), -1), saved.book.integers.shape
            total = sum_rows(codes, rows_of(grad, self.fmt.axis), saved.fit.scale, (shape[0], shape[1]))
        else:
            rows = self._upstream(grad, saved)
            total = sum(sum_by_index(column, rows, len(saved.book.integers)) for column in entries.T)
        if self.recipe.estimator == "softmax":
            total = total + self._soft_gradients(grad, saved)[1]
        assert isinstance(total, Tensor)
        return (total / saved.book.unit,)

    def _upstream(self, grad: Tensor, saved: _Saved) -> Tensor:
        """Gradient of the integers of each vector [N, d]."""
        rows = vectors(grad * per_channel(saved.fit.scale, grad), self.fmt.vector_length, self.fmt.axis).flatten(0, 1)
        multiples = saved.fit.choice.multiples
        return rows if multiples is None else rows * multiples

    def _soft_gradients(self, grad: Tensor, saved: _Saved) -> tuple[Tensor, Tensor]:
        """Of the vectors and of the integers, through A = onehot + softmax(l / tau) - sg(softmax(l / tau)), l cosines.

        The mixture A C of the integers C has the value of the chosen one and the slope of the soft one.
        """
        v = vectors(saved.w, self.fmt.vector_length, self.fmt.axis)
        flat, upstream, integers = v.flatten(0, 1), self._upstream(grad, saved), saved.book.integers
        of_vectors, of_integers = torch.empty_like(flat), torch.zeros_like(integers)
        for start in range(0, len(flat), _ROWS):
            part = slice(start, start + _ROWS)
            x, entries = flat[part].clone().requires_grad_(), integers.clone().requires_grad_()
            with torch.enable_grad():
                cosine = functional.normalize(x, eps=1e-6) @ directions(entries).T
                soft = (cosine / self.recipe.temperature).softmax(1)
                loss = (soft * (upstream[part] @ integers.T)).sum()
            of_vectors[part], part_of_integers = torch.autograd.grad(loss, (x, entries))
            of_integers += part_of_integers
        return of_vectors.view_as(v), of_integers

    def _fit(self, w: Tensor, book: Book) -> _Fit:
        """Chooses among vectors in units of the held scale, or of the root mean square."""
        fmt, assignment = self.fmt, self.recipe.assignment
        if self._is_plain():
            fit = fit_rows(rows_of(w, fmt.axis), book.integers, MIN_SCALE)
            integers = from_vectors(book.integers[fit.codes], w.shape, fmt.axis)
            return _Fit(Chosen(fit.codes.view(-1, 1), None), fit.scale, integers)
        is_angle = assignment == "cosine" and fmt.axis in ("in", "kernel") and fmt.codes_per_vector == 1
        if self.held is None and is_angle and not fmt.scale_bits:  # a vector's length does not matter
            v, unit = w, book.unit
        else:
            reference = root_mean_square(w, fmt) if self.held is None else self.held
            v, unit = w / per_channel(reference, w), book.unit if self.held is None else torch.tensor(1.0)
        v = vectors(v, fmt.vector_length, fmt.axis).flatten(0, 1)
        if self.held is None and fmt.scale_bits:
            unit = unit_for_multiples(v, book.integers, unit, fmt, assignment)
        choice = choose(v, book.integers, unit, fmt, assignment)
        integers = from_vectors(
            self._integers(choice, book).view(*fmt.code_shape(tuple(w.shape)), -1), w.shape, fmt.axis
        )
        return _Fit(choice, self._scale(w, integers), integers)

    def _integers(self, choice: Chosen, book: Book) -> Tensor:
        """What the array holds for each vector [N, d], as floats."""
        entries, multiples = choice
        z = book.integers[entries[:, 0]] if entries.shape[1] == 1 else book.integers[entries].sum(1)
        return z if multiples is None else z * multiples

    def _scale(self, w: Tensor, integers: Tensor) -> Tensor:
        """Projection of each channel, or of the tensor, on its integers; positive even if it points away."""
        if self.held is not None:
            return self.held
        along, squares = channel_sums(w * integers, self.fmt), channel_sums(integers.square(), self.fmt)
        return (along / squares.clamp_min(1.0)).clamp_min(MIN_SCALE)
