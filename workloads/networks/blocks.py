"""Building blocks that several networks share."""

from __future__ import annotations

from torch import Tensor, nn


class Add(nn.Module):
    """The sum of two tensors of one shape, as a module that hooks can see."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b
