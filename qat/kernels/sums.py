"""Sums over a whole tensor in a fixed order: torch's own depends on the number of threads from 32,768 values on."""

from __future__ import annotations

import torch
from torch import Tensor

_PART = 4096  # values summed at a time: few enough that torch never divides them over threads


def whole_sum(values: Tensor) -> Tensor:
    """Sum of all values, a scalar; differentiable."""
    parts = values.flatten()
    while len(parts) > _PART:
        tail = len(parts) // _PART * _PART
        parts = torch.cat([parts[:tail].view(-1, _PART).sum(1), parts[tail:].sum(0, keepdim=True)])
    return parts.sum()


def whole_mean(values: Tensor) -> Tensor:
    """Mean of all values, a scalar; differentiable."""
    return whole_sum(values) / values.numel()
