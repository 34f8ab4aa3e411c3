"""Fake quantization of a weight with one step per output, in one pass over its memory; elsewhere in torch.

w_q = s z, z the level nearest to w / s, between `low` and `high`: integers (ties to even), or odd integers
(ties up). Gradients as in LSQ (Esser et al., ICLR 2020, equations 3 and 5): w gets g inside the levels' range,
else 0; the step of an output gets the sum of g (z - w / s) inside and of g z outside.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from qat.kernels.sums import whole_sum

_BLOCK = 4096  # values summed in float32 before the sum goes to float64


class Levels(NamedTuple):
    """The integers a code can mean: all, or all odd ones, from `low` to `high`."""

    low: int
    high: int
    is_odd: bool

    @property
    def last(self) -> int:
        """Number of the highest level, the lowest being 0: 2^b - 1."""
        return (self.high - self.low) >> int(self.is_odd)

    def nearest(self, ratio: Tensor) -> Tensor:
        """The level nearest to each ratio; ties go to even integers, or up to the next odd one."""
        nearest = (ratio / 2).floor_().mul_(2).add_(1) if self.is_odd else ratio.round()
        return nearest.clamp_(self.low, self.high)

    def codes(self, integers: Tensor) -> Tensor:
        """What is stored for each level, int64."""
        return integers.long() >> int(self.is_odd)


def quantize_rows(w: Tensor, scale: Tensor, levels: Levels) -> Tensor:
    """Quantizes w [O, ...] with the scale [O] of each output, or [1]; the layout in memory stays."""
    if not is_simple(w):
        return quantize_rows_torch(w, scale, levels)
    out = torch.empty_like(w)
    _quantize(_rows(w.detach()), _scales(scale, w), tuple(levels), _rows(out))
    return out


def quantize_rows_torch(w: Tensor, scale: Tensor, levels: Levels) -> Tensor:
    """The plain twin of `quantize_rows`, for any device and type."""
    scale = scale.view(-1, *[1] * (w.dim() - 1))
    return levels.nearest(w / scale) * scale


def rows_gradient(grad: Tensor, w: Tensor, scale: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
    """Gradient of w [O, ...], and of the step of each output [O] (before any gradient scale)."""
    if not (is_simple(w) and is_simple(grad)):
        return rows_gradient_torch(grad, w, scale, levels)
    if grad.stride() != w.stride():
        grad = torch.empty_like(w).copy_(grad)
    grad_w = torch.empty_like(w)
    slope = _gradient(_rows(grad), _rows(w.detach()), _scales(scale, w), tuple(levels), _rows(grad_w))
    return grad_w, torch.from_numpy(slope)


def rows_gradient_torch(grad: Tensor, w: Tensor, scale: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
    """The plain twin of `rows_gradient`."""
    ratio = w / scale.view(-1, *[1] * (w.dim() - 1))
    is_inside = (ratio >= levels.low) & (ratio <= levels.high)
    slope = levels.nearest(ratio) - ratio * is_inside
    return grad * is_inside, (grad * slope).flatten(1).sum(1)


def dot(a: Tensor, b: Tensor) -> float:
    """Sum of a * b over all weights [O, ...], in an order that does not depend on the number of threads."""
    if not (is_simple(a) and is_simple(b)) or a.stride() != b.stride():
        return float(whole_sum(a * b))
    return float(_dot(_rows(a.detach()), _rows(b.detach())))


def is_simple(w: Tensor) -> bool:
    """Float32 on the CPU and without holes, outputs outermost, so that each output is one row of memory."""
    is_dense = w.is_contiguous() or (w.dim() == 4 and w.is_contiguous(memory_format=torch.channels_last))
    return is_dense and w.dtype == torch.float32 and w.device.type == "cpu"


def _rows(w: Tensor) -> np.ndarray:
    length = w.numel() // len(w)
    return w.as_strided((len(w), length), (length, 1)).numpy()


def _scales(scale: Tensor, w: Tensor) -> np.ndarray:
    return scale.detach().expand(len(w)).contiguous().numpy()


@njit(cache=True, error_model="numpy")
def _quantize_whole(x, scale, low, high, out):
    for i in range(len(x)):
        out[i] = min(max(np.rint(x[i] / scale), low), high) * scale


@njit(cache=True, error_model="numpy")
def _quantize_odd(x, scale, low, high, out):
    half, one, two = np.float32(0.5), np.float32(1), np.float32(2)
    for i in range(len(x)):
        out[i] = min(max(np.floor(x[i] / scale * half) * two + one, low), high) * scale


@njit(cache=True)
def _quantize(x, scale, levels, out):
    low, high, is_odd = np.float32(levels[0]), np.float32(levels[1]), levels[2]
    for o in range(len(x)):
        if is_odd:
            _quantize_odd(x[o], scale[o], low, high, out[o])
        else:
            _quantize_whole(x[o], scale[o], low, high, out[o])


@njit(cache=True, error_model="numpy", fastmath={"reassoc"})
def _whole_gradient(grad, x, scale, bounds, grad_x):
    (low, high), total, zero = bounds, np.float32(0), np.float32(0)
    for i in range(len(x)):
        ratio = x[i] / scale
        is_inside = (ratio >= low) & (ratio <= high)
        grad_x[i] = grad[i] if is_inside else zero
        total += grad[i] * (min(max(np.rint(ratio), low), high) - (ratio if is_inside else zero))
    return total


@njit(cache=True, error_model="numpy", fastmath={"reassoc"})
def _odd_gradient(grad, x, scale, bounds, grad_x):
    (low, high), total, zero = bounds, np.float32(0), np.float32(0)
    half, one, two = np.float32(0.5), np.float32(1), np.float32(2)
    for i in range(len(x)):
        ratio = x[i] / scale
        is_inside = (ratio >= low) & (ratio <= high)
        grad_x[i] = grad[i] if is_inside else zero
        integer = min(max(np.floor(ratio * half) * two + one, low), high)
        total += grad[i] * (integer - (ratio if is_inside else zero))
    return total


@njit(cache=True)
def _gradient(grad, x, scale, levels, grad_x):
    """Slope of each row [O]; fills `grad_x`."""
    bounds, is_odd, slope = (np.float32(levels[0]), np.float32(levels[1])), levels[2], np.empty(len(x), np.float32)
    for o in range(len(x)):
        total = 0.0
        for start in range(0, x.shape[1], _BLOCK):
            part = slice(start, start + _BLOCK)
            if is_odd:
                total += _odd_gradient(grad[o, part], x[o, part], scale[o], bounds, grad_x[o, part])
            else:
                total += _whole_gradient(grad[o, part], x[o, part], scale[o], bounds, grad_x[o, part])
        slope[o] = total
    return slope


@njit(cache=True)
def _dot(a, b):
    total = 0.0
    for o in range(len(a)):
        for start in range(0, a.shape[1], _BLOCK):
            total += _block_dot(a[o, start : start + _BLOCK], b[o, start : start + _BLOCK])
    return total


@njit(cache=True, fastmath={"reassoc", "contract"})
def _block_dot(a, b):
    total = np.float32(0)
    for i in range(len(a)):
        total += a[i] * b[i]
    return total
