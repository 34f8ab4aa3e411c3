"""Where to clip a sample of activations: by least squares, in closed form (ACIQ), or at three deviations (EWGS)."""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt

import torch
from torch import Tensor

from qat.kernels.geometry import MIN_SCALE
from qat.kernels.sums import whole_mean

_NUM_STEPS = 48  # tried between 1/20 of the full-range step and the full-range step
_CLIPS = torch.linspace(0.2, 12, 4721, dtype=torch.float64)  # in units of the density's own


def searched_step(values: Tensor, bounds: tuple[int, int]) -> Tensor:
    """The step with the least squared error on the values, for integers within the bounds."""
    low, high = bounds
    full = torch.maximum(values.max() / max(high, 1), values.min() / (low or 1)).clamp_min(MIN_SCALE)
    if float(values.abs().max()) == 0:
        return torch.tensor(1.0 / max(high, 1))
    steps = full * torch.logspace(-1.3, 0, _NUM_STEPS)
    errors = [_error(values, s, bounds) for s in steps]
    return steps[int(torch.stack(errors).argmin())]


def aciq_step(values: Tensor, bounds: tuple[int, int]) -> Tensor:
    """The step of the best clip of a Laplace or a normal density, whichever serves the values better.

    Banner et al., NeurIPS 2019. Unsigned values are taken as one half of a density with mean 0, and their zeros
    as its other half: what is fitted is the positive ones.
    """
    low, high = bounds
    sizes = values[values != 0].abs().double()
    if not len(sizes):
        return torch.tensor(1.0 / max(high, 1))
    levels = high - low + 1 if low else 2 * (high + 1)  # of the whole density
    clips = (laplace_clip(levels) * whole_mean(sizes), normal_clip(levels) * whole_mean(sizes.square()).sqrt())
    steps = [(2 * clip / levels).float().clamp_min(MIN_SCALE) for clip in clips]
    return min(steps, key=lambda step: float(_error(values, step, bounds)))


def sigma_step(values: Tensor, bounds: tuple[int, int]) -> Tensor:
    """The step that clips at three standard deviations, unsigned values taken as half of a normal density.

    As EWGS starts (Lee, Kim and Ham, CVPR 2021). Values that are all equal get their `searched_step`.
    """
    low, high = bounds
    deviation = values.std(correction=0)
    if deviation <= 1e-6 * values.abs().max():
        return searched_step(values, bounds)
    return (3 * (deviation if low else deviation / sqrt(1 - 2 / pi)) / max(high, 1)).clamp_min(MIN_SCALE)


STEPS: dict[str, Callable[[Tensor, tuple[int, int]], Tensor]] = {  # by `Recipe.calibration`
    "search": searched_step,
    "aciq": aciq_step,
    "sigma": sigma_step,
}


def laplace_clip(levels: int) -> float:
    """Best clip of a Laplace density for this many levels over both signs, in units of its mean size."""
    return _best_clip(2 * torch.exp(-_CLIPS), levels)


def normal_clip(levels: int) -> float:
    """Best clip of a normal density for this many levels over both signs, in standard deviations."""
    tails = (_CLIPS.square() + 1) * torch.erfc(_CLIPS / sqrt(2))
    return _best_clip(tails - sqrt(2 / pi) * _CLIPS * torch.exp(-_CLIPS.square() / 2), levels)


def _best_clip(clipping: Tensor, levels: int) -> float:
    """The clip with the least squared error: what is clipped, and step^2 / 12 with a step of 2 clips / levels."""
    rounding = (2 * _CLIPS / levels).square() / 12
    return float(_CLIPS[int((clipping + rounding).argmin())])


def _error(values: Tensor, step: Tensor, bounds: tuple[int, int]) -> Tensor:
    return whole_mean(((values / step + 0.5).floor().clamp(*bounds) * step - values).square())
