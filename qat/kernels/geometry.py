"""How a weight is cut into vectors, turned, scaled, summed.

Shapes: w [O, C/g, kh, kw] or [O, I]; vectors [R, n, d] as `workloads.codec` cuts them (zero-padded rows)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from math import prod

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from qat.kernels.sums import whole_sum
from workloads.format import WeightFormat
from workloads.rotation import rotate

MAX_WEIGHT = 1e15
MIN_SCALE = 2.0**-30  # a channel of zeros still has a positive scale, so that requantization can divide


def without_autocast(values: Tensor) -> AbstractContextManager[object]:
    """Full precision where these values are; costs nothing where nobody asked for less."""
    kind = values.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


@cache
def _rotation(block: int, inputs: int) -> Tensor:
    """Blocks [I / B, B, B] of the rotation, as a matrix each that multiplies a row of inputs from the right."""
    whole = rotate(np.eye(inputs, dtype=np.float32), block)
    return torch.from_numpy(np.stack([whole[i : i + block, i : i + block] for i in range(0, inputs, block)]))


def rotated(w: Tensor, block: int) -> Tensor:
    """The weight [O, ...] whose rows, in im2col order, went through the rotation of workloads.rotation."""
    return _turned(w, block, _rotation(block, w[0].numel())) if block else w


def unrotated(w: Tensor, block: int) -> Tensor:
    """Inverse of `rotated`; exact for small integers times a power of two."""
    return _turned(w, block, _rotation(block, w[0].numel()).mT / block) if block else w


def _turned(w: Tensor, block: int, matrices: Tensor) -> Tensor:
    rows = vectors(w, block).transpose(0, 1)  # [I / B, O, B]
    return from_vectors(torch.bmm(rows, matrices.to(w.device)).transpose(0, 1), w.shape)


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
    """Scale [O] or [1] shaped to multiply a weight [O, ...]."""
    return scale.view(-1, *[1] * (w.dim() - 1))


def channel_sums(values: Tensor, fmt: WeightFormat) -> Tensor:
    """Sum over all that shares a float scale: values [O, ...] -> [O], or [1] if the tensor has one scale."""
    rows = values.flatten(1)
    sums = whole_sum(rows)[None] if len(rows) == 1 else rows.sum(1)  # torch cuts a single row over threads
    return sums if fmt.scale_per == "channel" else whole_sum(sums)[None]


def root_mean_square(w: Tensor, fmt: WeightFormat) -> Tensor:
    """Root mean square of all weights that share a float scale, [O] or [1]; positive."""
    count = w.numel() // len(w) if fmt.scale_per == "channel" else w.numel()
    return (channel_sums(w.square(), fmt) / count).sqrt().clamp_min(MIN_SCALE)


def rows_of(w: Tensor, axis: str = "in") -> Tensor:
    """Weight [O, ...] -> the rows [R, L] that are cut into vectors."""
    if axis == "in":
        return w.movedim(1, -1).reshape(len(w), -1)
    if axis == "out":
        return w.movedim(1, -1).reshape(len(w), -1).T
    return w.reshape(len(w) if axis == "kernel" else 1, -1)


def vectors(w: Tensor, d: int, axis: str = "in") -> Tensor:
    """Weight [O, ...] -> vectors [R, n, d]; the torch twin of workloads.codec.to_vectors."""
    rows = rows_of(w, axis)
    padding = -rows.shape[1] % d
    return (functional.pad(rows, (0, padding)) if padding else rows).reshape(len(rows), -1, d)


def from_vectors(v: Tensor, shape: torch.Size, axis: str = "in") -> Tensor:
    """Inverse of `vectors`: [R, n, d], or without the padding [R, L] -> weight of `shape`."""
    outputs, channels, *kernel = shape
    rows = v.reshape(len(v), -1)
    if axis in ("kernel", "flat"):
        return rows[:, : shape.numel() // len(rows)].reshape(shape)
    rows = rows[:, : shape[1:].numel()] if axis == "in" else rows[:, :outputs].T
    return rows.reshape(outputs, *kernel, channels).movedim(-1, 1)


def is_padding(shape: torch.Size, fmt: WeightFormat) -> Tensor | None:
    """Which elements of the vectors [R, n, d] of such a weight are padding; None if there are none."""
    rows, count = fmt.code_shape(tuple(shape))
    if rows * count * fmt.vector_length == prod(shape):
        return None
    return vectors(torch.ones(shape), fmt.vector_length, fmt.axis) == 0


def require_finite(w: Tensor) -> None:
    """Raises ValueError if any weight is NaN, infinite, or so large that its square would be."""
    low, high = w.detach().aminmax()
    if not (low.item() > -MAX_WEIGHT and high.item() < MAX_WEIGHT):  # a NaN compares false
        bad = int((~(w.detach().abs() < MAX_WEIGHT)).sum())
        raise ValueError(f"weight: {bad} of {w.numel()} values: must be finite and below {MAX_WEIGHT:g}")


def utilisation(codes: Tensor, num_codes: int) -> dict[str, float]:
    """How evenly codes [..] below `num_codes` are used: share in use, and perplexity exp(entropy)."""
    counts = torch.bincount(codes.flatten(), minlength=num_codes).double()
    share = counts[counts > 0] / counts.sum()
    return {
        "used_share": float((counts > 0).double().mean()),
        "perplexity": float(torch.exp(-(share * share.log()).sum())),
    }
