"""What all linear schemes share: the levels a code can mean, and groups of inputs with an integer multiple each.

A format with groups is one without, on a weight whose groups were brought to one size: x = w / (m / 16), m the
multiple 1 .. 16 of each group, fitted to its mean size at the start and at `refresh`. The array holds z m, z the
level of x, and its scale is a sixteenth of the step of x.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from qat.kernels.geometry import MIN_SCALE, from_vectors, require_finite, utilisation, vectors, without_autocast
from qat.kernels.linear import Levels
from qat.quantizer import Encoded, Projected, Quantizer
from qat.recipe import DEFAULT, Recipe
from workloads.format import GROUP_SCALE_BITS, WeightFormat

LARGEST = 1 << GROUP_SCALE_BITS  # multiple of a group


def levels_of(fmt: WeightFormat) -> Levels:
    """The levels of a linear format."""
    half = 1 << (fmt.code_bits - 1)
    return Levels(1 - 2 * half, 2 * half - 1, True) if fmt.is_odd else Levels(-half, half - 1, False)


def fit_multiples(w: Tensor, fmt: WeightFormat) -> Tensor:
    """Multiple [O, G] of each group, as floats: its mean size over a sixteenth of the largest that shares its scale."""
    count = vectors(torch.ones_like(w[:1]), fmt.group).sum(2)  # padding is no weight
    sizes = vectors(w.abs(), fmt.group).sum(2) / count
    largest = sizes.amax(1, keepdim=True) if fmt.scale_per == "channel" else sizes.amax()
    return (LARGEST * sizes / largest.clamp_min(MIN_SCALE)).round().clamp_(1, LARGEST)


def spread(multiples: Tensor, group: int, shape: torch.Size) -> Tensor:
    """Multiples [O, G] -> that of each weight, [O, ...]."""
    return from_vectors(multiples[..., None].expand(-1, -1, group), shape)


class LevelQuantizer(Quantizer):
    """A linear scheme: a subclass places a weight on levels, and gives the gradients of that."""

    multiples: Tensor | None

    def __init__(self, fmt: WeightFormat, weight: Tensor, recipe: Recipe = DEFAULT):
        super().__init__(fmt, recipe)
        require_finite(weight)
        self.levels = levels_of(fmt)
        self.register_buffer("multiples", fit_multiples(weight.detach().float(), fmt) if fmt.group else None)

    @abstractmethod
    def place(self, x: Tensor) -> Projected:
        """Levels [O, ...] of a weight without groups, their step [O] or [1], and what the gradients need."""

    @abstractmethod
    def placed_gradients(self, grad: Tensor, saved: Any) -> tuple[Tensor, ...]:
        """Of the weight without groups, and of `trained()`."""

    def shares(self, shape: torch.Size) -> Tensor | None:
        """m / 16 of each weight; None without groups."""
        return None if self.multiples is None else spread(self.multiples / LARGEST, self.fmt.group, shape)

    def levelled(self, w: Tensor) -> Tensor:
        """The weight with its groups brought to one size."""
        shares = self.shares(w.shape)
        return w if shares is None else w / shares

    def held_step(self) -> Tensor | None:
        """The step that belongs to the held scale."""
        return self.held if self.held is None or self.multiples is None else self.held * LARGEST

    def project(self, w: Tensor) -> Projected:
        shares = self.shares(w.shape)
        if shares is None:
            return self.place(w)
        levels, step, saved = self.place(w / shares)
        return Projected(levels * (shares * LARGEST), step / LARGEST, saved)

    def encode_rotated(self, w: Tensor) -> Encoded:
        integers, step, _ = self.place(self.levelled(w))
        codes = vectors(self.levels.codes(integers), 1).flatten(1)
        if self.multiples is None:
            return Encoded(self.fmt, tuple(w.shape), codes, step.clone())
        return Encoded(self.fmt, tuple(w.shape), codes, step / LARGEST, self.multiples.long())

    def gradients(self, grad: Tensor, saved: Any) -> tuple[Tensor, ...]:
        with without_autocast(grad):
            shares = self.shares(grad.shape)
            if shares is None:
                return self.placed_gradients(grad.float(), saved)
            weight, *parameters = self.placed_gradients(grad.float() * shares, saved)
            return weight / shares, *parameters

    def refresh(self, w: Tensor) -> None:
        """Fits the multiples of the groups anew."""
        if self.multiples is not None:
            self.multiples.copy_(fit_multiples(w.detach().float(), self.fmt))

    def statistics(self, w: Tensor) -> dict[str, float]:
        """Share of codes in use and their perplexity."""
        num_codes = 1 << self.fmt.code_bits
        return utilisation(self.encode(w).codes & (num_codes - 1), num_codes)
