"""Gradients through a module for a fixed random upstream gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def gradients(module: nn.Module, weight: Tensor) -> tuple[Tensor, Tensor]:
    """(gradient sent back, gradient of the weight)."""
    upstream = torch.randn(weight.shape, generator=torch.Generator().manual_seed(9))
    weight = weight.clone().requires_grad_()
    module(weight).backward(upstream)
    assert weight.grad is not None
    return upstream, weight.grad
