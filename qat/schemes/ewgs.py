"""Linear quantization with element-wise gradient scaling (EWGS, Lee et al., CVPR 2021).

x_n = clip((w - l) / (u - l), 0, 1), x_q = round((2^b - 1) x_n) / (2^b - 1), w_q = a (2 x_q - 1): odd levels, with
step a / (2^b - 1). Of the bounds l, u and the output scale a, all learned, each output has its own, or the tensor
(`-t`, as published). Where all integers are levels, they stand for x_q so that the last negative one is -a.
Gradients: g_n = g_q (1 + d sign(g_q) (x_n - x_q)), g_q that of x_q; the rest is the derivative of the formulas,
with that of the clip 0 outside. d (`delta`) is fixed, or follows the Hessian (`qat.training.ewgs.update_deltas`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from qat.kernels.geometry import MIN_SCALE, channel_sums, per_channel, root_mean_square
from qat.kernels.sums import whole_mean
from qat.quantizer import Projected
from qat.recipe import DEFAULT, Recipe
from qat.schemes.common.levels import LevelQuantizer
from workloads.format import WeightFormat

SIGMAS = 3  # the bounds at the start


class _Saved(NamedTuple):
    x: Tensor
    normal: Tensor  # x_n
    integers: Tensor
    lower: Tensor
    width: Tensor
    step: Tensor


class EwgsQuantizer(LevelQuantizer):
    """`lower`, `upper` and `output_scale`, [O] or [1] each; `delta` is a scalar."""

    delta: Tensor

    def __init__(self, fmt: WeightFormat, weight: Tensor, recipe: Recipe = DEFAULT, book: None = None):
        super().__init__(fmt, weight, recipe)
        x, levels = self.levelled(weight.detach().float()), self.levels
        bound = SIGMAS * _deviation(x, fmt)
        self.size = max(levels.high, -levels.low)  # of the level that stands for the output scale
        self.lower = nn.Parameter(bound * (levels.low / self.size))
        self.upper = nn.Parameter(bound * (levels.high / self.size))
        self.output_scale = nn.Parameter(torch.ones_like(bound))
        self.register_buffer("delta", torch.tensor(recipe.ewgs_factor))
        placed = self.place(x)
        quantized = placed.integers * per_channel(placed.scale, x)
        self.match(x.flatten(1).norm(dim=1), quantized.flatten(1).norm(dim=1))

    def match(self, sizes: Tensor, quantized: Tensor) -> None:
        """Output scale times E|o| / E|o_q|: mean sizes [O] of the outputs with the float and the quantized weight.

        At the start the inputs are taken as white: an output is then of the size of its weights' norm.
        """
        ratio = channel_sums(sizes[:, None], self.fmt) / channel_sums(quantized[:, None], self.fmt).clamp_min(MIN_SCALE)
        self.output_scale.data.abs_().mul_(ratio).clamp_(min=MIN_SCALE * self.size)

    def ranges(self) -> tuple[Tensor, Tensor, Tensor]:
        """Lower bound, upper less lower bound, and step; while held, the bounds are the outermost values."""
        if (step := self.held_step()) is not None:
            return step * self.levels.low, step * (self.levels.high - self.levels.low), step
        lower = self.lower.detach()
        width = (self.upper.detach() - lower).clamp_min(MIN_SCALE)
        return lower, width, (self.output_scale.detach().abs() / self.size).clamp_min(MIN_SCALE)

    def place(self, x: Tensor) -> Projected:
        lower, width, step = self.ranges()
        normal = ((x - per_channel(lower, x)) / per_channel(width, x)).clamp_(0, 1)
        integers = (normal * self.levels.last).round_() * (1 + self.levels.is_odd) + self.levels.low
        return Projected(integers, step, _Saved(x, normal, integers, lower, width, step))

    def trained(self) -> tuple[nn.Parameter, ...]:
        return (self.lower, self.upper, self.output_scale) if self.held is None else ()

    def placed_gradients(self, grad: Tensor, saved: _Saved) -> tuple[Tensor, ...]:
        x, normal, width = saved.x, saved.normal, per_channel(saved.width, grad)
        lower = per_channel(saved.lower, x)
        is_inside = (x >= lower) & (x <= lower + width)
        span = self.levels.high - self.levels.low
        error = normal - (saved.integers - self.levels.low) / span
        of_quantized = grad * per_channel(saved.step, grad) * span
        of_normal = of_quantized * (1 + self.delta * of_quantized.sign() * error) * is_inside
        weight = of_normal / width
        if not self.trained():
            return (weight,)
        lower_grad = channel_sums(weight * (normal - 1), self.fmt)
        upper_grad = channel_sums(-weight * normal, self.fmt)
        scale_grad = channel_sums(grad * saved.integers, self.fmt) / self.size
        sign = torch.where(self.output_scale.detach() < 0, -1.0, 1.0)
        return weight, lower_grad, upper_grad, scale_grad * sign

    def set_delta(self, curvature: Tensor, grad: Tensor) -> None:
        """d = max(0, Tr(H) / N / (3 std(g))), of x_q: from the Hessian's diagonal and the gradient of this weight."""
        span, shares = self.levels.high - self.levels.low, self.shares(grad.shape)
        slope = per_channel(self.ranges()[2], grad) * span * (1 if shares is None else shares)
        curvature, grad = whole_mean(curvature * slope.square()), (grad * slope).std()
        self.delta.copy_((curvature / (SIGMAS * grad).clamp_min(1e-30)).clamp_min(0))


def _deviation(x: Tensor, fmt: WeightFormat) -> Tensor:
    """Standard deviation of all that shares a bound; of equal weights, their size."""
    rows = x.flatten(1) if fmt.scale_per == "channel" else x.reshape(1, -1)
    deviation, size = rows.std(1, correction=0), root_mean_square(x, fmt)
    return torch.where(deviation > MIN_SCALE, deviation, size)
