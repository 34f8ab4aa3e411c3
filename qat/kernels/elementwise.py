"""Fake quantization of a whole tensor in one pass over its memory; elsewhere than on a float32 CPU, in torch.

x_q = s * clip(floor(x / s + 1/2), low, high). Gradients as in LSQ (Esser et al., ICLR 2020, equations 3 and
5): x gets g inside the clip, else 0; the step gets the sum of g * (x_q / s - x / s) inside and of
g * (low or high) outside.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from qat.kernels.sums import whole_sum

_BLOCK = 4096  # values summed in float32 before the sum goes to float64


def fake_quantize(x: Tensor, scale: float, low: int, high: int) -> Tensor:
    """Quantizes x to the integers low .. high times `scale`, half rounded up."""
    if not _is_simple(x):
        return fake_quantize_torch(x, scale, low, high)
    x, out = x.detach(), torch.empty_like(x)
    _quantize(_flat(x), np.float32(scale), low, high, _flat(out))
    return out


def fake_quantize_torch(x: Tensor, scale: float, low: int, high: int) -> Tensor:
    """The plain twin of `fake_quantize`, for any device and type."""
    return (x / scale).add_(0.5).floor_().clamp_(low, high) * scale


def fake_quantize_gradient(grad: Tensor, x: Tensor, scale: float, low: int, high: int) -> tuple[Tensor, Tensor]:
    """Gradient of x, and of the scale (a scalar, before any gradient scale)."""
    if not (_is_simple(x) and _is_simple(grad)):
        return fake_quantize_gradient_torch(grad, x, scale, low, high)
    if grad.stride() != x.stride():
        grad = torch.empty_like(x).copy_(grad)
    grad_x = torch.empty_like(x)
    slope = _gradient(_flat(grad), _flat(x.detach()), np.float32(scale), (low, high), _flat(grad_x))
    return grad_x, torch.tensor(slope, dtype=x.dtype)


def fake_quantize_gradient_torch(grad: Tensor, x: Tensor, scale: float, low: int, high: int) -> tuple[Tensor, Tensor]:
    """The plain twin of `fake_quantize_gradient`."""
    ratio = x / scale
    is_inside = (ratio >= low) & (ratio <= high)
    integers = (ratio + 0.5).floor_().clamp_(low, high)
    return grad * is_inside, whole_sum(grad * (integers - ratio * is_inside))


def _is_simple(x: Tensor) -> bool:
    """Float32 on the CPU and without holes, so that its memory can be read as one row."""
    is_dense = x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
    return is_dense and x.dtype == torch.float32 and x.device.type == "cpu"


def _flat(x: Tensor) -> np.ndarray:
    return x.as_strided((x.numel(),), (1,)).numpy()


@njit(cache=True, error_model="numpy")
def _quantize(x, scale, low, high, out):
    low, high, half = np.float32(low), np.float32(high), np.float32(0.5)
    for i in range(len(x)):
        integer = np.floor(x[i] / scale + half)
        out[i] = min(max(integer, low), high) * scale


@njit(cache=True, error_model="numpy", fastmath={"reassoc"})
def _block_gradient(grad, x, scale, bounds, grad_x):
    (low, high), total = bounds, np.float32(0)
    for i in range(len(x)):
        ratio = x[i] / scale
        integer = min(max(np.floor(ratio + np.float32(0.5)), low), high)
        is_inside = (ratio >= low) & (ratio <= high)
        grad_x[i] = grad[i] if is_inside else np.float32(0)
        total += grad[i] * (integer - (ratio if is_inside else np.float32(0)))
    return total


@njit(cache=True)
def _gradient(grad, x, scale, bounds, grad_x):
    bounds, total = (np.float32(bounds[0]), np.float32(bounds[1])), 0.0
    for start in range(0, len(x), _BLOCK):  # slices, because indices that may be negative do not vectorise
        part = slice(start, start + _BLOCK)
        total += _block_gradient(grad[part], x[part], scale, bounds, grad_x[part])
    return total
