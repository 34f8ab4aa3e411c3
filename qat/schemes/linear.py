"""Linear quantization with a learned step per output channel (LSQ, Esser et al., ICLR 2020).

w_q = s * round(clip(w / s, -Q_N, Q_P)), Q_N = 2^(b-1), Q_P = 2^(b-1) - 1. Gradients (the paper's
equations 3 and 5): weight g inside the clip, else 0; step sum of g * (round(w/s) - w/s) inside, -Q_N or
Q_P outside, times 1 / sqrt(N * Q_P) with N the weights of one channel.
"""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qat.recipe import DEFAULT, Recipe
from qat.quantizer import MIN_SCALE, Encoded, Projected, Quantizer, per_channel, require_finite, vectors
from workloads.format import WeightFormat


class _Saved(NamedTuple):
    codes: Tensor  # w / s rounded and clipped
    is_inside: Tensor  # whether w / s was inside the clip
    slope: Tensor  # d w_q / d s
    sign: Tensor  # of the step parameter, [O]


class LinearQuantizer(Quantizer):
    """`step` [O] is learned; its absolute value is the scale."""

    def __init__(self, fmt: WeightFormat, weight: Tensor, recipe: Recipe = DEFAULT, book: None = None):
        super().__init__(fmt, recipe)
        self.q_n, self.q_p = 2 ** (fmt.code_bits - 1), 2 ** (fmt.code_bits - 1) - 1
        require_finite(weight)
        self.step = nn.Parameter(_initial_step(weight.detach(), self.q_p))

    def scale(self) -> Tensor:
        """Positive step per output channel, [O]."""
        return self.step.detach().abs().clamp_min(MIN_SCALE)

    def project(self, w: Tensor) -> Projected:
        scale = per_channel(self.scale(), w)
        ratio = w / scale
        codes = ratio.round().clamp_(-self.q_n, self.q_p)
        is_inside = (ratio >= -self.q_n) & (ratio <= self.q_p)
        sign = torch.where(self.step.detach() < 0, -1.0, 1.0)
        return Projected(codes, self.scale(), _Saved(codes, is_inside, codes - ratio.mul_(is_inside), sign))

    def encode_rotated(self, w: Tensor) -> Encoded:
        codes = self.project(w).integers
        return Encoded(self.fmt, tuple(w.shape), vectors(codes, 1).flatten(1).long(), self.scale().clone())

    def trained(self) -> tuple[nn.Parameter, ...]:
        return (self.step,)

    def weight_gradient(self, grad: Tensor, saved: _Saved) -> Tensor:
        return grad * saved.is_inside

    def parameter_gradients(self, grad: Tensor, saved: _Saved) -> tuple[Tensor, ...]:
        per_channel_sum = (grad * saved.slope).flatten(1).sum(1)
        return (per_channel_sum * saved.sign / sqrt(grad[0].numel() * self.q_p),)


def _initial_step(weight: Tensor, q_p: int) -> Tensor:
    """2 * mean|w| / sqrt(Q_P) per channel; channels of zeros get the mean of the others."""
    step = 2 * weight.abs().flatten(1).mean(1) / sqrt(q_p)
    is_used = step > MIN_SCALE
    common = step[is_used].mean() if bool(is_used.any()) else torch.tensor(1.0 / q_p)
    return torch.where(is_used, step, common)
