"""Lattice codes: d weights become the nearest codeword of a shifted, saturating D4 or E8 Voronoi code.

The scale of a channel is its root mean square times a factor found by search; both are constants to the
gradient, and the weight's gradient passes straight through.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qat.kernels import best_match, e8_code, encode_e8
from qat.recipe import DEFAULT, Recipe
from qat.quantizer import MIN_SCALE, Encoded, Projected, Quantizer, from_vectors, per_channel, require_finite, vectors
from workloads.format import WeightFormat
from workloads.lattice import GRID
from workloads.lattices import lattice_code

_MAX_EXHAUSTIVE = 256  # tables up to this size are searched whole

_SEARCH = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.4)  # times the Gaussian value


class LatticeQuantizer(Quantizer):
    """`factor` [O] (a buffer) is channel scale over root mean square, chosen by error at init and `refresh`."""

    factor: Tensor
    entries: Tensor

    def __init__(self, fmt: WeightFormat, weight: Tensor, recipe: Recipe = DEFAULT, book: None = None):
        super().__init__(fmt, recipe)
        entries = torch.from_numpy(lattice_code(fmt.code).table.copy())
        self.register_buffer("entries", entries.float(), persistent=False)
        self.register_buffer("factor", torch.ones(len(weight)))
        self.refresh(weight)

    def refresh(self, w: Tensor) -> None:
        """Picks each channel's factor anew: the least squared error over a small grid."""
        require_finite(w)
        sigma = lattice_code(self.fmt.code).sigma
        with torch.no_grad():
            factors = torch.tensor([1 / (GRID * sigma * times) for times in _SEARCH])
            errors = torch.stack([self._error(w, factor) for factor in factors])
            self.factor.copy_(factors[errors.argmin(0)])

    def _error(self, w: Tensor, factor: Tensor) -> Tensor:
        """Squared error of each channel [O] with this factor."""
        self.factor.fill_(factor)
        integers, scale, _ = self.project(w)
        return (integers * per_channel(scale, w) - w).square().flatten(1).sum(1)

    def scale(self, w: Tensor) -> Tensor:
        """Scale of each channel [O]."""
        rms = w.detach().square().flatten(1).mean(1).sqrt()
        return (rms * self.factor).clamp_min(MIN_SCALE)

    def project(self, w: Tensor) -> Projected:
        scale = self.scale(w)
        return Projected(from_vectors(self.entries[self._codes(w, scale)], w.shape), scale)

    def encode_rotated(self, w: Tensor) -> Encoded:
        scale = self.scale(w)
        return Encoded(self.fmt, tuple(w.shape), self._codes(w, scale), scale)

    def _codes(self, w: Tensor, scale: Tensor) -> Tensor:
        v = vectors(w.detach(), self.fmt.vector_length)
        x = (v / (GRID * scale)[:, None, None]).flatten(0, 1)
        if len(self.entries) <= _MAX_EXHAUSTIVE:
            book = self.entries / GRID
            codes = best_match(x, book, -book.square().sum(1) / 2)
        else:
            codes = torch.from_numpy(encode_e8(x.numpy(), e8_code(int(self.fmt.code[-1]))))
        return codes.view(len(w), -1)
