"""The one contract of all schemes: a quantizer is a parametrization whose output is decode(encode(weight)).

Shapes: w [O, C/g, kh, kw] or [O, I]; rows [O, I] in im2col order; vectors [O, n, d] (zero-padded rows).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from workloads.format import WeightFormat

MAX_WEIGHT = 1e15
MIN_SCALE = 2.0**-30  # a channel of zeros still has a positive scale, so that requantization can divide


class Encoded(NamedTuple):
    """A stored weight: codes int64 [O, n], scale float32 [O], scale codes int64 [O, n] in 1..2^s or None."""

    codes: Tensor
    scale: Tensor
    scale_codes: Tensor | None = None


class Quantizer(nn.Module, ABC):
    """Maps a latent weight to its quantized value; gradients are the formulas of its two methods.

    `project` returns the value and what the gradients need. Weight gradient: identity unless overridden.
    """

    def __init__(self, fmt: WeightFormat):
        super().__init__()
        self.fmt = fmt

    @abstractmethod
    def project(self, w: Tensor) -> tuple[Tensor, Any]:
        """The quantized value of a finite weight, exactly integer x scale, and what its gradients need."""

    @abstractmethod
    def encode(self, w: Tensor) -> Encoded:
        """The stored form of `w`. Raises ValueError unless all weights are finite."""

    def trained(self) -> tuple[nn.Parameter, ...]:
        """The parameters besides the weight, in the order of `parameter_gradients`."""
        return ()

    def weight_gradient(self, grad: Tensor, saved: Any) -> Tensor:
        """Gradient of the latent weight (straight through)."""
        return grad

    def parameter_gradients(self, grad: Tensor, saved: Any) -> tuple[Tensor, ...]:
        """Gradients of `trained()`."""
        return ()

    def table(self) -> Tensor | None:
        """Integers of each code, int64 [K, d], where the format has a table."""
        return None

    def refresh(self, w: Tensor) -> None:
        """Fits what depends on the weight's distribution but is not trained."""

    def forward(self, w: Tensor) -> Tensor:
        require_finite(w)
        return _Project.apply(w, self, *self.trained())  # pyright: ignore[reportReturnType]


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, quantizer: Quantizer, *parameters: Tensor) -> Tensor:
        value, ctx.saved = quantizer.project(w)
        ctx.quantizer = quantizer
        return channels_last(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        quantizer: Quantizer = ctx.quantizer
        return (
            quantizer.weight_gradient(grad, ctx.saved), None,
            *quantizer.parameter_gradients(grad, ctx.saved),
        )  # fmt: skip


def channels_last(value: Tensor) -> Tensor:
    """A weight [O, C/g, kh, kw] with the strides of channels_last; other ranks as they are.

    With one channel both layouts hold the same memory, `contiguous` leaves the strides alone, and the
    convolution would pick the slow layout from them.
    """
    if value.dim() != 4:
        return value
    _, channels, height, width = value.shape
    strides = (channels * height * width, 1, width * channels, channels)
    return value.contiguous(memory_format=torch.channels_last).as_strided(value.shape, strides)


def per_channel(scale: Tensor, w: Tensor) -> Tensor:
    """Scale [O] shaped to multiply a weight [O, ...]."""
    return scale.view(-1, *[1] * (w.dim() - 1))


def vectors(w: Tensor, d: int) -> Tensor:
    """Weight [O, ...] -> vectors [O, n, d] in im2col order; the torch twin of workloads.codec.to_vectors."""
    rows = w.movedim(1, -1).reshape(len(w), -1)
    return functional.pad(rows, (0, -rows.shape[1] % d)).view(len(w), -1, d)


def from_vectors(v: Tensor, shape: torch.Size) -> Tensor:
    """Inverse of `vectors`: [O, n, d] -> weight of `shape`."""
    outputs, channels, *kernel = shape
    rows = v.reshape(outputs, -1)[:, : shape[1:].numel()]
    return rows.reshape(outputs, *kernel, channels).movedim(-1, 1).contiguous()


def require_finite(w: Tensor) -> None:
    """Raises ValueError if any weight is NaN, infinite, or so large that its square would be."""
    if not w.detach().abs().max() < MAX_WEIGHT:  # a NaN compares false
        bad = int((~(w.detach().abs() < MAX_WEIGHT)).sum())
        raise ValueError(f"weight: {bad} of {w.numel()} values: must be finite and below {MAX_WEIGHT:g}")
