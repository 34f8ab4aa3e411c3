"""Linear quantization with learned steps (LSQ, Esser et al., ICLR 2020).

w_q = s z, z the level nearest to w / s, clipped. Gradients (the paper's equations 3 and 5): weight g inside the
levels' range, else 0; step sum of g (z - w / s) inside, g times the first or last level outside, times
1 / sqrt(N Q) with N the weights that share the step, and Q the last level.

One bit is sign(w) mean|w|, the mean over those that share a scale (BWN of XNOR-Net, Rastegari et al., ECCV 2016):
nothing is learned, and the gradient goes straight through, as in DoReFa-Net.
"""

from __future__ import annotations

from math import sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qat.kernels.geometry import MIN_SCALE, channel_sums, per_channel
from qat.kernels.linear import is_simple, quantize_rows, rows_gradient
from qat.kernels.sums import whole_mean
from qat.quantizer import Projected
from qat.recipe import DEFAULT, Recipe
from qat.schemes.common.levels import LevelQuantizer
from workloads.format import WeightFormat

_NUM_STEPS = 48  # tried between 1/20 of the full-range step and the full-range step


class _Saved(NamedTuple):
    x: Tensor
    step: Tensor  # [O] or [1], positive
    sign: Tensor  # of the parameter


class LinearQuantizer(LevelQuantizer):
    """`step` [O] or [1] is learned, its absolute value is the step; None for one bit."""

    def __init__(self, fmt: WeightFormat, weight: Tensor, recipe: Recipe = DEFAULT, book: None = None):
        super().__init__(fmt, weight, recipe)
        x = self.levelled(weight.detach().float())
        start = (
            None
            if fmt.code_bits == 1
            else _searched_step(x, self)
            if recipe.step_init == "search"
            else _lsq_step(x, fmt)
        )
        self.step = None if start is None else nn.Parameter(start)

    def current_step(self, x: Tensor) -> Tensor:
        """Positive step, [O] or [1]."""
        if (held := self.held_step()) is not None:
            return held
        step = _mean_size(x, self.fmt) if self.step is None else self.step.detach().abs()
        return step.clamp_min(MIN_SCALE)

    def place(self, x: Tensor) -> Projected:
        step = self.current_step(x)
        return Projected(self.levels.nearest(x / per_channel(step, x)), step, self._saved(x, step))

    def value(self, w: Tensor) -> tuple[Tensor, Any]:
        if self.multiples is not None or not is_simple(w):
            return super().value(w)
        x = w.detach()
        step = self.current_step(x)
        return quantize_rows(x, step, self.levels), self._saved(x, step)

    def _saved(self, x: Tensor, step: Tensor) -> _Saved:
        return _Saved(x, step, torch.ones(1) if self.step is None else torch.where(self.step.detach() < 0, -1.0, 1.0))

    def trained(self) -> tuple[nn.Parameter, ...]:
        return () if self.step is None or self.held is not None else (self.step,)

    def placed_gradients(self, grad: Tensor, saved: _Saved) -> tuple[Tensor, ...]:
        if self.step is None:
            return (grad,)
        weight, slope = rows_gradient(grad, saved.x, saved.step, self.levels)
        if not self.trained():
            return (weight,)
        sharing = grad[0].numel() if self.fmt.scale_per == "channel" else grad.numel()
        slope = channel_sums(slope[:, None], self.fmt)
        return weight, slope * saved.sign / sqrt(sharing * self.levels.high)


def _mean_size(x: Tensor, fmt: WeightFormat) -> Tensor:
    """Mean |x| of all weights that share a step, [O] or [1]."""
    return channel_sums(x.abs(), fmt) / (x[0].numel() if fmt.scale_per == "channel" else x.numel())


def _lsq_step(x: Tensor, fmt: WeightFormat) -> Tensor:
    """The paper's 2 mean|x| / sqrt(Q) between levels, Q the number of positive ones; zeros get the others' mean.

    Odd levels are two steps apart, and none of them is zero: there zeros get the least step.
    """
    half = 1 << (fmt.code_bits - 1)
    step = _mean_size(x, fmt) / sqrt(half) if fmt.is_odd else 2 * _mean_size(x, fmt) / sqrt(half - 1)
    is_used = step > MIN_SCALE
    common = whole_mean(step[is_used]) if bool(is_used.any()) else torch.tensor(1.0 / half)
    return torch.where(is_used, step, MIN_SCALE if fmt.is_odd else common)


def _searched_step(x: Tensor, quantizer: LinearQuantizer) -> Tensor:
    """The step with the least squared error, among shares of the one that clips nothing."""
    fmt, levels = quantizer.fmt, quantizer.levels
    largest = x.abs().flatten(1).amax(1)
    full = (largest if fmt.scale_per == "channel" else largest.amax(0, keepdim=True)) / levels.high
    shares = torch.logspace(-1.3, 0, _NUM_STEPS)
    steps = [(full * share).clamp_min(MIN_SCALE) for share in shares]
    errors = [channel_sums((quantize_rows(x, step, levels) - x).square(), fmt) for step in steps]
    return torch.stack(steps).gather(0, torch.stack(errors).argmin(0, keepdim=True))[0]
