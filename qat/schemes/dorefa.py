"""DoReFa-Net weights (Zhou et al., 2016): tanh brings all weights of a layer into one range.

w_q = a (2 round((2^b - 1) (t / (2 T) + 1/2)) / (2^b - 1) - 1), t = tanh w, T = max|t| over the layer: odd levels.
Where all integers are levels: w_q = a round(Q t / T) / Q, Q = 2^(b-1) - 1. One bit: sign(w) mean|w|.
The paper has a = 1 and leaves sizes to batch norm; here a is fitted once, by least squares over the layer, so
that pretrained networks without batch norm keep their magnitudes. Gradient: of the formula without its rounding,
through T too; straight through for one bit. A decoded weight need not encode to itself.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from qat.kernels.geometry import MIN_SCALE
from qat.kernels.sums import whole_mean, whole_sum
from qat.quantizer import Projected
from qat.recipe import DEFAULT, Recipe
from qat.schemes.common.levels import LevelQuantizer
from workloads.format import WeightFormat


class _Saved(NamedTuple):
    tanh: Tensor
    step: Tensor


class DorefaQuantizer(LevelQuantizer):
    """`amplitude` (a scalar buffer) is the value of the last level."""

    amplitude: Tensor

    def __init__(self, fmt: WeightFormat, weight: Tensor, recipe: Recipe = DEFAULT, book: None = None):
        if fmt.group:
            raise ValueError(f"{fmt.name}: DoReFa has one range per layer: must be a format without groups")
        super().__init__(fmt, weight, recipe)
        self.register_buffer("amplitude", torch.ones(()))
        self.refresh(weight)

    def refresh(self, w: Tensor) -> None:
        """Fits the amplitude anew."""
        x, q = w.detach().float(), self.levels.high
        levels = self.place(x).integers / q
        self.amplitude.copy_(whole_sum(x * levels) / whole_sum(levels.square()).clamp_min(1e-6))

    def place(self, x: Tensor) -> Projected:
        tanh, levels = x.tanh(), self.levels
        if self.fmt.code_bits == 1:
            integers, amplitude = levels.nearest(x), whole_mean(x.abs())
        elif levels.is_odd:
            normal = tanh / (2 * _largest(tanh)) + 0.5
            integers, amplitude = (normal * levels.last).round_() * 2 + levels.low, self.amplitude
        else:
            integers, amplitude = (tanh / _largest(tanh) * levels.high).round_(), self.amplitude
        step = self.held
        if step is None:
            step = (amplitude / levels.high).clamp_min(MIN_SCALE).repeat(self.fmt.num_scales(len(x)))
        return Projected(integers, step, _Saved(tanh, step))

    def placed_gradients(self, grad: Tensor, saved: _Saved) -> tuple[Tensor, ...]:
        if self.fmt.code_bits == 1:
            return (grad,)
        tanh, largest = saved.tanh, _largest(saved.tanh)
        of_ratio = grad * saved.step.view(-1, *[1] * (grad.dim() - 1)) * self.levels.high  # of t / T
        of_tanh = of_ratio / largest
        at = int(tanh.abs().flatten().argmax())
        place = torch.unravel_index(torch.tensor(at), tanh.shape)
        of_tanh[place] -= whole_sum(of_ratio * tanh) / largest.square() * tanh[place].sign()
        return (of_tanh * (1 - tanh.square()),)


def _largest(tanh: Tensor) -> Tensor:
    return tanh.abs().max().clamp_min(MIN_SCALE)
